"""Child process of the tests: saves without end, until it is killed, and prints the last step that must be whole."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

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


if __name__ == "__main__":
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(sys.argv[1], keep_latest=2, best="max") as checkpoints:
        for step in range(10_000):
            state = state_of(step)
            checkpoints.save(step, state, info={"step": step}, metric=float(-abs(step % 7 - 3)))
            overwrite(state["trainable"])  # the buffers are reused while the save is under way
            print(step - 1, flush=True)  # the last step that is certainly whole: `save` waited for it
