"""A digest of an array's bits that does not depend on how the array is laid out over devices and processes.

The digest is a sum over 32-bit (or narrower) words: `sum_i word_i * r(i) mod 2**64`, `i` the word's place in the whole
array in row-major order and `r(i)` a fixed pseudo-random odd number. Every shard adds its part, so each process reads
only its own. A change within one word is always noticed, because an odd factor is invertible modulo a power of two;
changes in several words escape with a probability of at most about 2**-32.
"""

from collections.abc import Mapping

import jax
import numpy as np

_CHUNK = 1 << 15  # words; keeps the temporaries in the cache


def digests(leaves: Mapping[str, jax.Array]) -> dict[str, str]:
    """Digests of named arrays as 16 hexadecimal digits; with several processes all must call this together."""
    totals = np.array([_local(leaf) for leaf in leaves.values()], np.uint64)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        halves = multihost_utils.process_allgather(totals.view(np.uint32))  # 64-bit integers would be cut to 32
        totals = np.ascontiguousarray(halves).view(np.uint64).sum(axis=0, dtype=np.uint64)
    return {name: f"{int(total):016x}" for name, total in zip(leaves, totals, strict=True)}


def _local(leaf: jax.Array) -> int:
    """The part of this process: the shards of which it holds the first copy."""
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    return sum(_part(np.asarray(shard.data), shard.index, leaf.shape) for shard in shards) % 2**64


def _part(block: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    words = np.ascontiguousarray(block).reshape(-1)
    words = words.view({1: np.uint8, 2: np.uint16}.get(words.dtype.itemsize, np.uint32))
    places = None if block.shape == shape else _places(index, shape, words.size // max(block.size, 1))
    total = 0
    for start in range(0, words.size, _CHUNK):
        piece = words[start : start + _CHUNK]
        if places is None:
            factor = np.arange(start, start + piece.size, dtype=np.uint64)
        else:
            factor = places[start : start + piece.size].copy()
        # two rounds of multiply and shift spread the bits of the place over the factor
        factor *= np.uint64(0x9E3779B97F4A7C15)
        factor ^= factor >> np.uint64(29)
        factor *= np.uint64(0xBF58476D1CE4E5B9)
        factor ^= factor >> np.uint64(32)
        factor |= np.uint64(1)
        total += int(np.sum(factor * piece, dtype=np.uint64))
    return total


def _places(index: tuple[slice, ...], shape: tuple[int, ...], words_each: int) -> np.ndarray:
    """The row-major places, in the whole array, of the words of the shard at `index`."""
    places = np.zeros(1, np.uint64)
    for part, size in zip((*index, slice(None)), (*shape, words_each), strict=True):
        here = np.arange(*part.indices(size), dtype=np.uint64)
        places = (places[:, None] * np.uint64(size) + here).reshape(-1)
    return places
