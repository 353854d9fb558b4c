"""Outputs and metrics over all examples of a split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxprefix.data import Examples, evaluation_batches, restore_order
from jaxprefix.distributed.mesh import put_batch
from jaxprefix.distributed.rows import fetch_global, local_rows
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.texts import generate_texts
from jaxprefix.models.heads import Head
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import encode_texts
from jaxprefix.tasks.base import Evaluated, Facts, Task
from jaxprefix.trees import Tree


def run_rows(
    eval_step: Any,
    trainable: Tree,
    frozen: Tree,
    task: Task,
    head: Head,
    examples: Examples,
    batch_size: int,
    mesh: Mesh,
    buckets: Sequence[int] | None = None,
) -> Evaluated:
    """What the evaluation step gives for every example, in their order, and the targets that batches held.

    Batches are sent one ahead of what is fetched; `buckets` are their padded lengths, None for ones that suit the rows.
    """
    collected: dict[str, list[np.ndarray]] = {}
    indices = []
    pending: dict[str, Any] = {}
    specs = task.targets(task.count(examples.facts or None))

    def collect(outputs: dict[str, Any]) -> None:
        for name, value in outputs.items():
            collected.setdefault(name, []).append(fetch_global(value))

    # ----- every batch
    for batch, index in evaluation_batches(examples, batch_size, buckets, local_rows(mesh, batch_size)):
        placed = put_batch(batch, mesh)
        targets = {f"target.{name}": placed[name] for name in specs if name in placed}
        outputs = {**eval_step(trainable, frozen, placed), **targets}
        collect(pending)
        pending = outputs
        indices.append(index)
    collect(pending)

    # ----- in the order of the examples
    fills = {f"target.{name}": float(spec.fill) for name, spec in specs.items()}
    found = {
        name: restore_order(values, indices, fills[name] if name in fills else head.fill(name, values[0].dtype))
        for name, values in collected.items()
    }
    return Evaluated(
        outputs={name: value for name, value in found.items() if name not in fills},
        targets={name: found[f"target.{name}"] for name in specs if f"target.{name}" in found},
        rows=examples.row_numbers,
        groups=examples.groups,
        facts=examples.facts,
        cut=examples.cut,
    )


def measure(task: Task, evaluated: Evaluated, split: str) -> tuple[dict[str, float], Facts]:
    """The task's metrics, its own first, and the facts with what the validation rows decide."""
    facts = task.calibrate(evaluated) if split == "validation" else evaluated.facts
    return task.measure(with_facts(evaluated, facts)), facts


def with_facts(evaluated: Evaluated, facts: Facts) -> Evaluated:
    """The same with other facts."""
    return dataclasses.replace(evaluated, facts=facts)


def score_texts(
    task: Task,
    split: str,
    model: TunedModel,
    trainable: Tree,
    frozen: Tree,
    tokenizer: Any,
    decoding: Decoding,
    batch_size: int,
) -> dict[str, float]:
    """Metrics of what the model writes for each prompt of a split; nothing where the task writes no text."""

    def write(rows: list[dict[str, Any]]) -> list[str]:
        prompts = encode_texts(task, tokenizer, rows)
        options = {"batch_size": batch_size, "stops": task.stops}
        return generate_texts(model, trainable, frozen, tokenizer, prompts, decoding, **options)

    return task.measure_texts(split, write)
