"""The gate of trees that come out of files: leaves are those that a model needs, and finite, before anything runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprefix.errors import UserError, listed
from jaxprefix.trees import Tree, flatten

PIECE = 2**20  # values that are looked at at a time
_EXPONENTS = {
    2: {"float16": 0x7C00, "bfloat16": 0x7F80},
    4: {"float32": 0x7F800000},
    8: {"float64": 0x7FF0000000000000},
}


def check_leaves(what: str, found: Tree, needed: Tree, remedy: str) -> None:
    """Refuses, as UserError, leaves of other names, shapes or kinds of dtype than a model needs, or not finite.

    Args:
      what: whose leaves they are, for messages.
      found: nested dicts of numpy arrays.
      needed: the same of arrays or shapes.
      remedy: the end of the sentence.
    """
    have, want = flatten(found), flatten(needed)
    lines = [f"{path} is missing" for path in want if path not in have]
    lines += [f"{path} is not known" for path in have if path not in want]
    for path in (path for path in want if path in have):
        here, there = tuple(have[path].shape), tuple(want[path].shape)
        if here != there:
            lines.append(f"{path} has shape {list(here)} and {list(there)} is needed")
        elif _is_float(have[path]) != _is_float(want[path]):
            lines.append(f"{path} is {have[path].dtype} and {want[path].dtype} is needed")
    if lines:
        raise UserError(f"the leaves of {what} are not those of its model ({listed(lines, 3)}); {remedy}.")
    check_finite(what, have, remedy)


def check_finite(what: str, arrays: Mapping[str, Any], remedy: str) -> None:
    """Refuses, as UserError, named arrays with NaN or infinity in them, with the count of the first one's."""
    for name, array in arrays.items():
        wrong = count_not_finite(np.asarray(array))
        if wrong:
            raise UserError(f"{what} has {wrong:,} values in {name} that are not finite (NaN or infinity); {remedy}.")


def count_not_finite(array: np.ndarray) -> int:
    """How many values of an array of floats are NaN or infinite, in little memory; 0 of other dtypes."""
    exponent = _EXPONENTS.get(array.dtype.itemsize, {}).get(array.dtype.name)
    if exponent is None or not array.size:
        return 0
    words = np.dtype(f"u{array.dtype.itemsize}")
    flat = array.reshape(-1) if array.flags.c_contiguous else None
    pieces = (array,) if flat is None else (flat[start : start + PIECE] for start in range(0, array.size, PIECE))
    return sum(int(((np.ascontiguousarray(one).view(words) & exponent) == exponent).sum()) for one in pieces)


def _is_float(leaf: Any) -> bool:
    return leaf.dtype.name in {name for names in _EXPONENTS.values() for name in names}
