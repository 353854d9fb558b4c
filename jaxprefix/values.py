"""One rule for the fields of all values that people make: type, literals and bounds, as the annotation says them.

    Count = Annotated[int, Bounds(low=1)]

    @checked
    @dataclasses.dataclass(frozen=True)
    class Method:
        length: Count = 16

A value outside is a `UserError` that names class, field and what is taken, when the instance is made. Whole numbers
are never taken for a truth value nor the other way round, a number is finite, and a whole number becomes one with a
point where a number is asked for. NumPy's scalars, lists and paths are taken where Python's numbers, tuples and text
are asked for, and become these, so that a value can be hashed, compared and stored. `typed_json.register` has what it
registers checked.
"""

import dataclasses
import functools
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast

import numpy as np

from jaxprefix.errors import UserError

T = TypeVar("T")


class Bounds(NamedTuple):
    """Where a number must lie, in an annotation; `above` and `below` leave out the bounds themselves."""

    low: int | float | None = None
    high: int | float | None = None
    above: bool = False
    below: bool = False

    def hold(self, number: int | float) -> bool:
        """Whether the number lies within."""
        low = self.low is None or (number > self.low if self.above else number >= self.low)
        return low and (self.high is None or (number < self.high if self.below else number <= self.high))

    def __str__(self) -> str:
        low = None if self.low is None else f"{'above' if self.above else 'of at least'} {self.low:g}"
        most = "below" if self.below else "of at most" if low is None else "at most"
        high = None if self.high is None else f"{most} {self.high:g}"
        return " and ".join(part for part in (low, high) if part)


Count = Annotated[int, Bounds(low=1)]
Extent = Annotated[int, Bounds(low=1, high=2**31 - 1)]
Natural = Annotated[int, Bounds(low=0)]
Rate = Annotated[float, Bounds(low=0, high=1, below=True)]
Share = Annotated[float, Bounds(low=0, high=1)]
Fraction = Annotated[float, Bounds(low=0, high=1, above=True, below=True)]
Positive = Annotated[float, Bounds(low=0, above=True)]
NonNegative = Annotated[float, Bounds(low=0)]


class Named(NamedTuple):
    """What a text names, in an annotation."""

    what: str


Place = Annotated[str, Named("a path")]
"""The path of a file or folder, or a pattern of such, or a bucket's."""


def checked(cls: type[T]) -> type[T]:
    """Makes a dataclass check its fields when an instance is made; a class decorator above `dataclass`.

    Raises:
      UserError: (the made class, at construction) a field is not what its annotation says.
    """
    make = cls.__init__
    if getattr(make, "__checks__", None) is cls:
        return cls
    names = [field.name for field in dataclasses.fields(cast(Any, cls)) if field.init]
    by_place = [field.name for field in dataclasses.fields(cast(Any, cls)) if field.init and not field.kw_only]

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) <= len(by_place) and kwargs.keys() <= set(names):  # else Python's own TypeError follows
            args = tuple(_field(cls, name, value) for name, value in zip(by_place, args, strict=False))
            kwargs = {name: _field(cls, name, value) for name, value in kwargs.items()}
        make(self, *args, **kwargs)

    setattr(__init__, "__checks__", cls)  # noqa: B010  a function's own attribute, which type checkers do not know
    setattr(cls, "__init__", __init__)  # noqa: B010
    _tell_truth_values_apart(cls, names)
    return cls


def _tell_truth_values_apart(cls: type, names: list[str]) -> None:
    """Makes a field that takes truth values and numbers tell True from 1, which Python takes for equal: values are
    static arguments of compiled programs, and one would get the other's."""
    equal = vars(cls).get("__eq__")
    if equal is None:
        return

    @functools.wraps(equal)
    def __eq__(self: Any, other: Any) -> Any:
        same = equal(self, other)
        if same is not True:
            return same
        return all(isinstance(getattr(self, name), bool) == isinstance(getattr(other, name), bool) for name in names)

    setattr(cls, "__eq__", __eq__)  # noqa: B010


def _field(cls: type, name: str, value: Any) -> Any:
    annotation = annotations(cls).get(name, Any)
    taken = _taken(annotation, value)
    if taken is _REFUSED:
        shown = f"the class {value.__name__}" if isinstance(value, type) else _short.repr(value)
        raise UserError(f"{cls.__name__} has {name} = {shown}; it must be {described(annotation)}.")
    return taken


@functools.cache
def annotations(cls: type) -> dict[str, Any]:
    """The annotations of a class's fields with what `Annotated` says of them."""
    return typing.get_type_hints(cls, include_extras=True)


_REFUSED: Any = object()
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def _taken(annotation: Any, value: Any) -> Any:
    """The value as it is kept, or `_REFUSED`."""
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        taken = _taken(of[0], value)
        bounds = [extra for extra in of[1:] if isinstance(extra, Bounds)]
        return taken if taken is not _REFUSED and all(bound.hold(taken) for bound in bounds) else _REFUSED
    if origin in (Union, types.UnionType):
        return next((taken for part in of if (taken := _taken(part, value)) is not _REFUSED), _REFUSED)
    if origin is Literal:
        return value if any(type(value) is type(one) and value == one for one in of) else _REFUSED
    if origin is tuple:
        return _tuple(of, value)
    plain = _PLAIN.get(annotation)
    if plain is not None:
        return plain(value)
    if isinstance(origin or annotation, type):
        return value if isinstance(value, origin or annotation) else _REFUSED
    return value  # an annotation that says nothing of a single value


def _tuple(of: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, tuple | list):
        return _REFUSED
    each = of[:1] * len(value) if of[1:] == (...,) else of
    if len(each) != len(value):
        return _REFUSED
    items = [_taken(*pair) for pair in zip(each, value, strict=True)]
    return _REFUSED if any(item is _REFUSED for item in items) else tuple(items)


def _bool(value: Any) -> Any:
    return bool(value) if isinstance(value, bool | np.bool_) else _REFUSED


def _int(value: Any) -> Any:
    return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else _REFUSED


def _float(value: Any) -> Any:
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        return _REFUSED
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the largest float
        return _REFUSED
    return number if math.isfinite(number) else _REFUSED


def _str(value: Any) -> Any:
    return str(value) if isinstance(value, str) else os.fspath(value) if isinstance(value, os.PathLike) else _REFUSED


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    None: lambda value: None if value is None else _REFUSED,
    type(None): lambda value: None if value is None else _REFUSED,
}


def described(annotation: Any) -> str:
    """What an annotation takes, as the end of a sentence."""
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return " ".join([described(of[0]), *(str(extra) for extra in of[1:] if isinstance(extra, Bounds))])
    if origin in (Union, types.UnionType):
        return _either([described(part) for part in of])
    if origin is Literal:
        return _either([repr(one) for one in of], " or ")
    if origin is tuple:
        if of[1:] == (...,):
            return f"a tuple with each entry {described(of[0])}"
        return f"a tuple of {len(of)}: {', '.join(map(described, of))}"
    if annotation in _NAMES:
        return _NAMES[annotation]
    name = getattr(annotation, "__name__", str(annotation))
    return f"an instance of {name}"


_NAMES: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    None: "None",
    type(None): "None",
}


def _either(parts: list[str], last: str = ", or ") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}{last}{parts[-1]}"
