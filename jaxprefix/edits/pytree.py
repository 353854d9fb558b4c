"""An edit's class: a frozen dataclass that is a pytree."""

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A dataclass field of an edit that is a hashable hyperparameter, not a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def edit(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that is a pytree, fields marked `static()` being metadata.

    Its fields are free of run-time type checks, since tree maps also fill them with shapes, axis numbers and whole
    stacks; its methods are not.
    """
    inherited = {name for base in cls.__mro__[1:] for name, value in vars(base).items() if inspect.isfunction(value)}
    hidden = [name for name in vars(cls).get("__annotations__", ()) if name in inherited]
    if hidden:
        raise TypeError(f"the field {hidden[0]} of {cls.__name__} would hide the hook of that name; rename the field.")
    cls = jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))
    # of the class alone: typing.no_type_check would silence the hooks as well
    cls.__no_type_check__ = True  # pyright: ignore[reportAttributeAccessIssue]  # what the checkers look for
    return cls
