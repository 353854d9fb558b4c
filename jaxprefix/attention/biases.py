"""What is added to the scores of real tokens: an array, a table by distance, or a function of queries and keys."""

import dataclasses
from collections.abc import Callable
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.attention.masks import MaskStructure


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistanceBias:
    """A learned number for each head and bucket of distances (T5: Raffel et al. 2020).

    Attributes:
      table: float [buckets, H].
      bucket: from distances, int of any shape (the key's column minus the query's), to buckets of the same shape. A
        static function of its argument alone, the same object in every call.
    """

    table: Float[Array, "buckets H"]
    bucket: Callable[[Array], Array] = dataclasses.field(metadata={"static": True})


@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ScoreBias:
    """What a layer makes of its own queries and keys (DeBERTa: He et al. 2021).

    Attributes:
      function: from q [B, T, H, E], k [B, S, K, E], distances int [T, S] (the key's column minus the query's) and
        `operands` to the bias, float [#B, #H, T, S]. Static.
      operands: a pytree of arrays, the layer's own embeddings of distances perhaps.
    """

    function: Callable[[Array, Array, Array, Any], Array] = dataclasses.field(metadata={"static": True})
    operands: Any = ()


Bias = Float[Array, "#B #H T S"] | DistanceBias | ScoreBias


def dense_bias(
    bias: Bias | None, q: Float[Array, "B T H E"], k: Float[Array, "B S K E"], masks: MaskStructure
) -> Float[Array, "#B #H T S"] | None:
    """The bias as an array; None for none."""
    if not isinstance(bias, DistanceBias | ScoreBias):
        return bias
    distances: Int[Array, "T S"] = masks.distances(q.shape[1], k.shape[1])
    if isinstance(bias, DistanceBias):
        return jnp.moveaxis(bias.table[bias.bucket(distances)], -1, 0)[None]  # [T, S, H] to [1, H, T, S]
    return bias.function(q, k, distances, bias.operands)
