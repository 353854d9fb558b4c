"""Rows in memory. What is stored of them is a description (`Table`), never a row."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxprefix.data.containers import GIVE, open_container
from jaxprefix.data.plain import SIMPLE, Unsupported, plain_cell
from jaxprefix.data.rows import Rows
from jaxprefix.data.source import SPLITS, Source
from jaxprefix.errors import UserError, listed
from jaxprefix.typed_json import register

MOST = 20  # columns that a message lists
FORMAT = 1  # of the digest; raise it when the same rows would have another one
BLOCK = 1000  # rows that are written at a time for it
_text_of = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


@register
@dataclass(frozen=True)
class Table:
    """What runs, checkpoints and adapters store of a split that lay in memory."""

    columns: tuple[str, ...]
    """The columns, sorted."""
    rows: int
    """How many rows there were."""
    digest: str
    """SHA-256 of the content. It changes with any value or its type, with the order of the rows, a column or its name,
    and names of classes; it is the same whatever the rows lay in, and in whatever order their columns were."""

    def __repr__(self) -> str:
        return f"<{self.rows} rows, digest {self.digest[:12]}>"


class _Held:
    """Rows as they were given, with their description, which is made once, when it is first asked for."""

    def __init__(self, data: Any, name: str) -> None:
        self._kind, self._name = type(data).__name__, name
        self._container = open_container(data, name)
        if not self._container.size:
            raise UserError(f"{name} has no rows; give some, or None.")

    @cached_property
    def _walked(self) -> tuple[tuple[str, ...], str]:
        """The columns in their order, and the digest of the content."""
        names: dict[str, None] = dict.fromkeys(self._container.columns or ())
        content = hashlib.sha256()
        for start in range(0, self._container.size, BLOCK):
            rows = [self._row(index) for index in range(start, min(start + BLOCK, self._container.size))]
            for row in rows:
                if not row.keys() <= names.keys():
                    names.update(dict.fromkeys(row))
            content.update(_text_of(_dense(rows)).encode("utf-8", "surrogatepass") + b"\n")
        if not names:
            raise UserError(f"{self._name} has no columns; {GIVE}.")
        about = [FORMAT, sorted(names), sorted(self._container.class_names.items())]
        whole = hashlib.sha256(_text_of(about).encode("utf-8", "surrogatepass") + b"\n" + content.digest())
        return tuple(names), whole.hexdigest()

    @cached_property
    def table(self) -> Table:
        columns, digest = self._walked
        return Table(tuple(sorted(columns)), self._container.size, digest)

    def rows(self) -> Rows:
        columns, digest = self._walked

        def read(index: int) -> dict[str, Any]:
            row = self._row(index)
            return {column: row.get(column) for column in columns}

        return Rows(
            self._name,
            f"memory {digest}",
            self._container.size,
            read,
            self._locate,
            self._container.class_names,
            columns,
        )

    def _locate(self, index: int) -> str:
        return f"{self._name}, row {index}"

    def _row(self, index: int) -> dict[str, Any]:
        try:
            row = self._container.read(index)
        except (LookupError, TypeError) as error:
            raise UserError(
                f"{self._locate(index)} cannot be read ({type(error).__name__}: {error}); {GIVE}."
            ) from error
        if not isinstance(row, Mapping):
            raise UserError(f"{self._locate(index)} is of type {type(row).__name__} and not a dict; {GIVE}.")
        found = {}
        for column, value in row.items():
            if not isinstance(column, str):
                raise UserError(f"{self._locate(index)} has the column {column!r}, which is no text; rename it.")
            try:
                found[column] = value if type(value) in SIMPLE else plain_cell(value)
            except Unsupported as error:
                raise UserError(
                    f"{self._locate(index)} has {error} in column {column!r}; rows hold text, numbers, booleans, and "
                    "lists and dicts of these, so convert the column or drop it."
                ) from None
        return found

    def __stored__(self) -> Table:
        return self.table

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Held | Table):
            return NotImplemented
        return self is other or self.table == (other.table if isinstance(other, _Held) else other)

    def __hash__(self) -> int:
        return hash(self.table)

    def __deepcopy__(self, copies: Any) -> "_Held":
        return self  # `dataclasses.asdict` of a task must not copy its rows

    def __repr__(self) -> str:
        return f"<{self._container.size} rows of a {self._kind}>"


def _dense(value: Any) -> Any:
    """A value without what is None in dicts, since tables of one library have None where those of another have no
    key."""
    if type(value) is dict:
        return {key: item if type(item) in SIMPLE else _dense(item) for key, item in value.items() if item is not None}
    return [_dense(item) for item in value] if type(value) is list else value


@register
@dataclass(frozen=True)
class InMemory(Source):
    """Rows that are in memory already: per split a list of dicts, a Hugging Face dataset, a pandas or Arrow table, or
    anything with a length whose `[i]` is a dict, such as a source of Grain.

    Columns hold text, numbers, booleans, and lists and dicts of these; scalars and arrays of numpy count as such. All
    splits have the same columns; a row that lacks one has None there, and a NaN in a column is None too. The index of
    a pandas table is no column, and names of classes (`ClassLabel`) are those of labels.

    Rows are not copied, so leave them as they are while a run has them. They are not stored either: runs, checkpoints
    and adapters hold columns, number of rows and a digest of the content, by which values are compared and hashed. A
    run resumes with rows of the same digest, and a loaded adapter is evaluated by `evaluate(rows=...)`.
    """

    train: Any = None
    """The rows to train on."""
    validation: Any = None
    """The rows that choose the best checkpoint and stop early."""
    test: Any = None
    """The rows that are looked at once, at the end."""

    def __post_init__(self) -> None:
        for split in self.splits:
            data = getattr(self, split)
            if not isinstance(data, _Held | Table):
                object.__setattr__(self, split, _Held(data, f"InMemory, split {split}"))

    def _open(self, split: str) -> Rows:
        held = getattr(self, split)
        if isinstance(held, Table):
            raise UserError(
                f"The rows of the {split} split ({held.rows} of {listed(held.columns, MOST)}) were in memory and are "
                "not stored; give rows again: jp.InMemory in a run, evaluate(rows=...) of an adapter, --file of "
                "`jaxprefix evaluate`."
            )
        rows = held.rows()
        for other, table in self._tables():
            if {*table.columns} != {*rows.columns}:
                raise UserError(
                    f"{rows.name} has the columns {listed(rows.columns, MOST)}, and the {other} split "
                    f"has {listed(table.columns, MOST)}; give all splits the same."
                )
        return rows

    def _tables(self) -> Iterator[tuple[str, Table]]:
        for split in SPLITS:
            held = getattr(self, split)
            if held is not None:
                yield split, held.table if isinstance(held, _Held) else held
