"""Child process of the tests: loads folders over eight CPU devices in many shardings and compares with the whole."""

import hashlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.hf import safetensors_files
from jaxprefix.hf.loading import read_backbone
from jaxprefix.trees import flatten

SPECS = [P(), P("fsdp"), P(None, "tp"), P("tp", "fsdp"), P(("data", "fsdp"), "tp"), P(None, ("fsdp", "tp"))]
MESHES = [(8, 1, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)]


def rule(mesh, spec, stacked):
    """The spec on the last axes as far as they divide, where `stacked` the axis of layers too."""

    def place(path, shape):
        before = [stacked if shape[0] % 2 == 0 else None] if path.startswith("layers/") else []
        wanted = [*before, *spec][: len(shape)]
        sizes = [int(np.prod([mesh.shape[axis] for axis in np.atleast_1d(axes)])) if axes else 1 for axes in wanted]
        return NamedSharding(mesh, P(*[a if n % k == 0 else None for a, n, k in zip(wanted, shape, sizes)]))  # noqa: B905

    return place


def main(folder: Path, dtype: str) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    safetensors_files.CHUNK, safetensors_files.PAGE = 96, 8  # so that tensors this small are read in pieces, by columns
    _, whole, report = read_backbone(folder, dtype=dtype)
    shards = 0
    for shape in MESHES:
        mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "fsdp", "tp"))
        for spec in SPECS:
            for stacked in (None, "data") if spec in SPECS[:3] else (None,):
                place = rule(mesh, spec, stacked)
                _, tree, found = read_backbone(folder, dtype=dtype, sharding=place)
                assert found == report
                for path, leaf in flatten(tree).items():
                    expected = flatten(whole)[path]
                    assert leaf.sharding == place(path, leaf.shape) and leaf.dtype == jnp.dtype(dtype), path
                    for shard in leaf.addressable_shards:
                        shards += shard.data.size < leaf.size
                        np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(expected)[shard.index], path)
    assert shards > 1000
    # hashed in pieces, without a cache of fingerprints
    (entry,) = Path(sys.argv[3]).glob("fingerprints/*.json")
    entry.unlink()
    mesh = Mesh(np.array(jax.devices()).reshape(1, 2, 4), ("data", "fsdp", "tp"))
    _, _, again = read_backbone(folder, dtype=dtype, sharding=rule(mesh, P("fsdp", "tp"), None))
    assert again == report
    files = safetensors_files.TensorFiles(folder)
    for name, digest in again.fingerprint.items():
        assert hashlib.sha256(files.read(name).tobytes()).hexdigest() == digest, name


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
