"""From the outputs of a bank's program to what each adapter's task answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.data import one_batch, restore_order
from jaxprefix.data.examples import Examples
from jaxprefix.models.heads import Head
from jaxprefix.serving.heads import Served
from jaxprefix.tasks.base import Evaluated


class Part(NamedTuple):
    """The rows of one member: its number, the numbers of its rows in the order of the call, and their examples."""

    member: int
    rows: Int[np.ndarray, " rows"]
    examples: Examples


def members_of(parts: Sequence[Part]) -> Int[np.ndarray, " examples"]:
    """The member of every example, int32."""
    return np.concatenate([np.full(len(part.examples), part.member, np.int32) for part in parts])


def in_order(
    heads: Sequence[Head], batches: Sequence[Sequence[dict[str, np.ndarray]]], indices: Sequence[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """The outputs of all examples by each head, from those of each batch."""
    found = []
    for head, outputs in zip(heads, zip(*batches, strict=True), strict=True):
        names = outputs[0]
        fills = {name: head.fill(name, value.dtype) for name, value in names.items()}
        found.append({name: restore_order([one[name] for one in outputs], indices, fills[name]) for name in names})
    return found


def answers(
    adapter: Adapter, served: Served, outputs: dict[str, np.ndarray], part: Part, rows: Sequence[Any]
) -> list[dict[str, Any]]:
    """What an adapter's task answers for its rows, from the outputs of their examples."""
    count, examples, task = len(served.form.bias), part.examples, adapter.run.task
    found = {name: value[..., :count] if name in served.head.over_labels else value for name, value in outputs.items()}
    batch = one_batch(examples, np.arange(len(examples)))
    targets = {name: batch[name] for name in examples.targets}  # of unlabelled rows: where answers are read off
    evaluated = Evaluated(found, targets, examples.row_numbers, examples.groups, adapter.facts)
    return task.answers(evaluated, rows, False)
