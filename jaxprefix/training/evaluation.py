"""Predictions and metrics over all rows of a split."""

import logging
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxprefix.data import Examples, evaluation_batches, restore_order
from jaxprefix.data.examples import IGNORED
from jaxprefix.distributed.mesh import put_batch
from jaxprefix.distributed.rows import fetch_global, local_rows
from jaxprefix.errors import UserError
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.texts import generate_texts
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import ConditionalGeneration, Task, encode_texts
from jaxprefix.tasks.encode import columns_of
from jaxprefix.tasks.formats.rows import open_rows
from jaxprefix.tasks.formats.tokens import stop_words
from jaxprefix.tasks.metrics import evaluate_metrics
from jaxprefix.tasks.text_metrics import text_metrics
from jaxprefix.trees import Tree

log = logging.getLogger("jaxprefix")


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
            collected.setdefault(name, []).append(fetch_global(value))

    for batch, index in evaluation_batches(examples, batch_size, None, local_rows(mesh, batch_size)):
        placed = put_batch(batch, mesh)
        labels = {"labels": placed["labels"]} if "labels" in placed else {}
        outputs = {**eval_step(trainable, frozen, placed), **labels}
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


def cases(task: ConditionalGeneration, split: str) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """The different prompts of a split, as rows, and for each all its targets."""
    rows, made = open_rows(task, split), task.format
    found: dict[tuple, tuple[dict, list]] = {}
    for index, row in enumerate(rows):
        if made is not None:
            _, targets = found.setdefault(tuple(made.prompt(row, rows.locate(index))), (dict(row), []))
            targets += made.references(row, rows.locate(index))
            continue
        columns = {name: rows.value(row, index, name) for name in columns_of(task)}
        _, targets = found.setdefault(tuple(map(str, columns.values())), (columns, []))
        targets.append(str(rows.value(row, index, task.target)))
    prompts, references = zip(*found.values(), strict=True)
    return list(prompts), list(references)


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
    """BLEU, chrF and ROUGE of what the model writes for each prompt of a split; nothing where the task writes no text,
    or where the packages that score it are not installed, which the log tells."""
    if not isinstance(task, ConditionalGeneration):
        return {}
    try:
        text_metrics(["a"], [["a"]])
    except UserError as error:
        log.info("no BLEU, chrF and ROUGE: %s", error)
        return {}
    rows, references = cases(task, split)
    prompts = encode_texts(task, tokenizer, rows)
    options = {"batch_size": batch_size, "stops": stop_words(task)}
    texts = generate_texts(model, trainable, frozen, tokenizer, prompts, decoding, **options)
    return text_metrics(texts, references)
