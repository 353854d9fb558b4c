"""What of the global arrays belongs to this process: its rows of a batch, and whole values on its host."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer

from jaxprefix.distributed.mesh import by_rows


def local_rows(mesh: Mesh, rows: int) -> Integer[np.ndarray, " b"]:
    """The places in a global batch of `rows` that lie on this process's devices, in their order: what `put_batch`
    wants from it. Processes that share out a copy of the model hold the same rows."""
    here = by_rows(mesh).addressable_devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[index] for index in here.values()]))


def fetch_global(tree: Any) -> Any:
    """The leaves as whole NumPy arrays, also where other processes hold parts of them; all must call it together."""
    return jax.tree.map(_whole, tree)


def _whole(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
