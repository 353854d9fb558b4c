"""Plain nested dicts of arrays: paths, splitting, merging, counting."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = dict[str, Any]


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": x}}` to `{"a/b": x}`; empty subtrees vanish."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else name
        flat.update(flatten(value, path) if isinstance(value, dict) else {path: value})
    return flat


def unflatten(flat: dict[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def split(tree: Tree, belongs: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Two pruned trees: the leaves whose path `belongs`, and the others."""
    flat = flatten(tree)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if belongs(path)}),
        unflatten({path: leaf for path, leaf in flat.items() if not belongs(path)}),
    )


def merge(*trees: Tree) -> Tree:
    """One tree of the leaves of all; a later tree's leaf replaces an earlier one's."""
    flat: dict[str, Any] = {}
    for tree in trees:
        flat.update(flatten(tree))
    return unflatten(flat)


def count(tree: Any) -> int:
    """The number of scalars in a pytree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
