"""From tensors in files to one leaf on its devices: each shard is read, cast and stacked by itself.

A process reads what its own devices need, shard by shard, and a shard that several of them hold only once. The host
holds one shard and at most one layer's tensor at a time: a tensor that a shard needs whole is read at once, of others
only the block, in pieces.
"""

import math
import mmap
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from jaxprefix.hf.safetensors_files import Block, TensorFiles
from jaxprefix.models.leaves import Leaf


def load_leaf(
    leaf: Leaf, tensors: Sequence[str], files: TensorFiles, dtype: Any, sharding: Sharding | None
) -> jax.Array:
    """The leaf in its dtype on its devices, the default device where `sharding` is None.

    Args:
      leaf: what is read.
      tensors: the names of its tensors, one per layer where it is stacked.
      files: where they lie; what is read whole is hashed on the way.
      dtype: of the result.
      sharding: of the whole leaf; each process makes the shards of its own devices.
    """
    shape = leaf.full_shape(len(tensors))
    if sharding is None:
        everything = tuple((0, size) for size in shape)
        return jax.block_until_ready(jax.device_put(read_shard(leaf, tensors, files, dtype, everything)))
    holders: dict[Block, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        block = tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))
        holders.setdefault(block, []).append(device)
    shards: list[jax.Array] = []
    for block, devices in holders.items():
        host = read_shard(leaf, tensors, files, dtype, block)
        # waits, because until then the host's copy cannot be dropped
        shards += jax.block_until_ready([jax.device_put(host, device) for device in devices])
        del host
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def read_shard(leaf: Leaf, tensors: Sequence[str], files: TensorFiles, dtype: Any, block: Block) -> np.ndarray:
    """A block of the whole leaf on the host, in our orientation."""
    layers, own = (tensors[slice(*block[0])], block[1:]) if leaf.stacked else (tensors, block)
    whole = own == tuple((0, size) for size in leaf.shape)
    if whole and not leaf.stacked:
        return np.ascontiguousarray(_oriented(leaf, files.read(tensors[0])), dtype)
    stack = _empty((len(layers), *(last - first for first, last in own)), dtype)
    for part, name in zip(stack, layers, strict=True):
        if whole:
            part[...] = _oriented(leaf, files.read(name))
        else:
            files.read_block(name, _stored(leaf, own), part.T if leaf.transposed else part)
    return stack if leaf.stacked else stack[0]


def _empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array in pages of its own, which go back to the system with it: malloc keeps what lies among other things."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    return np.ndarray(shape, dtype, mmap.mmap(-1, max(size, 1)))


def _oriented(leaf: Leaf, tensor: np.ndarray) -> np.ndarray:
    """A stored tensor, in our orientation and without what it holds beside the leaf."""
    tensor = tensor.T if leaf.transposed else tensor
    return tensor if leaf.part is None else tensor[..., slice(*leaf.part)]


def _stored(leaf: Leaf, block: Block) -> Block:
    """Where a block of the leaf, without the axis of layers, lies in its tensor."""
    if leaf.part is not None:
        first, last = block[-1]
        block = (*block[:-1], (first + leaf.part[0], last + leaf.part[0]))
    return block[::-1] if leaf.transposed else block
