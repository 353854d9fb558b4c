"""How keys and values become the leaves of a prefix method: as they are, under gates, or through an MLP."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods.base import make_edits
from jaxprefix.methods.prefix import PrefixMethod, slots, spread
from jaxprefix.methods.prefix_edits import GatedPrefix, Prefix
from jaxprefix.trees import Tree


def place(
    method: PrefixMethod,
    params: Tree,
    dims: Dims,
    keys: Float[Array, "L P K E"],
    values: Float[Array, "L P K E"],
) -> Tree:
    """The method's leaves with which its layers get these keys and values; gates and masses stay as they are.

    A layer with fewer than P virtual tokens takes the first of them. Under gates both are divided by what the gates
    are at a hidden state of 0, so that they come out as they went in where the gates read nothing of the hidden state
    (`gate_std=0`, `gate_source="none"`, no token gate), and nearly so where they read little. An MLP keeps its hidden
    layer, and its last map becomes the one of least squares, with the smallest norm: exact where the MLP is at least as
    wide as the prefix is long, up to the rounding of float32 in a map whose inputs may be nearly equal.

    Args:
      method: P-Tuning v2, prefix-tuning, Adaptive Prefix Tuning, or a subclass with their leaves.
      params: its leaves as they were drawn.
      dims: of the backbone.
      keys: P is the method's largest number of tokens in a layer.
      values: as many.

    Raises:
      UserError: a gate at a hidden state of 0 is 0.
    """
    lengths = method.layer_lengths(dims)
    layer, token = slots(lengths)
    (prefix,) = make_edits(method, params, dims).layers
    assert isinstance(prefix, Prefix)  # what a prefix method makes
    gate = gate_at_zero(prefix)[layer, token, None, None]
    if not (np.asarray(gate) != 0).all():
        raise UserError(f"a gate of {type(method).__name__} is 0, under which no key can be; draw it anew.")
    flat = {"keys": keys[layer, token] / gate, "values": values[layer, token] / gate}
    if "keys" in params:
        return {**params, **flat}
    kept = np.flatnonzero(lengths)
    both = jnp.stack([spread(leaf, lengths)[kept] for leaf in flat.values()], axis=1)  # [layers kept, 2, P, K, E]
    table = both.transpose(2, 0, 1, 3, 4).reshape(both.shape[2], -1)
    return {**params, **last_map(params, table)}


def gate_at_zero(prefix: Prefix) -> Float[Array, "L P"]:
    """What keys and values are scaled by where the hidden state is 0; 1 without gates."""
    gate = jnp.ones(prefix.keys.shape[:2])
    if not isinstance(prefix, GatedPrefix):
        return gate
    if prefix.gate_bias is not None:
        gate = jax.nn.sigmoid(prefix.gate_bias)
    elif prefix.gate_kernel is not None:
        gate = gate / 2
    return gate if prefix.gate_scale is None else gate * prefix.gate_scale[:, None]


def last_map(params: Tree, table: Float[Array, "P columns"]) -> Tree:
    """`down_kernel` and `down_bias` with which the hidden layer as it is makes the table, by least squares, float64."""
    wide = {name: np.asarray(params[name], np.float64) for name in ("embedding", "up_kernel", "up_bias")}
    hidden = np.tanh(wide["embedding"] @ wide["up_kernel"] + wide["up_bias"])
    centre, target = hidden.mean(0), np.asarray(table, np.float64)
    mean = target.mean(0)
    kernel, *_ = np.linalg.lstsq(hidden - centre, target - mean, rcond=None)
    return {
        "down_kernel": jnp.asarray(kernel, jnp.float32),
        "down_bias": jnp.asarray(mean - centre @ kernel, jnp.float32),
    }
