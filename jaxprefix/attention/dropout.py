"""Dropout by a counter hash: the decision about an element is a pure function of the key and the element's indices.

No stream of random bits is drawn, so any implementation, block order or sharding makes the same decisions, and the
partitioner splits the mask like any other elementwise value. The mixing steps are those of the 32-bit finaliser of
MurmurHash3 (Austin Appleby, public domain); it is no cryptographic generator and needs not be one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, UInt32

from jaxprefix.errors import check_rate

Rate = Any  # a Python float, or a traced scalar

_GOLDEN = np.uint32(0x9E3779B9)
_MIX1 = np.uint32(0x85EBCA6B)
_MIX2 = np.uint32(0xC2B2AE35)
_ODD = tuple(np.uint32(x) for x in (0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0x85EBCA77, 0x9E3779B1, 0xB5297A4D))
_TWO32 = np.float32(2.0**32)
_LARGEST_BELOW_TWO32 = np.float32(2.0**32 - 2.0**8)

VIRTUAL_COLUMN = 2**31  # the key index of the first virtual token, so that real columns do not depend on P


def statically_off(rate: Rate) -> bool:
    """True if `rate` is the Python number 0; a traced rate is never statically off."""
    return isinstance(rate, (int, float)) and rate == 0


def dropout(x: Float[Array, "*B"], rate: Rate, key: Any) -> Float[Array, "*B"]:
    """Sets elements of `x` to zero with probability `rate` and divides the others by `1 - rate`.

    Args:
      x: any shape with at least one axis; each axis shorter than 2**32.
      rate: in [0, 1); a Python 0 is statically off, a traced scalar may be mapped over.
      key: a jax random key; it may be mapped over. Not read (and may be None) if the rate is statically off.
    """
    check_rate("the rate of a dropout is", rate)
    if statically_off(rate):
        return x
    keep = keep_mask(key, rate, x.shape)
    return jnp.where(keep, x * inverse_keep(rate, x.dtype), jnp.zeros((), x.dtype))


def inverse_keep(rate: Rate, dtype: Any) -> Array:
    """`1 / (1 - rate)` in `dtype`, 0 where the rate is 1."""
    rate = jnp.asarray(rate, jnp.float32)
    return jnp.where(rate < 1, 1 / jnp.maximum(1 - rate, 1e-7), 0).astype(dtype)


def keep_mask(key: Any, rate: Rate, shape: tuple[int, ...], first_column: int = 0) -> Bool[Array, "*B"]:
    """True with probability `1 - rate`, in `shape`; entry `(i, ..., j)` depends on key and indices, not on `shape`.

    `first_column` is added to the last index.
    """
    return keep(row_words(key, shape[:-1]), rate, shape[-1], first_column)


def row_words(key: Any, leading: tuple[int, ...]) -> tuple[UInt32[Array, "*R"], UInt32[Array, "*R"]]:
    """Two hash words for each row of shape `leading`: the key's own bits, stirred with one index after another."""
    # The key's words are mixed here rather than drawn from: a draw for every mask of every layer would be most of the
    # program, in XLA's compile time as well. Indices enter as multiples of odd constants, which costs one addition
    # each; `keep` does the mixing.
    first, second = _GOLDEN, _MIX1
    words = jax.random.key_data(key)
    for place in range(words.shape[-1]):
        first = _finalise(first + words[place])
        second = _finalise((second ^ words[place]) + first * _GOLDEN)
    # Without the barrier XLA computes these scalars again for every element.
    first, second = jax.lax.optimization_barrier((first, second))
    for axis, size in enumerate(leading):
        index = jax.lax.iota(np.uint32, size)
        first = first[..., None] + index * _ODD[2 * axis % len(_ODD)]
        second = second[..., None] + index * _ODD[(2 * axis + 1) % len(_ODD)]
    return first, second


def keep(
    words: tuple[UInt32[Array, "*R"], UInt32[Array, "*R"]], rate: Rate, columns: int, first_column: int = 0
) -> Bool[Array, "*R S"]:
    """The decisions of `columns` elements in each row; rows may have been transposed or reshaped."""
    first, second = words
    column = jax.lax.iota(np.uint32, columns) + np.uint32(first_column)
    x = first[..., None] + column * _GOLDEN
    x = (x ^ (x >> 16)) * _MIX1
    x = (x ^ (x >> 13)) + second[..., None]
    x = (x ^ (x >> 16)) * _MIX2
    # The comparison lives on the high bits, which a last shift would leave as they are.
    threshold = jnp.minimum(jnp.asarray(rate, jnp.float32) * _TWO32, _LARGEST_BELOW_TWO32).astype(np.uint32)
    return x >= threshold


def _finalise(x: UInt32[Array, "*R"]) -> UInt32[Array, "*R"]:
    x = (x ^ (x >> 16)) * _MIX1
    x = (x ^ (x >> 13)) * _MIX2
    return x ^ (x >> 16)
