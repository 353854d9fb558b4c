"""How methods make their leaves: published initialisations, and leaves of some layers spread over all of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError


def folded_normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """`0.01 fmod(z, 2)` of standard normal z, the "truncated Gaussian" of the published inducer code: values beyond two
    are folded towards zero, not clipped (standard deviation 0.00866)."""
    return 0.01 * jnp.fmod(jax.random.normal(key, shape, dtype), 2.0)


def he_uniform(bound_of: float = 1.0) -> Any:
    """torch's `kaiming_uniform_` with slope sqrt(5) for a matrix of rows `[..., out, in]`: U(-1/sqrt(in), 1/sqrt(in)),
    times `bound_of`."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = bound_of * shape[-1] ** -0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def chosen_layers(method: Any, dims: Dims) -> tuple[int, ...]:
    """The indices of the layers that a method's field `layers` means; refuses those that the backbone has not."""
    layers = tuple(range(dims.layers)) if method.layers is None else method.layers
    if not layers or len(set(layers)) != len(layers) or not all(0 <= i < dims.layers for i in layers):
        raise UserError(
            f"{type(method).__name__} has layers = {method.layers}; give different indices from 0 to "
            f"{dims.layers - 1}, at least one."
        )
    return tuple(sorted(layers))


def in_layers(leaves: Any, method: Any, dims: Dims) -> Any:
    """Leaves of the chosen layers as stacks over all layers, with zeros in the others."""
    layers = chosen_layers(method, dims)
    if len(layers) == dims.layers:
        return leaves
    return jax.tree.map(
        lambda leaf: jnp.zeros((dims.layers, *leaf.shape[1:]), leaf.dtype).at[jnp.array(layers)].set(leaf), leaves
    )
