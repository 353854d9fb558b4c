"""Loads a folder over eight CPU devices and answers with the host memory that it took: `FOLDER shards|leaves`.

The peak of the resident memory is read and set back at every leaf, and the leaves that are there by then are taken off:
the peak of the whole load would hide what an early leaf needs behind those that are still to come.
`shards` is the package as it is. `leaves` makes every leaf whole on the host first and then places its shards.
"""

import json
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import versions
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.hf import loading, shards
from jaxprefix.hf.sources import read_config
from jaxprefix.models.backbones import read_hf_config
from jaxprefix.trees import flatten

BY_INPUTS = ("o", "down")  # whose inputs, not outputs, lie along tp


def peak() -> int:
    """The most bytes that were resident since the last call: VmHWM, which ru_maxrss is not, and which Linux resets."""
    found = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return found


def bytes_of(leaf: jax.Array) -> int:
    """What a leaf's shards take, copies included."""
    return sum(shard.data.nbytes for shard in leaf.addressable_shards)


def whole_leaf(leaf, tensors, files, dtype, sharding):
    shape = leaf.full_shape(len(tensors))
    array = shards.read_shard(leaf, tensors, files, dtype, tuple((0, size) for size in shape))
    return jax.block_until_ready(jax.make_array_from_callback(shape, sharding, lambda index: array[index]))


def main(folder: str, way: str) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = Mesh(np.array(jax.devices()).reshape(1, 4, 2), ("data", "fsdp", "tp"))

    def place(path: str, shape: tuple[int, ...]) -> NamedSharding:
        if path.startswith("embeddings"):
            return NamedSharding(mesh, P("tp", "fsdp"))
        if path.endswith("kernel"):
            last = ("tp", "fsdp") if path.split("/")[1] in BY_INPUTS else ("fsdp", "tp")
            return NamedSharding(mesh, P(*[None] * (len(shape) - 2), *last))
        return NamedSharding(mesh, P())

    load_leaf = whole_leaf if way == "leaves" else shards.load_leaf
    held, extra = 0, {}

    def watched(leaf, *rest):
        nonlocal held
        made = load_leaf(leaf, *rest)
        held += bytes_of(made)
        extra[leaf.path] = peak() - before - held
        return made

    loading.load_leaf = watched
    read_hf_config(read_config(Path(folder)))  # imports transformers, which is no part of the load
    jax.block_until_ready(jax.device_put(jnp.ones(8), NamedSharding(mesh, P("fsdp"))))
    peak()
    before, started = peak(), time.perf_counter()
    _, tree, report = loading.read_backbone(folder, dtype=jnp.bfloat16, sharding=place)
    seconds = time.perf_counter() - started
    leaves = flatten(tree)
    worst = max(extra, key=extra.get)
    found = {
        "extra_bytes": extra[worst],
        "at": worst,
        "tree_bytes": held,
        "largest_leaf_bytes": max(leaf.nbytes for leaf in leaves.values()),
        "largest_shard_bytes": max(leaf.addressable_shards[0].data.nbytes for leaf in leaves.values()),
        "seconds": seconds,
        "identity": report.identity,
        "packages": versions(("jax", "jaxlib", "numpy")),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
