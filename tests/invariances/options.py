"""Every method and every value of its options, read off the fields of its dataclass: the rows of the table.

A row is one option away from the default. Where that alone is refused (`no_op_start` needs `position_offset=False`),
the first other option that makes it possible goes with it.
"""

import dataclasses
import itertools
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods import METHODS
from jaxprefix.methods.base import Combined, Method, parts_of
from jaxprefix.methods.placed import At
from jaxprefix.values import Bounds, annotations

NUMBERS = {int: (3, 2, 1), float: (0.5, 2.0, 0.25)}


class Row(NamedTuple):
    """A method to be tried.

    Attributes:
      name: its class, and how it differs from the default.
      method: None where it cannot be made at all.
      refusal: the sentence by which it, or what it builds for these sizes, is refused.
    """

    name: str
    method: Method | None
    refusal: str | None = None


def rows(dims: Dims) -> list[Row]:
    """All rows for a backbone of these sizes."""
    return [row for cls in METHODS for row in rows_of(cls, dims)]


def rows_of(cls: type, dims: Dims) -> Iterator[Row]:
    """The default and what is one option away from it."""
    default = default_of(cls, dims)
    yield _row(cls, dims, default, {})
    for field in dataclasses.fields(cls):
        own, found = getattr(default, field.name), []
        for value in values(annotations(cls)[field.name], dims, own):
            row = _row(cls, dims, default, {field.name: value})
            if row.refusal is not None:
                beside = _beside(cls, dims, default, field.name, value)
                row = next((other for other in beside if other.refusal is None), row)
            found.append(row)
        # a tuple of numbers is a guess at what it means, layers or a length for each: one that fits is enough
        fit = [row for row in found if row.refusal is None]
        guesses = fit and isinstance(value, tuple) and isinstance(value[0], int)
        yield from fit[:1] if guesses else found


def _row(cls: type, dims: Dims, default: Method, changes: dict[str, Any]) -> Row:
    name, method = f"{cls.__name__}({', '.join(f'{key}={_shown(value)}' for key, value in changes.items())})", None
    try:
        method = dataclasses.replace(default, **changes)
        method.build(dims)
    except UserError as error:
        return Row(name, method, str(error))
    return Row(name, method)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], Method):
        return "+".join(type(part).__name__ for part in value)
    return type(value).__name__ if isinstance(value, Method) else repr(value).replace(" ", "")


def _beside(cls: type, dims: Dims, default: Method, name: str, value: Any) -> Iterator[Row]:
    """The value with one more option changed."""
    for other in dataclasses.fields(cls):
        if other.name != name:
            for more in values(annotations(cls)[other.name], dims, getattr(default, other.name)):
                yield _row(cls, dims, default, {name: value, other.name: more})


def default_of(cls: type, dims: Dims) -> Method:
    """A method by its defaults; what has none, and a sum's parts, are the first value that the annotation names."""
    lacking = {
        field.name: next(values(annotations(cls)[field.name], dims))
        for field in dataclasses.fields(cls)
        if field.default in (dataclasses.MISSING, ())
    }
    return cls(**lacking)


def values(annotation: Any, dims: Dims, own: Any = dataclasses.MISSING) -> Iterator[Any]:
    """Values of an annotation other than a field's own: each literal and truth value, None, a number beside that which
    the field has; of names of linear maps either half."""
    for value in _values(annotation, dims, own):
        if type(value) is not type(own) or value != own:
            yield value


def _values(annotation: Any, dims: Dims, own: Any) -> Iterator[Any]:
    origin, of = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [extra for extra in of[1:] if isinstance(extra, Bounds)]
        fit = (value for value in NUMBERS[of[0]] if value != own and all(bound.hold(value) for bound in bounds))
        yield from itertools.islice(fit, 1)
    elif origin in (Union, types.UnionType):
        for part in of:
            yield from _values(part, dims, own)
    elif origin is Literal:
        yield from of
    elif annotation is bool:
        yield from (True, False)
    elif annotation in (None, type(None)):
        yield None
    elif annotation in NUMBERS:
        yield next(number for number in NUMBERS[annotation] if number != own)
    elif annotation is str:
        yield dims.site
    elif annotation is Method:
        yield from (cls() for cls in _plain()[:2])
    elif origin is tuple and of == (Method, ...):
        yield from _sums(dims)
    elif origin is tuple and of == (str, ...):
        names = list(dims.maps)
        yield from (tuple(names[: len(names) // 2]), tuple(names[len(names) // 2 :]))
    elif origin is tuple:
        yield from ((dims.layers - 1,), (2, 0))
    else:
        raise AssertionError(f"no values are known of {annotation}; say here which")


def _plain() -> list[type]:
    return [cls for cls in METHODS if cls not in (At, Combined)]


MOST = 8  # rows in a sum: each adds its rounding


def grouped(rows: Iterable[Row], apart: Callable[[Row], Any]) -> list[list[Row]]:
    """Rows in few groups whose sums can be computed together, with at most one row of each class in a group.

    Args:
      rows: that are not refused.
      apart: rows of which it says different things are in different groups.
    """
    groups: list[tuple[Any, list[Row]]] = []
    for row in rows:
        kind, parts = apart(row), parts_of(row.method)
        for other_kind, group in groups:
            met = itertools.product(parts, (part for other in group for part in parts_of(other.method)))
            if (
                kind == other_kind
                and len(group) < MOST
                and not any(
                    type(one) is type(other) or one.conflict(other) or other.conflict(one) for one, other in met
                )
            ):
                group.append(row)
                break
        else:
            groups.append((kind, [row]))
    return [group for _, group in groups]


def summed(group: list[Row]) -> Method:
    """The sum of a group's methods."""
    methods = [part for row in group for part in parts_of(row.method)]
    return methods[0] if len(methods) == 1 else Combined(tuple(methods))


def _sums(dims: Dims) -> Iterator[tuple[Method, ...]]:
    """Sums of three methods, until every one that may stand in a sum stood in one."""
    fit = [cls() for cls in _plain() if not _refuses(lambda cls=cls: cls().build(dims))]
    waiting = list(fit)
    while waiting:
        sums = itertools.combinations([*waiting, *(part for part in fit if part not in waiting)], 3)
        parts = next((parts for parts in sums if not _refuses(lambda parts=parts: Combined(parts))), None)
        if parts is None or waiting[0] not in parts:
            waiting = waiting[1:]  # a linear probe stands in none
            continue
        yield parts
        waiting = [part for part in waiting if part not in parts]


def _refuses(make: Callable[[], Any]) -> bool:
    try:
        make()
    except UserError:
        return True
    return False
