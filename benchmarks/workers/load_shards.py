"""Loads a folder over eight CPU devices and answers with the peak of this process's memory: `FOLDER shards|leaves`.

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

from jaxprefix.models import loading, shards
from jaxprefix.models.backbones import read_hf_config
from jaxprefix.models.sources import read_config
from jaxprefix.trees import flatten

BY_INPUTS = ("o", "down")  # whose inputs, not outputs, lie along tp


def peak() -> int:
    """The most memory that was resident so far, in bytes: VmHWM, since ru_maxrss starts at the parent's size."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def whole_leaf(leaf, tensors, files, dtype, sharding):
    shape = shards.leaf_shape(leaf, tensors)
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

    if way == "leaves":
        loading.load_leaf = whole_leaf
    read_hf_config(read_config(Path(folder)))  # imports transformers, which is no part of the load
    jax.block_until_ready(jax.device_put(jnp.ones(8), NamedSharding(mesh, P("fsdp"))))
    before, started = peak(), time.perf_counter()
    _, tree, report = loading.read_backbone(folder, dtype=jnp.bfloat16, sharding=place)
    seconds = time.perf_counter() - started
    leaves = flatten(tree)
    held = {path: sum(shard.data.nbytes for shard in leaf.addressable_shards) for path, leaf in leaves.items()}
    found = {
        "extra_bytes": peak() - before - sum(held.values()),
        "tree_bytes": sum(held.values()),
        "largest_leaf_bytes": max(leaf.nbytes for leaf in leaves.values()),
        "largest_shard_bytes": max(leaf.addressable_shards[0].data.nbytes for leaf in leaves.values()),
        "seconds": seconds,
        "identity": report.identity,
        "packages": versions(("jax", "jaxlib", "numpy")),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
