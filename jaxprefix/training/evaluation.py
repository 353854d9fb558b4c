"""Predictions and metrics over all rows of a split."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxprefix.data import Examples, Task, evaluation_batches, restore_order
from jaxprefix.data.examples import IGNORED
from jaxprefix.training.metrics import evaluate_metrics
from jaxprefix.training.sharding import put_batch
from jaxprefix.trees import Tree


def run_rows(
    eval_step: Any, trainable: Tree, frozen: Tree, examples: Examples, batch_size: int, mesh: Mesh
) -> dict[str, np.ndarray]:
    """What the evaluation step gives for every row, in the order of the rows, and `labels` where there are any.

    Rows of tokens are padded to the longest with -100. Batches are sent one ahead of what is fetched.
    """
    collected: dict[str, list[np.ndarray]] = {}
    indices = []
    pending: dict[str, Any] = {}

    def collect(outputs: dict[str, Any]) -> None:
        for name, value in outputs.items():
            collected.setdefault(name, []).append(np.asarray(jax.device_get(value)))

    processes = jax.process_count()
    for batch, index in evaluation_batches(examples, batch_size, None, jax.process_index(), processes):
        labels = {"labels": batch["labels"]} if "labels" in batch else {}
        outputs = {**eval_step(trainable, frozen, put_batch(batch, mesh)), **labels}
        collect(pending)
        pending = outputs
        indices.append(index)
    collect(pending)
    return {name: restore_order(values, indices, fill=IGNORED) for name, values in collected.items()}


def evaluate_examples(
    eval_step: Any, trainable: Tree, frozen: Tree, task: Task, examples: Examples, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """The task's metrics over all rows of a split, its own first."""
    found = run_rows(eval_step, trainable, frozen, examples, batch_size, mesh)
    return evaluate_metrics(
        task, found["labels"], found["predictions"], label_names=examples.names, losses=found["losses"]
    )
