"""Edits whose virtual tokens weigh twice as much in one layer, to see who notices."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from typing_extensions import override

from jaxprefix.attention import VirtualTokens
from jaxprefix.edits import Context, Edits, LayerEdit, edit


@edit
class Upweighted(LayerEdit):
    """Another edit with the masses of its virtual tokens multiplied by `factor`, one for each layer."""

    inner: Any
    factor: Float[Array, "*L"]

    @override
    def virtual_tokens(self, x: Float[Array, "B T D"], ctx: Context) -> VirtualTokens | None:
        tokens = self.inner.virtual_tokens(x, ctx)
        if tokens is None:
            return None
        mass = jnp.ones(tokens.length) if tokens.mass is None else tokens.mass
        return dataclasses.replace(tokens, mass=self.factor * mass)


def _of_inner(hook: str) -> Any:
    def call(self: Upweighted, *args: Any) -> Any:
        return getattr(self.inner, hook)(*args)

    return call


for _hook, _default in vars(LayerEdit).items():
    if _hook.startswith("_") or _hook == "virtual_tokens" or not inspect.isfunction(_default):
        continue
    setattr(Upweighted, _hook, _of_inner(_hook))


def upweight_virtual_tokens(edits: Edits, layer: int) -> Edits:
    """The same edits, with virtual tokens of twice the mass in a layer."""

    def made(layer_edit: LayerEdit) -> Upweighted:
        layers = jax.tree.leaves(layer_edit)[0].shape[0]
        return Upweighted(layer_edit, jnp.ones(layers).at[layer].set(2.0))

    return dataclasses.replace(edits, layers=tuple(made(layer_edit) for layer_edit in edits.layers))


def last_with_virtual_tokens(edits: Edits, mask: Bool[Array, "B T"], hidden: Float[np.ndarray, "B T D"]) -> int | None:
    """The last layer in which some virtual token has a mass above 0, or None."""
    ctx = Context.of(mask, jnp.zeros(mask.shape, jnp.int32))

    @jax.jit
    def heaviest(layer_edit: LayerEdit, layer: Array) -> Array:
        tokens = jax.tree.map(lambda leaf: leaf[layer], layer_edit).virtual_tokens(jnp.asarray(hidden), ctx)
        if tokens is None or tokens.mass is None:
            return jnp.float32(tokens is not None)
        return tokens.mass.max()

    for layer_edit in edits.layers:
        for layer in reversed(range(jax.tree.leaves(layer_edit)[0].shape[0])):
            if heaviest(layer_edit, jnp.int32(layer)) > 0:
                return layer
    return None
