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
from jaxprefix.training.perturbations import other_rows, other_words_at_pads, perturb
from jaxprefix.training.setup import Setup
from jaxprefix.trees import Tree

log = logging.getLogger("jaxprefix")
_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # of losses in nats, from the same program twice


def check_before_training(setup: Setup, eval_step: Any, trainable: Tree) -> None:
    """Compares losses as they are, with the method's leaves moved, and with other pads and other rows around.

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
    if trainable.get("method"):
        moved = perturb(fetch_global(trainable), "method/")
        trainable = jax.device_put(moved, jax.tree.map(lambda leaf: leaf.sharding, trainable))
        then = losses(trainable, batch)
        if np.array_equal(then, now):
            raise UserError(
                f"the leaves of {type(setup.run.method).__name__} do not reach the output: losses stay the same to the "
                "bit when they move; let one of the method's hooks use them (jaxprefix check tells more)."
            )
        now = then
    if jax.process_count() == 1 and len(now) > 2:
        among_others = other_rows(batch)
        ids, mask = among_others["input_ids"], among_others["attention_mask"]
        among_others["input_ids"] = other_words_at_pads(ids, mask, setup.model.backbone.config.vocab)
        _alone(now, losses(trainable, among_others), batch, setup)


def _alone(now: np.ndarray, other: np.ndarray, batch: dict, setup: Setup) -> None:
    kept = [0, len(now) - 1]
    counts = batch["attention_mask"][kept] if now.ndim == 2 else np.ones(2, bool)
    by = float(np.abs(now[kept] - other[kept])[counts].max(initial=0))
    if not by <= _TOLERANCE[setup.run.precision]:
        log.warning(
            "a row's loss differs by %.2g with other rows and other pads around it; jaxprefix check tells more", by
        )
