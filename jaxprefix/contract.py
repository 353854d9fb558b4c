"""Members that a subclass must give: a class that lacks one is refused when an instance is made."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

from jaxprefix.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


def required(member: F) -> F:
    """Marks a method of a `Contract` that every subclass must define; stands below `property` and `classmethod`."""
    member.__required__ = True
    return member


class Contract:
    """The base of classes that people subclass: its `required` members must be defined before an instance is made.

    Raises:
      UserError: at construction, naming the class, the member and its signature.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuses a class that lacks a member."""
        check_complete(cls)
        return super().__new__(cls)


def check_complete(cls: type) -> None:
    """Refuses a class that lacks a required member, where one of its own is called before there is an instance.

    Raises:
      UserError: naming the class, the member and its signature.
    """
    lacking = _lacking(cls)
    if lacking is not None:
        raise UserError(lacking)


@functools.cache
def _lacking(cls: type) -> str | None:
    """The sentence about the first member that a class lacks, or None."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        function = _function(member)
        if getattr(function, "__required__", False):
            return f"{cls.__name__} has no {name}; give it {_signature(member, function)}."
    return None


def _function(member: Any) -> Any:
    return member.fget if isinstance(member, property) else getattr(member, "__func__", member)


def _signature(member: Any, function: Any) -> str:
    """`def name(self, ...) -> ...` and the first line of what it says of itself."""
    said = inspect.getdoc(function) or ""
    kind = {property: "@property ", classmethod: "@classmethod "}.get(type(member), "")
    first = said.split("\n", 1)[0].rstrip(".:")
    return f"`{kind}def {function.__name__}{_plain(inspect.signature(function))}`" + (f" ({first})" if first else "")


def _plain(signature: inspect.Signature) -> str:
    """The signature with annotations by their last names, without quotes."""

    def short(annotation: Any) -> Any:
        if annotation is inspect.Signature.empty:
            return annotation
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        return _Text(re.sub(r"(?:\w+\.)+(?=\w)", "", text))

    parameters = [p.replace(annotation=short(p.annotation)) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=short(signature.return_annotation)))


class _Text(str):
    """Text that a signature shows without quotes."""

    def __repr__(self) -> str:
        return str(self)
