"""Rows of a split as a random-access sequence of dicts, whatever they are stored in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxprefix.errors import UserError


@dataclass(frozen=True)
class Rows(Sequence):
    """A split. `rows[i]` is a dict from column to value: str, int, float, bool, None or a list of these."""

    name: str
    """What the split is called in messages."""
    identity: str
    """Changes with the content; equal content may be read from a cache."""
    size: int
    read: Callable[[int], dict[str, Any]] = field(repr=False)
    locate: Callable[[int], str] = field(repr=False)
    """Where row `i` is, for messages: `train.jsonl:17`."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label names of columns that hold indices into them."""
    columns: tuple[str, ...] | None = None
    """The columns; None where every row says itself which it has."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.size <= index < self.size:
            raise IndexError(index)
        return self.read(index % self.size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.read, range(self.size))

    def value(self, row: Mapping[str, Any], index: int, column: str) -> Any:
        """A column of a row; `UserError` if the row has no such column or nothing in it."""
        if column not in row:
            spaced = next((name for name in row if name.strip() == column), None)
            if spaced is not None:
                raise UserError(
                    f"{self.locate(index)} has no column {column!r}, but one whose name has white space around it "
                    f"({spaced!r}); remove that in the header, or name the column so in the task."
                )
            raise UserError(
                f"{self.locate(index)} has no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}. "
                "Name the right one in the task."
            )
        if row[column] is None:
            raise UserError(f"{self.locate(index)} has nothing in column {column!r}; fill it in or remove the row.")
        return row[column]
