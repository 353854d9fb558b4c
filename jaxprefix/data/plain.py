"""Values of rows as plain Python, whichever library made them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

SIMPLE = frozenset((str, int, bool, type(None)))  # types of values that are plain as they are
_MISSING = ("NAType", "NaTType")  # of pandas, which is not imported
DEEPEST = 100  # lists and dicts within each other that a value may have
_NUMBERS, _OBJECTS = "biuU", "O"  # kinds of numpy's dtypes


class Unsupported(Exception):
    """A value that rows do not hold; its one argument names its type."""


def plain_cell(value: Any) -> Any:
    """The value of a column: text, whole numbers, floats, booleans, None, lists, and dicts by text.

    Bytes that are UTF-8 are text. Scalars and arrays of numpy (and whatever turns into such: tensors) become numbers
    and lists, tuples lists. NaN is None, since a library such as pandas writes both for a cell that has nothing in it;
    within a list it stays NaN.

    Raises:
      Unsupported: something else is in it: other bytes, images, times; or lists in lists without end.
    """
    value = plain(value)
    return None if type(value) is float and math.isnan(value) else value


def plain(value: Any, depth: int = 0) -> Any:
    """A value, or one within `depth` lists or dicts; see `plain_cell`."""
    kind = type(value)
    if depth > DEEPEST:
        raise Unsupported(f"lists or dicts within each other, {DEEPEST} deep and more,")
    if kind in SIMPLE or kind is float:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # numpy's, and members of enumerations
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise Unsupported("a value of type bytes") from None
    if isinstance(value, np.generic):
        return plain(np.asarray(value), depth)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise Unsupported("a dict by something else than text")
        return {plain(key): plain(item, depth + 1) for key, item in value.items()}
    if kind.__name__ in _MISSING:
        return None
    if isinstance(value, np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "tolist")):
        return _of_array(np.asarray(value), depth)
    raise Unsupported(f"a value of type {kind.__name__}")


def _of_array(array: np.ndarray, depth: int) -> Any:
    if array.dtype.kind == "f":
        return array.astype(np.float64).tolist()  # floats of any width; a narrow one is the same number in a wide one
    if array.dtype.kind in _NUMBERS:
        return array.tolist()
    if array.dtype.kind in _OBJECTS:
        return plain(array.tolist(), depth)
    raise Unsupported(f"an array of {array.dtype.name}")
