"""Classifiers of many adapters in one structure: labels padded, poolings side by side.

A row's logits beyond its own labels are `-inf`: no probability, never the largest.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxprefix.errors import UserError
from jaxprefix.models.heads import Canonical, Head, Place, Unit, affine, pool
from jaxprefix.trees import Tree, flatten

POOLINGS: tuple[Place, ...] = ("mean", "first", "last", "pooler", "own_pooler")
"""Poolings that a program may hold: "pooler" is the backbone's, "own_pooler" one that came with the adapter."""


class Served(NamedTuple):
    """An adapter's head in its canonical form, and without what differs between adapters of one kind."""

    head: Head
    form: Canonical


@dataclasses.dataclass(frozen=True)
class HeadSlots:
    """What the heads of one program can be; hashable.

    Attributes:
      unit: what one vector of logits stands for; that of the vocabulary is computed by the backbone's own head.
      heads: the different heads, without their numbers of labels; each reduces the logits to its outputs.
      poolings: those that some row may ask for, in the order of `POOLINGS`; none for tokens.
      labels: the largest C.
    """

    unit: Unit
    heads: tuple[Head, ...]
    poolings: tuple[Place, ...]
    labels: int

    def holds(self, served: Served) -> bool:
        """Whether a head fits into these slots."""
        fits = served.form.pooling is None or served.form.pooling in self.poolings
        return fits and served.head in self.heads and len(served.form.bias) <= self.labels

    def fill(self, served: Served) -> Tree:
        """The head's leaves in the shapes of the slots."""
        head = served.form
        more = self.labels - len(head.bias)
        leaves: Tree = {
            "kernel": np.pad(head.kernel, ((0, 0), (0, more))),
            "bias": np.pad(head.bias, (0, more), constant_values=head.fill),
        }
        if self.poolings:
            leaves["pooling"] = np.int32(self.poolings.index(head.pooling))
        if "own_pooler" in self.poolings:
            width = head.kernel.shape[0]
            zeros = {"kernel": np.zeros((width, width), np.float32), "bias": np.zeros(width, np.float32)}
            leaves["pooler"] = zeros if head.pooler is None else head.pooler
        return leaves

    def logits(
        self, leaves: Tree, backbone: Tree, hidden: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B C"] | Float[Array, "B T C"]:
        """Logits of rows with one head, `leaves` without the axis of adapters."""
        pooled: Any = hidden
        if self.poolings:
            made = [
                pool("pooler", leaves, hidden, mask) if name == "own_pooler" else pool(name, backbone, hidden, mask)
                for name in self.poolings
            ]
            pooled = made[0] if len(made) == 1 else jnp.stack(made)[leaves["pooling"]]
        return affine(leaves, pooled)

    def outputs(self, logits: Array, batch: Tree) -> list[dict[str, Array]]:
        """What each of `heads` makes of logits `[B, C]`, `[B, T, C]` or `[B, T, V]`, with what tells scores."""
        return [{**head.outputs(logits, batch), **head.scores(logits)} for head in self.heads]


def read_head(name: str, head: Head | None, trainable: Tree, initialized: Tree) -> Served:
    """An adapter's head.

    Raises:
      UserError: it has no canonical form, or leaves of the backbone were trained beside it.
    """
    form = None if head is None or not _is_whole(type(head)) else head.canonical(trainable, initialized)
    if head is None or form is None:
        raise UserError(
            f"the adapter {name!r} has the head {type(head).__name__}, which has no form that others share "
            "(Head.canonical); serve it on its own with jp.load_adapter."
        )
    moved = [path for path in flatten(trainable.get("backbone", {})) if not head.trains(path)]
    if moved:
        raise UserError(
            f"the adapter {name!r} has trained {len(moved)} leaves of the backbone ({moved[0]}, for one), which the "
            "others share; serve it on its own with jp.load_adapter."
        )
    return Served(head.shared(), form)


def _is_whole(cls: type[Head]) -> bool:
    """Whether the form of a class is that of its own call: a subclass with another call has another form, or none."""
    order = cls.__mro__
    definers = {
        name: next(i for i, base in enumerate(order) if name in vars(base)) for name in ("canonical", "__call__")
    }
    return definers["canonical"] <= definers["__call__"]


def make_head_slots(served: dict[str, Served]) -> HeadSlots:
    """Slots that hold every head; refuses heads whose logits are for different things."""
    first, (head, _) = next(iter(served.items()))
    for name, (other, _) in served.items():
        if other.unit != head.unit:
            raise UserError(
                f"the adapter {name!r} is for {other.task} and {first!r} for {head.task}, whose logits have different "
                "shapes; load them into two banks."
            )
    asked = {form.pooling for _, form in served.values()}
    return HeadSlots(
        unit=head.unit,
        heads=tuple(dict.fromkeys(head for head, _ in served.values())),
        poolings=tuple(place for place in POOLINGS if place in asked),
        labels=max(len(form.bias) for _, form in served.values()),
    )
