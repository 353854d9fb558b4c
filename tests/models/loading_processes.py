"""Child process of the tests: one of several that load one folder together; prints what it read and hashed as JSON."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.errors import UserError
from jaxprefix.hf.loading import read_backbone
from jaxprefix.hf.safetensors_files import TensorFiles
from jaxprefix.trees import flatten


def main(port: int, process: int, processes: int, folder: Path, quantize: str | None) -> dict:
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"localhost:{port}", processes, process)
    mesh = Mesh(np.array(jax.devices()).reshape(1, 2 * processes, 2), ("data", "fsdp", "tp"))
    hashed, note = [], TensorFiles._note
    TensorFiles._note = lambda self, name, raw: (hashed.append(name), note(self, name, raw))[1]

    def place(path, shape):
        kernel = path.startswith("layers/") and path.endswith("kernel")
        return NamedSharding(mesh, P(None, "fsdp", "tp") if kernel else P())

    try:
        _, whole, alone = read_backbone(folder, quantize=quantize) if process == 0 else (None, None, None)
        hashed.clear()
        _, tree, report = read_backbone(folder, sharding=place, quantize=quantize)
    except UserError as error:
        return {"error": str(error)}
    if process == 0:
        assert alone == report
        for path, leaf in flatten(tree).items():
            for shard in leaf.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(flatten(whole)[path])[shard.index])
    sizes = {path: sum(shard.data.size for shard in leaf.addressable_shards) for path, leaf in flatten(tree).items()}
    return {
        "fingerprint": report.fingerprint,
        "unused": report.unused,
        "paths": sorted(flatten(tree)),
        "hashed": hashed,
        "share": sizes["layers/q/kernel"] / flatten(tree)["layers/q/kernel"].size,
    }


if __name__ == "__main__":
    port, process, processes, folder, quantize = sys.argv[1:]
    print(json.dumps(main(int(port), int(process), int(processes), Path(folder), quantize or None)))
