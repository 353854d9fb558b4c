"""A person who uses an old name of an argument, a field or a member in Python is told the new one.

What was renamed stands in one table, `renamed.MEMBERS`; a class or function in it is decorated with
`answer_old_names`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jaxprefix.errors import UserError
from jaxprefix.renamed import MEMBERS

T = TypeVar("T", bound=Callable[..., Any])


def answer_old_names(owner: T) -> T:
    """Decorator of a class, outermost, or of a function: its old names in `renamed.MEMBERS` are answered.

    An old argument is a `UserError`, and so is it in subclasses, unless they have a field of that name themselves. An
    old attribute is an `AttributeError`, so that `hasattr` says no. Whoever uses today's names only pays for a look at
    the names of the arguments.
    """
    answer: Any = _of_class if isinstance(owner, type) else _of_function
    return answer(owner, MEMBERS[owner.__name__])


def _of_function(function: Any, old: Mapping[str, str]) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(function.__name__, old, kwargs)
        return function(*args, **kwargs)

    return call


def _of_class(owner: Any, old: Mapping[str, str]) -> Any:
    for name, new in old.items():
        setattr(owner, name, _Renamed(name, new))
    make = owner.__new__

    def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        own = getattr(cls, "__dataclass_fields__", ())
        _check_arguments(cls.__name__, old, (name for name in kwargs if name not in own))
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    owner.__new__ = staticmethod(__new__)
    return owner


def _check_arguments(owner: str, old: Mapping[str, str], given: Iterable[str]) -> None:
    for name in given:
        if name in old:
            raise UserError(_sentence(owner, name, old[name]))


def _sentence(owner: str, name: str, new: str) -> str:
    return f"{owner} has no {name!r}, which is {new!r} now; use that name."


class _Renamed:
    """Stands in a class under an old name; without a setter, so that an instance may have an attribute of that name."""

    def __init__(self, name: str, new: str) -> None:
        self.name, self.new = name, new

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(_sentence(owner.__name__, self.name, self.new))
