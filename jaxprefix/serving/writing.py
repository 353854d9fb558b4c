"""Many adapters write at once: every row of a batch decodes with its own, in one compiled loop."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprefix.edits import Edits
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.loop import Generated, decode, unstack
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.cache import Cache
from jaxprefix.models.heads import CausalLM
from jaxprefix.models.stack import should_unroll
from jaxprefix.trees import Tree


@functools.partial(jax.jit, static_argnums=(0, 1))
def bank_generate(
    decoder: Module, decoding: Decoding, stacks: Tree, frozen: Tree, batch: Tree, which: Any, key: Array | None
) -> Generated:
    """Greedy or drawn tokens, row i with the leaves at `which[i]` of the stacks; each row has a cache of its own."""
    rows, columns = batch["input_ids"].shape
    unrolled = should_unroll(decoder.unroll, decoder.dims.layers)
    layers = unstack(frozen["layers"], decoder.dims.layers) if unrolled else None
    params = {name: frozen[name] for name in decoder.parts}
    leaves = jax.tree.map(lambda stack: jnp.take(stack, which, axis=0, mode="clip"), stacks)
    one = Cache.empty(decoder.dims, 1, columns + decoding.max_new_tokens - 1, decoder.dtype, unrolled)
    grown = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), one)

    def row(leaves: Tree, batch: Tree, cache: Cache) -> tuple[Array, Cache]:
        edits = Edits(leaves["edits"], row_offsets=leaves["offset"][None])
        batch = {name: column[None] for name, column in batch.items()}
        out = decoder.apply({"params": params}, batch, edits, cache=cache, layers=layers)
        logits = CausalLM()({}, frozen, out.hidden[:, -1:], jnp.ones((1, 1), bool), decoder.dims)
        return logits[0, 0], out.cache

    def forward(batch: Tree, cache: Cache) -> tuple[Array, Cache]:
        into, out = _axes(cache.filled), _axes(True)
        return jax.vmap(row, in_axes=(0, 0, into), out_axes=(0, out))(leaves, batch, cache)

    return decode(forward, dataclasses.replace(grown, length=one.length), batch, decoding, key)


def _axes(filled: bool) -> Cache:
    """Every leaf of a cache has an axis of rows but the column, which is the same for all."""
    axes: dict[str, Any] = {"keys": 0, "values": 0, "mask": 0, "first_token_hidden": 0, "length": None}
    return Cache(**axes, filled=filled)
