"""Which labels there are, and which of them a row has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError, listed

MOST = 20  # labels that a message lists
LabelsOf = Callable[[Rows, Mapping[str, Any], int], Iterable[Any]]
"""The raw labels of a row, from the rows, the row and its number."""


def label_names(labels: Sequence[str] | None, column: str, rows: Rows, labels_of: LabelsOf) -> tuple[str, ...]:
    """The labels in the order of the logits: the given ones, else the dataset's own, else those of these training rows.

    Labels found in the rows are sorted, as numbers where all are whole numbers.

    Args:
      labels: those that the task names, or None.
      column: where the labels are.
      rows: the training rows.
      labels_of: the raw labels of a row.
    """
    if labels is not None:
        return checked_labels(labels)
    if column in rows.class_names:
        return rows.class_names[column]
    found: set[str] = set()
    for index, row in enumerate(rows):
        found.update(map(str, labels_of(rows, row, index)))
    return tuple(sorted(found, key=int if all(map(_is_whole, found)) else None))


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels; refuses, as UserError, one that is named twice."""
    if len(set(labels)) != len(labels):
        raise UserError(f"The labels {listed(labels, MOST)} name one twice; give each once.")
    return tuple(labels)


def label_finder(rows: Rows, column: str, names: Sequence[str]) -> Callable[[Any, int], int]:
    """A function (raw value, row) -> index into `names`, raising `UserError` for a label that is not there."""
    indices = {name: index for index, name in enumerate(names)}
    own_names = rows.class_names.get(column)

    def find(value: Any, row: int) -> int:
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


def named_labels(names: Sequence[str]) -> dict[str, Any]:
    """Names in the order of the logits as the `config.json` of transformers has them."""
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()
