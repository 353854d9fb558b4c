"""The cheap part of the self-check, before the first step of every run; `jaxprefix check` asks more.

It looks through the evaluation step, which the run needs compiled anyway, at the first batch that it will evaluate:
three calls, no program of its own.
"""

import logging
from typing import Any

import jax
import numpy as np

from jaxprefix.data import evaluation_batches
from jaxprefix.distributed.mesh import put_batch
from jaxprefix.distributed.rows import fetch_global, local_rows
from jaxprefix.errors import UserError
from jaxprefix.training.setup import Setup
from jaxprefix.trees import Tree, flatten, unflatten

log = logging.getLogger("jaxprefix")
_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # of losses in nats, from the same program twice


def look_before(setup: Setup, eval_step: Any, trainable: Tree) -> None:
    """Looks at losses as they are, with the method's leaves moved, and with other pads and other rows around.

    Raises:
      UserError: losses are not finite before anything was trained, or the method's leaves do not reach them.
    """
    split = next(name for name in ("validation", "test", "train") if name in setup.examples)
    rows = setup.run.eval_batch_size or setup.run.batch_size
    batch, _ = next(evaluation_batches(setup.examples[split], rows, None, local_rows(setup.mesh, rows)))

    def losses(leaves: Tree, batch: dict) -> np.ndarray:
        return np.asarray(jax.device_get(eval_step(leaves, setup.frozen, put_batch(batch, setup.mesh))["losses"]))

    now = losses(trainable, batch)
    if not np.isfinite(now).all():
        raise UserError(
            f"{int((~np.isfinite(now)).sum())} of {now.size} losses are not finite before the first step; "
            f"look for infinite leaves in {setup.backbone.identity['source']}, or start the method smaller."
        )
    moved = _moved(trainable)
    if moved is not None:
        trainable = jax.device_put(moved, jax.tree.map(lambda leaf: leaf.sharding, trainable))
        then = losses(trainable, batch)
        if np.array_equal(then, now):
            raise UserError(
                f"the leaves of {type(setup.run.method).__name__} do not reach the output: losses stay the same to the "
                "bit when they move; let one of the method's hooks use them (jaxprefix check tells more)."
            )
        now = then
    if jax.process_count() == 1 and len(now) > 2:
        _alone(now, losses(trainable, _disturbed(batch, setup.model.backbone.config)), batch, setup)


def _moved(trainable: Tree) -> Tree | None:
    """All leaves of the method a little further up, or None where it has none."""
    random, leaves = np.random.default_rng(0), flatten({"method": trainable.get("method", {})})
    if not leaves:
        return None
    moved = {
        path: fetch_global(leaf) + np.float32(0.1) * np.abs(random.standard_normal(leaf.shape, np.float32))
        for path, leaf in leaves.items()
    }
    return {**trainable, **unflatten(moved)}


def _disturbed(batch: dict, config: Any) -> dict:
    """The first and the last row among copies of themselves, with words in place of pads."""
    rows = len(batch["input_ids"])
    order = np.where(np.arange(rows) < rows // 2, 0, rows - 1)
    other = {name: value[order] for name, value in batch.items()}
    words = (other["input_ids"] + 7) % config.vocab
    return {**other, "input_ids": np.where(other["attention_mask"], other["input_ids"], words)}


def _alone(now: np.ndarray, other: np.ndarray, batch: dict, setup: Setup) -> None:
    kept = [0, len(now) - 1]
    counts = batch["attention_mask"][kept] if now.ndim == 2 else np.ones(2, bool)
    by = float(np.abs(now[kept] - other[kept])[counts].max(initial=0))
    if not by <= _TOLERANCE[setup.run.precision]:
        log.warning(
            "a row's loss differs by %.2g with other rows and other pads around it; jaxprefix check tells more", by
        )
