"""What rows in memory may lie in, told by what an object can do: no library of tables is imported here.

Each kind is a function that gives a `Container` of an object, or None where it is of another kind, and a line in
`KINDS`.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxprefix.data.readers.arrow import class_names
from jaxprefix.errors import UserError, listed

GIVE = "give a list of dicts, a Hugging Face dataset, a pandas or Arrow table, or a sequence of dicts"
BLOCK = 1000  # rows that are taken out of a dataset at a time


@dataclass(frozen=True)
class Container:
    """Random access to the rows of an object."""

    size: int
    read: Callable[[int], Any] = field(repr=False)
    """What should be a dict."""
    columns: tuple[Any, ...] | None = None
    """The columns; None for those of all rows together."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def open_container(data: Any, name: str) -> Container:
    """The rows of an object, whatever it is.

    Args:
      data: the object.
      name: what messages call it.

    Raises:
      UserError: it is nothing that rows can be read from.
    """
    if isinstance(data, str | bytes):
        raise UserError(f"{name} is text; {GIVE}, or name files by jp.Files.")
    if isinstance(data, Mapping):
        raise UserError(
            f"{name} is of type {type(data).__name__} with {listed(map(repr, data))}; give the rows of one split as a "
            "list of dicts, or as one table."
        )
    found = next((found for kind in KINDS if (found := kind(data)) is not None), None) if _has_rows(data) else None
    if found is None:
        raise UserError(f"{name} is of type {type(data).__name__}, which has no length or no rows by number; {GIVE}.")
    if found.size == sys.maxsize:
        raise UserError(f"{name} has no end; give a sequence without repeat().")
    named = found.columns or ()
    if len(set(named)) < len(named):
        raise UserError(f"{name} names a column twice ({', '.join(map(str, named))}); rename one.")
    return found


def _has_rows(data: Any) -> bool:
    try:
        len(data)
    except TypeError:  # a stream has none, though its class may say so
        return False
    return hasattr(data, "__getitem__")


def _data_frame(data: Any) -> Container | None:
    """pandas: by columns, since its rows turn whole numbers beside floats into floats. The index is no column."""
    if not (hasattr(data, "iloc") and hasattr(data, "columns")):
        return None
    names = tuple(data.columns)
    columns = {name: data.iloc[:, number].array for number, name in enumerate(names)}
    return Container(len(data), lambda index: {name: values[index] for name, values in columns.items()}, names)


def _arrow_table(data: Any) -> Container | None:
    """An Arrow table or record batch."""
    if not (hasattr(data, "schema") and hasattr(data, "to_pydict")):
        return None
    names = tuple(data.schema.names)
    columns = dict(zip(names, data.columns, strict=True))

    def read(index: int) -> dict[str, Any]:
        return {name: values[index].as_py() for name, values in columns.items()}

    return Container(data.num_rows, read, names, class_names(data.schema))


def _dataset(data: Any) -> Container | None:
    """Hugging Face `datasets`: in blocks, since one row costs nearly what many do. Its format and transform apply."""
    if not (hasattr(data, "features") and hasattr(data, "with_format")):
        return None
    kept: dict[int, Callable[[int], Any]] = {}

    def read(index: int) -> Any:
        number, inner = divmod(index, BLOCK)
        if number not in kept:
            block = data[number * BLOCK : min((number + 1) * BLOCK, len(data))]
            kept.clear()
            kept[number] = _of_columns(block) if isinstance(block, Mapping) else open_container(block, "a block").read
        return kept[number](inner)

    names = {column: _names_of_classes(feature) for column, feature in (data.features or {}).items()}
    return Container(len(data), read, None, {column: found for column, found in names.items() if found})


def _of_columns(block: Mapping[str, Any]) -> Callable[[int], Any]:
    return lambda index: {name: values[index] for name, values in block.items()}


def _names_of_classes(feature: Any) -> tuple[str, ...]:
    """Of `ClassLabel`, or of a list of it."""
    feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    return tuple(names) if isinstance(names, list | tuple) else ()


def _sequence(data: Any) -> Container:
    """A list, a source of Grain, or anything else that gives its rows by their numbers."""
    return Container(len(data), data.__getitem__)


KINDS: tuple[Callable[[Any], Container | None], ...] = (_data_frame, _arrow_table, _dataset, _sequence)
