"""The checker of annotations that the import hook of `tests/conftest.py` puts around every function of the package.

What it is given are functions that do nothing but bear a signature. For each function of the package jaxtyping makes
two whenever its `def` is run, for a function within another at every call of the outer one: the first checks arguments,
the second arguments again and what is returned. So checkers of equal signatures are kept, since beartype writes and
compiles each, and the second is left what is returned, in the shapes that the first has bound.
"""

from typing import Any

import beartype

CHECKERS = {}


def checked(function):
    """`function`, or an equal one that was here before, as beartype has it."""
    notes = function.__annotations__
    if notes.get("return", Any) is not Any:  # the second
        function.__annotations__ = notes = {name: note if name == "return" else Any for name, note in notes.items()}
    defaults = len(function.__defaults__ or ()), tuple(function.__kwdefaults__ or ())
    key = function.__module__, function.__qualname__, function.__code__, defaults, tuple(notes.items())
    try:
        if key not in CHECKERS:
            CHECKERS[key] = beartype.beartype(function)
    except TypeError:  # an annotation that has no hash
        return beartype.beartype(function)
    return CHECKERS[key]
