"""What a trained leaf is to the optimizer and to the mesh, said where the leaf is made.

A declaration is collected while a module or a head makes its leaves (`collect`) and is stored nowhere: trees stay plain
nested dicts, and a restored one finds its declarations by path.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, get_args

import flax.linen as nn
from jax import Array

from jaxprefix.errors import UserError

T = TypeVar("T")
Group = Literal["base", "head", "gate"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What is declared of a trained leaf.

    Attributes:
      group: whose learning rate it has (`Optimizer`): `base`, `head` or `gate`.
      decay: whether weight decay applies to it.
      tp: the axis that is divided over tensor parallelism where its size allows, one of whole heads; None for a leaf
        that every device holds.
      matrix: the two axes that are the rows and columns of a matrix, for optimizers that treat matrices apart; None
        for a leaf that is none.
    """

    group: Group = "base"
    decay: bool = True
    tp: int | None = None
    matrix: tuple[int, int] | None = None


_collected: contextvars.ContextVar[dict[str, Leaf] | None] = contextvars.ContextVar("declared leaves", default=None)


def leaf(
    module: nn.Module,
    name: str,
    init: Callable[..., Array],
    shape: tuple[int, ...],
    group: str = "base",
    decay: bool = True,
    tp: int | None = None,
    matrix: tuple[int, int] | None = None,
) -> Array:
    """A trained leaf of a Linen module: `module.param(name, init, shape)`, declared.

    Args:
      module: the module that makes it, `self` in `setup` or in a compact method.
      name: of the leaf in the module.
      init: from a key and the shape to its first value, as for `module.param`.
      shape: of the leaf.
      group: whose learning rate it has; see `Leaf`.
      decay: whether weight decay applies.
      tp: the axis of `shape` that follows tensor parallelism, counted from 0, or None.
      matrix: the two axes of `shape` that are a matrix, or None.

    Returns:
      The leaf, float32.

    Raises:
      UserError: the group is unknown, or an axis is not among those of the shape.
    """
    assert module.scope is not None  # Linen refuses leaves outside setup and compact methods in its own words
    path = "/".join((*module.scope.path, name))
    _declare(path, tuple(shape), group, decay, tp, matrix)
    return module.param(name, init, shape)


def declare(
    path: str,
    value: T,
    group: str = "base",
    decay: bool = True,
    tp: int | None = None,
    matrix: tuple[int, int] | None = None,
) -> T:
    """The value of a leaf that no Linen module makes, a head's for example, declared.

    Args:
      path: where it lies in the tree that is made, its keys joined by "/".
      value: the leaf.
      group: whose learning rate it has; see `Leaf`.
      decay: whether weight decay applies.
      tp: the axis of its shape that follows tensor parallelism, counted from 0, or None.
      matrix: the two axes of its shape that are a matrix, or None.

    Returns:
      The value.

    Raises:
      UserError: as for `leaf`.
    """
    shape: tuple[int, ...] = getattr(value, "shape", ())
    _declare(path, shape, group, decay, tp, matrix)
    return value


@contextlib.contextmanager
def collect() -> Iterator[dict[str, Leaf]]:
    """The declarations of all leaves that are made inside, by path."""
    found: dict[str, Leaf] = {}
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def _declare(path: str, shape: tuple[int, ...], group: Any, decay: bool, tp: Any, matrix: Any) -> None:
    where = f"its shape {list(shape)}, counted from 0"
    if group not in get_args(Group):
        raise UserError(f"the leaf {path} has group = {group!r}; choose one of {', '.join(get_args(Group))}.")
    if tp is not None and not _are_axes((tp,), shape):
        raise UserError(f"the leaf {path} has tp = {tp!r}; give an axis of {where}, or None.")
    if matrix is not None and not (isinstance(matrix, tuple) and len(matrix) == 2 and _are_axes(matrix, shape)):
        raise UserError(f"the leaf {path} has matrix = {matrix!r}; give two different axes of {where}, or None.")
    found = _collected.get()
    if found is not None:
        found[path] = Leaf(group, decay, tp, matrix)


def _are_axes(axes: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Whether all are different axes of a shape."""
    return len(set(axes)) == len(axes) and all(type(axis) is int and 0 <= axis < len(shape) for axis in axes)
