"""What a frozen backbone computes for a row of tokens: keys and values of every layer, rows of the word table."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.models.backbones import Module
from jaxprefix.models.cache import Cache
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.encoder import check_positions
from jaxprefix.trees import Tree

KeysValues = tuple[Float[Array, "L P K E"], Float[Array, "L P K E"]]


def keys_and_values(backbone: Module, tree: Tree, ids: Int[Array, "P"]) -> KeysValues:
    """Keys and values as they enter the attention (normed, rotated), float32, of tokens from position 0 on.

    Args:
      backbone: encoder or decoder.
      tree: its leaves.
      ids: of one row without padding.

    Raises:
      UserError: more tokens than the backbone has positions.
    """
    check_positions(ids.shape[0], 0, backbone.dims)
    return _read(backbone, {name: tree[name] for name in backbone.parts}, ids)


@functools.partial(jax.jit, static_argnums=0)
def _read(backbone: Module, params: Tree, ids: Int[Array, "P"]) -> KeysValues:
    dims, batch = backbone.dims, {"input_ids": ids[None]}
    if isinstance(backbone, Decoder):
        cache = Cache.empty(dims, 1, ids.shape[0])
        filled = backbone.apply({"params": params}, batch, cache=cache).cache
        return filled.keys[:, :, 0].swapaxes(1, 2), filled.values[:, :, 0].swapaxes(1, 2)
    inputs = backbone.apply({"params": params}, batch, capture=True).captured[:-1, 0]

    def projected(name: str) -> Float[Array, "L P K E"]:
        leaves = params["layers"][name]
        kernel, bias = (leaves[leaf].astype(inputs.dtype) for leaf in ("kernel", "bias"))
        made = jnp.einsum("ltd,ldo->lto", inputs, kernel)
        if "kernel_scale" in leaves:
            made = (made * leaves["kernel_scale"][:, None]).astype(inputs.dtype)
        made = made + bias[:, None]
        return made.reshape(dims.layers, -1, dims.kv_heads, dims.head_width).astype(jnp.float32)

    return projected("k"), projected("v")


def word_rows(backbone: Module, tree: Tree, ids: Int[Array, "P"]) -> Float[Array, "P D"]:
    """The words' embeddings as they meet those of a prompt, float32."""
    rows = tree["embeddings"]["word"]["embedding"][ids].astype(jnp.float32)
    return rows * backbone.config.embedding_scale if isinstance(backbone, Decoder) else rows
