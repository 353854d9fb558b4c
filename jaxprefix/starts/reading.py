"""What a frozen backbone computes for a row of tokens: keys and values of every layer, rows of the word table."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.models.backbone_config import Module
from jaxprefix.models.encoder import check_positions
from jaxprefix.models.reading import KeysValues
from jaxprefix.trees import Tree


def keys_and_values(backbone: Module, tree: Tree, ids: Int[Array, "P"]) -> KeysValues:
    """Keys and values as they enter the attention (normed, rotated), float32, of tokens from position 0 on.

    Args:
      backbone: any.
      tree: its leaves.
      ids: of one row without padding.

    Raises:
      UserError: more tokens than the backbone has positions.
    """
    check_positions(ids.shape[0], 0, backbone.dims)
    return _read(backbone, {name: tree[name] for name in backbone.parts}, ids)


@functools.partial(jax.jit, static_argnums=0)
def _read(backbone: Module, params: Tree, ids: Int[Array, "P"]) -> KeysValues:
    return backbone.keys_and_values(params, ids)


def word_rows(backbone: Module, tree: Tree, ids: Int[Array, "P"]) -> Float[Array, "P D"]:
    """The words' embeddings as they meet those of a prompt, float32."""
    rows = tree["embeddings"]["word"]["embedding"][ids].astype(jnp.float32)
    return rows * backbone.config.embedding_scale
