"""What a compiled step keeps in the memory of one device, by kind."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.analysis.hlo import Module

KINDS = ("frozen", "trainable", "optimizer", "batch", "activations", "padding", "program")
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NEEDED = re.compile(r"([\d.]+)([KMGT]?)B? of ([\d.]+)([KMGT]?)B? hbm", re.IGNORECASE)
_ABOVE = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      frozen, trainable, optimizer, batch: the step's inputs, whether the program reads them or not; results take the
        place of what they replace.
      activations: activations and all else that the program keeps for a while.
      padding: what the layouts of inputs add to them.
      program: its code.
    """

    frozen: int
    trainable: int
    optimizer: int
    batch: int
    activations: int
    padding: int
    program: int

    @property
    def total(self) -> int:
        """All that must be there at once."""
        return sum(dataclasses.astuple(self))


def inputs_of(shapes: Any, batch: Any) -> dict[str, int]:
    """Bytes per device of what a step takes, without padding."""
    state = shapes.state
    return {
        "frozen": bytes_per_device(shapes.frozen),
        "trainable": bytes_per_device(state.trainable),
        "optimizer": bytes_per_device((state.opt_state, state.step, state.key, shapes.rates)),
        "batch": bytes_per_device(batch),
    }


def memory_of(shapes: Any, batch: Any, compiled: Any, module: Module) -> Memory:
    """What a compiled step needs beside and with its inputs."""
    stats = compiled.memory_analysis()
    entry = module.computations[module.entry].values()
    read = sum(array.nbytes for it in entry if it.opcode == "parameter" for array in it.arrays)
    return Memory(
        **inputs_of(shapes, batch),
        activations=stats.temp_size_in_bytes + max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),
        padding=max(stats.argument_size_in_bytes - read, 0),
        program=stats.generated_code_size_in_bytes,
    )


def needed_bytes(message: str) -> int | None:
    """What a compiler that ran out of memory says that it needed, or None where it does not say."""
    found = _ABOVE.search(message) or _NEEDED.search(message)
    return int(float(found[1]) * _SIZES[found[2].upper()]) if found else None


def bytes_per_device(tree: Any) -> int:
    """Bytes of placed leaves on one device, without what layouts pad."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree)
    )


def itemsize(dtype: Any) -> int:
    """Bytes of a scalar; of a typed key those of its data."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.key_data(jax.random.key(0)).nbytes
    return jnp.dtype(dtype).itemsize
