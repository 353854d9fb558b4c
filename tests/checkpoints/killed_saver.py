"""A process that forks children which save without end, until they are killed, and print the last step that must be
whole.

Everything is imported before the first child is forked (JAX has started no backend and no thread by then). A request is
a line of JSON on standard input: the folder, and a named pipe for what the child prints. The answer is a line with the
child's number, and one more when it has ended.
"""

import json
import os
import sys
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1  # noqa: F401

from jaxprefix.checkpoints.store import Checkpoints


@jax.jit
def state_of(step):
    """The state as a pure function of the step."""
    k = jnp.asarray(step, jnp.float32)
    table = jnp.sin(jnp.arange(60_000, dtype=jnp.float32).reshape(3, 200, 100) * (k + 1))
    return {
        "step": jnp.asarray(step, jnp.int32),
        "trainable": {"prefix": table, "half": table[0].astype(jnp.bfloat16)},
        "opt_state": (table * 2, (table.sum(), None)),
        "rng": jax.random.fold_in(jax.random.key(7), step),
    }


def bits(tree):
    """Every leaf as bytes, with its path, dtype and shape."""

    def one(leaf):
        leaf = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()

    return [(jax.tree_util.keystr(path), *one(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def save_without_end(folder: str, said: IO[str]) -> None:
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(folder, keep_latest=2, best="max") as checkpoints:
        for step in range(10_000):
            state = state_of(step)
            checkpoints.save(step, state, info={"step": step}, metric=float(-abs(step % 7 - 3)))
            overwrite(state["trainable"])  # the buffers are reused while the save is under way
            print(step - 1, file=said, flush=True)  # the last step that is certainly whole: `save` waited for it


if __name__ == "__main__":
    for line in sys.stdin:
        folder, pipe = json.loads(line)
        child = os.fork()
        if child == 0:
            with open(pipe, "w") as said:
                save_without_end(folder, said)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)
