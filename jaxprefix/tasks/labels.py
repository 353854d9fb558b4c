"""Which labels there are, and which of them a row has."""

from collections.abc import Callable
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError, listed
from jaxprefix.tasks.encode import tag_values
from jaxprefix.tasks.kinds import Classification, Tagging

MOST = 20  # labels that a message lists


def label_names(task: Classification | Tagging, rows: Rows) -> tuple[str, ...]:
    """The labels in the order of the logits: the task's, else the dataset's own, else those of these training rows.

    Labels found in the rows are sorted, as numbers where all are whole numbers.
    """
    column = _column(task)
    if task.labels is not None:
        if len(set(task.labels)) != len(task.labels):
            raise UserError(f"The labels {listed(task.labels, MOST)} name one twice; give each once.")
        return task.labels
    if column in rows.class_names:
        return rows.class_names[column]
    found: set[str] = set()
    for index, row in enumerate(rows):
        raw = (
            [rows.value(row, index, column)] if isinstance(task, Classification) else tag_values(task, rows, row, index)
        )
        found.update(map(str, raw))
    return tuple(sorted(found, key=int if all(map(_is_whole, found)) else None))


def label_finder(task: Classification | Tagging, rows: Rows, names: tuple[str, ...]) -> Callable[[Any, int, str], int]:
    """A function (raw value, row, column) -> index into `names`, raising `UserError` for a label that is not there."""
    indices = {name: index for index, name in enumerate(names)}
    own_names = rows.class_names.get(_column(task))

    def find(value: Any, row: int, column: str) -> int:
        name = str(value)
        if own_names is not None and isinstance(value, int):
            if not 0 <= value < len(own_names):
                raise UserError(f"{rows.locate(row)} carries no label ({value}); use a split whose labels are public.")
            name = own_names[value]
        if name not in indices:
            raise UserError(
                f"{rows.locate(row)} has the label {name!r} in column {column!r}, unknown to the label list "
                f"({listed(names, MOST)}); correct the row or add the label to the task's labels."
            )
        return indices[name]

    return find


def _column(task: Classification | Tagging) -> str:
    return task.label if isinstance(task, Classification) else task.tags


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
