"""What the tests of the store share: states as shapes, and folders of small checkpoints."""

import os
from pathlib import Path
from typing import Any

import jax
from killed_saver import state_of

from jaxprefix.checkpoints.store import Checkpoints

ROOT = Path(__file__).parents[2]
SAVER = Path(__file__).with_name("killed_saver.py")


def environment(**changes: str) -> dict[str, str]:
    """The variables of a process that a test starts."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **changes}


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


LIKE = abstract(state_of(0))


def fill(folder: Path, steps: range, **kwargs: Any) -> None:
    with Checkpoints(folder, **kwargs) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step), info={"history": [step]}, metric=float(step))
