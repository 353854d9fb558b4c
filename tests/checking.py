"""The checker of annotations that the import hook of `tests/conftest.py` puts around every function of the package.

What it is given are functions that do nothing but bear a signature; jaxtyping makes them anew whenever a `def` is run.
For a function within another that is at every call of the outer one, so checkers of equal signatures are kept: beartype
writes and compiles each.
"""

import beartype

CHECKERS = {}


def checked(function):
    """`function`, or an equal one that was here before, as beartype has it."""
    place = function.__module__, function.__qualname__, function.__code__
    defaults = len(function.__defaults__ or ()), tuple(function.__kwdefaults__ or ())
    key = place, defaults, tuple(function.__annotations__.items())
    try:
        if key not in CHECKERS:
            CHECKERS[key] = beartype.beartype(function)
    except TypeError:  # an annotation that has no hash
        return beartype.beartype(function)
    return CHECKERS[key]
