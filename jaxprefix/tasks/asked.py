"""The gate of rows that a person asks a trained adapter about."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxprefix.data.examples import Examples
from jaxprefix.errors import UserError


def asked_rows(what: str, rows: Any) -> list[str | Mapping[str, Any]]:
    """The rows as a list of texts and mappings.

    Args:
      what: the function that is called, for messages.
      rows: a list, a tuple, an array or whatever else gives texts and mappings one after another.

    Raises:
      UserError: one row stands in place of the list, or a row is neither a text nor a mapping.
    """
    if isinstance(rows, str | bytes | Mapping):
        kind = "one text" if isinstance(rows, str) else "bytes" if isinstance(rows, bytes) else "one row"
        name = "text" if isinstance(rows, str | bytes) else "row"
        raise UserError(f"{what} is given {kind} and takes a list of rows; write {what}([{name}]).")
    if not isinstance(rows, Iterable) or getattr(rows, "ndim", 1) == 0:
        raise UserError(
            f"{what} is given {_named(rows)} and takes a list of rows, each a text or a mapping of columns."
        )
    return [_asked_row(what, index, row) for index, row in enumerate(rows)]


def _asked_row(what: str, index: int, row: Any) -> str | Mapping[str, Any]:
    if isinstance(row, str):
        return str(row)  # NumPy's text too
    if not isinstance(row, Mapping):
        raise UserError(
            f"row {index} of {what} is {_named(row)}; a row is a text, or a mapping of the task's columns to values."
        )
    return row


def asked_names(what: str, names: Any) -> list[str]:
    """The name of an adapter for each row, as a list.

    Raises:
      UserError: a text stands in place of the list, or an entry is no text.
    """
    if isinstance(names, str | bytes | Mapping) or not isinstance(names, Iterable) or getattr(names, "ndim", 1) == 0:
        raise UserError(
            f"{what} is given {_named(names)} for adapters; write the list of each row's, as in [name] * len(rows)."
        )
    found = list(names)
    for index, name in enumerate(found):
        if not isinstance(name, str):
            raise UserError(f"the adapter of row {index} of {what} is {_named(name)}; give the name of one.")
    return [str(name) for name in found]


def check_rows_at_a_time(what: str, batch_size: Any) -> None:
    """Refuses, as UserError, a number of rows that is no whole number above 0."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"{what} has batch_size = {batch_size!r}; it must be a whole number of at least 1.")


def check_tokens(examples: Examples, numbers: np.ndarray | None = None) -> None:
    """Refuses, as UserError, a row without a token, as an empty text is where the tokenizer adds none of its own.

    Args:
      examples: of rows that are asked about.
      numbers: those of the rows in the call, where the examples are of some of them.
    """
    if len(examples) and not examples.lengths.min():
        row = int(examples.row_numbers[np.argmin(examples.lengths)])
        row = row if numbers is None else int(numbers[row])
        raise UserError(
            f"row {row} has no token, so there is nothing to answer from; give it a text that is not empty."
        )


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
