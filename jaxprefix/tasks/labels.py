"""Which labels there are, and which of them a row has."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError, listed
from jaxprefix.tasks.cells import read_label

MOST = 20  # labels that a message lists
LabelsOf = Callable[[Rows, Mapping[str, Any], int], Iterable[Any]]
"""The raw labels of a row, from the rows, the row and its number."""


def label_names(labels: Sequence[str] | None, column: str, rows: Rows, labels_of: LabelsOf) -> tuple[str, ...]:
    """The labels in the order of the logits: the given ones, else the dataset's own, else those of these training rows.

    Labels found in the rows are sorted, as numbers where all are whole numbers. `UserError` where all are numbers and
    one has a fraction, or where one number is written in two ways: a column of numbers is none of labels.

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
    found: dict[str, int] = {}  # with the first row of each
    for index, row in enumerate(rows):
        for value in labels_of(rows, row, index):
            if type(value) is str and value in found:
                continue
            found.setdefault(str(read_label(rows, index, column, value)), index)
    _refuse_numbers(rows, column, found)
    return tuple(sorted(found, key=int if all(map(is_whole, found)) else None))


def checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels; refuses, as UserError, one that is named twice."""
    if len(set(labels)) != len(labels):
        raise UserError(f"The labels {listed(labels, MOST)} name one twice; give each once.")
    return tuple(labels)


def label_finder(
    rows: Rows, column: str, names: Sequence[str], labels_of: LabelsOf | None = None
) -> Callable[[Any, int], int]:
    """A function (raw value, row) -> index into `names`, raising `UserError` for a label that is not there.

    The k-th name is that of the whole number k where the dataset says so (`Rows.class_names`), and where the column
    holds nothing but whole numbers and no name is spelled like one.

    Args:
      rows: whose labels are looked for.
      column: where the labels are.
      names: in the order of the logits.
      labels_of: the raw labels of a row; by default the one that the column holds.
    """
    indices = {name: index for index, name in enumerate(names)}
    own_names = rows.class_names.get(column)

    @functools.cache
    def numbered() -> bool:
        if any(map(is_whole, names)):
            return False
        every = labels_of or (lambda rows, row, index: [rows.value(row, index, column)])
        return all(
            is_whole(str(read_label(rows, index, column, value)))
            for index, row in enumerate(rows)
            for value in every(rows, row, index)
        )

    known: dict[str, int] = {}

    def find(value: Any, row: int) -> int:
        if type(value) is not str:
            return look_up(value, row)
        if value not in known:
            known[value] = look_up(value, row)
        return known[value]

    def look_up(value: Any, row: int) -> int:
        label = read_label(rows, row, column, value)
        name = str(label)
        by_number = own_names if own_names is not None and isinstance(label, int) else None
        if own_names is None and name not in indices and is_whole(name) and numbered():
            by_number = names
        if by_number is not None:
            if not 0 <= int(name) < len(by_number):
                raise UserError(f"{rows.locate(row)} carries no label ({name}); use a split whose labels are public.")
            named = by_number[int(name)]
            name = named if named in indices or name not in indices else name  # earlier versions knew numbers alone
        elif name not in indices and isinstance(value, float):
            name = str(value)  # as earlier versions called it
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


def is_whole(text: str) -> bool:
    """Whether a label is spelled like a whole number."""
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def _refuse_numbers(rows: Rows, column: str, found: Mapping[str, int]) -> None:
    if not all(map(_NUMBER.fullmatch, found)):
        return
    spelled: dict[float, str] = {}
    for name, index in found.items():
        number = float(name)
        if not number.is_integer():
            raise UserError(
                f"{rows.locate(index)} has {name} in column {column!r}, in which all labels are numbers; for numbers "
                "take jp.Regression, or list the labels in the task's labels."
            )
        if spelled.setdefault(number, name) != name:
            raise UserError(
                f"{rows.locate(index)} has the label {name!r} in column {column!r}, and another row has "
                f"{spelled[number]!r}, which is the same number; write them alike."
            )
