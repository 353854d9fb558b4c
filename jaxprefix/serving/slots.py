"""The edits of many adapters in one structure, so that one program serves them all.

Every edit is brought into its canonical form (`LayerEdit.canonical`), in which all-zero leaves are a no-op. A *slot*
is a place in the order of edits for one structure of them (class, fixed hyperparameters, which leaves there are), with
shapes that hold every adapter's. An adapter fills slots with its leaves, padded with zeros, and the others with zeros.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprefix.edits import Dims, Edits, LayerEdit, check_stacked
from jaxprefix.errors import UserError

Kind = tuple[Any, tuple[tuple[int, str], ...]]
"""What edits of one slot have in common: the pytree's structure, number of axes and dtype of every leaf."""


class Slot(NamedTuple):
    """A place for edits of one kind; `shapes` of the leaves, layers first, large enough for every adapter."""

    kind: Kind
    shapes: tuple[tuple[int, ...], ...]

    def fill(self, edit: LayerEdit | None) -> LayerEdit:
        """The edit as numpy leaves of the slot's shapes; None is the one that does nothing."""
        structure, about = self.kind
        if edit is None:
            leaves = [np.zeros(shape, dtype) for shape, (_, dtype) in zip(self.shapes, about, strict=True)]
        else:
            leaves = [_padded(leaf, shape) for leaf, shape in zip(jax.tree.leaves(edit), self.shapes, strict=True)]
        return jax.tree.unflatten(structure, leaves)


def canonical_edits(name: str, edits: Edits, dims: Dims) -> tuple[LayerEdit, ...]:
    """An adapter's layer edits in their canonical forms, with numpy leaves.

    Raises:
      UserError: one has no such form, or there is an embedding-level prompt or new words, whose rows other adapters
        have not.
    """
    check_stacked(edits, dims)
    if edits.prompt is not None:
        raise UserError(
            f"the adapter {name!r} puts {edits.prompt.shape[0]} prompt rows before the text, which adapters beside it "
            "would need as well; serve it on its own with jp.load_adapter."
        )
    if edits.words is not None:
        raise UserError(
            f"the adapter {name!r} adds {edits.words.shape[0]} words to the vocabulary, which adapters beside it would "
            "have as well; serve it on its own with jp.load_adapter."
        )
    found: list[LayerEdit] = []
    for edit in edits.layers:
        own = edit.canonical(dims) if "canonical" in vars(type(edit)) else None
        if own is None:
            raise UserError(
                f"the adapter {name!r} holds the edit {type(edit).__name__}, which leaves of zeros do not switch off "
                "(it has no canonical form); serve it on its own with jp.load_adapter."
            )
        found.extend(jax.tree.map(np.asarray, own))
    return tuple(found)


def make_slots(adapters: Iterable[Sequence[LayerEdit]]) -> tuple[Slot, ...]:
    """The fewest slots found that hold the canonical edits of every adapter, in its order."""
    adapters = sorted(adapters, key=len, reverse=True)
    kinds: tuple[Kind, ...] = ()
    for edits in adapters:
        kinds = supersequence(kinds, tuple(map(kind_of, edits)))
    shapes: list[Any] = [None] * len(kinds)
    for edits in adapters:
        taken = places(kinds, edits)
        assert taken is not None  # `kinds` is a supersequence of every adapter's
        for place, edit in zip(taken, edits, strict=True):
            own, before = _shapes(edit), shapes[place]
            pairs = zip(own if before is None else before, own, strict=True)
            shapes[place] = tuple(tuple(map(max, *pair)) for pair in pairs)
    return tuple(map(Slot, kinds, shapes))


def fill_slots(slots: Sequence[Slot], edits: Sequence[LayerEdit]) -> tuple[LayerEdit, ...] | None:
    """One edit for each slot, as numpy leaves; None where the adapter does not fit."""
    taken = places([slot.kind for slot in slots], edits)
    if taken is None:
        return None
    by_place = dict(zip(taken, edits, strict=True))
    for place, edit in by_place.items():
        pairs = zip(_shapes(edit), slots[place].shapes, strict=True)
        if any(own[0] != shape[0] or any(map(int.__gt__, own, shape)) for own, shape in pairs):
            return None
    return tuple(slot.fill(by_place.get(place)) for place, slot in enumerate(slots))


def places(kinds: Sequence[Kind], edits: Sequence[LayerEdit]) -> list[int] | None:
    """The first slots that can take the edits in their order, or None."""
    found, start = [], 0
    for edit in edits:
        own = kind_of(edit)
        place = next((index for index in range(start, len(kinds)) if kinds[index] == own), None)
        if place is None:
            return None
        found.append(place)
        start = place + 1
    return found


def supersequence(first: tuple, second: tuple) -> tuple:
    """The shortest sequence in which both stand, each in its order."""

    @functools.cache
    def shortest(i: int, j: int) -> tuple:
        if i == len(first) or j == len(second):
            return first[i:] + second[j:]
        if first[i] == second[j]:
            return (first[i], *shortest(i + 1, j + 1))
        return min((first[i], *shortest(i + 1, j)), (second[j], *shortest(i, j + 1)), key=len)

    return shortest(0, 0)


def kind_of(edit: LayerEdit) -> Kind:
    """What edits of one slot have in common: their structure, and rank and dtype of every leaf."""
    leaves, structure = jax.tree.flatten(edit)
    return structure, tuple((leaf.ndim, str(leaf.dtype)) for leaf in leaves)


def _shapes(edit: LayerEdit) -> tuple[tuple[int, ...], ...]:
    return tuple(leaf.shape for leaf in jax.tree.leaves(edit))


def _padded(leaf: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.pad(leaf, [(0, wide - size) for size, wide in zip(leaf.shape, shape, strict=True)])
