"""Child process of the tests. Arguments: "save" or "load", folder, devices in the mesh, process, processes, port.

Each process has `devices / processes` devices. Loading asserts that the state is right, whatever mesh saved it.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxprefix.checkpoints.store import Checkpoints

verb, folder, devices, process, processes, port = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
jax.config.update("jax_num_cpu_devices", devices // processes)
if processes > 1:
    jax.distributed.initialize(f"localhost:{port}", processes, process)
mesh = jax.make_mesh((devices,), ("data",))
split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
shardings = {"split": split, "last": NamedSharding(mesh, PartitionSpec(None, "data")), "whole": whole, "rng": whole}


def build(step):
    x = jnp.sin(jnp.arange(16 * 24, dtype=jnp.float32).reshape(16, 24) * (step + 1))
    return {"split": x, "last": x.astype(jnp.bfloat16), "whole": x + 1, "rng": jax.random.key(step)}


def state(step):
    return jax.jit(build, static_argnums=0, out_shardings=shardings)(step)


with Checkpoints(folder, keep_latest=2) as checkpoints:
    if verb == "save":
        for step in range(4):
            checkpoints.save(step, state(step), info={"step": step}, metric=-step)
        checkpoints.wait()
    else:
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), jax.eval_shape(build, 0), shardings
        )
        step, found, info = checkpoints.restore(like)
        assert (step, info) == (3, {"step": 3}), (step, info)
        for name, leaf in found.items():
            assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim), (name, leaf.sharding)
            same = jax.jit(lambda a, b: jnp.all(a == b), out_shardings=whole)(leaf, state(3)[name])
            assert np.asarray(same.addressable_data(0)), name
        assert checkpoints.best() == (0, 0.0)
    assert checkpoints.steps() == [0, 2, 3], checkpoints.steps()
print("fine", process)
