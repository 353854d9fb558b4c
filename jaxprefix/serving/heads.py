"""Classifiers of many adapters in one structure: labels padded, poolings side by side.

A row's logits beyond its own labels are `-inf`: no probability, never the largest.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxprefix.errors import UserError
from jaxprefix.models.heads import CausalLM, Head, Pooling, SequenceClassifier, TokenClassifier, affine, pool
from jaxprefix.trees import Tree, flatten, merge

Place = Pooling | Literal["own_pooler"]

POOLINGS: tuple[Place, ...] = ("mean", "first", "last", "pooler", "own_pooler")
"""Poolings that a program may hold: "pooler" is the backbone's, "own_pooler" one that came with the adapter."""


class Classifier(NamedTuple):
    """An adapter's head: its task, its pooling (None for tokens), its leaves as numpy arrays."""

    task: str
    pooling: Place | None
    kernel: np.ndarray  # [D, C]
    bias: np.ndarray  # [C]
    pooler: Tree | None


@dataclasses.dataclass(frozen=True)
class HeadSlots:
    """What the heads of one program can be; hashable.

    Attributes:
      task: `classification`, `tagging` or `causal_language`, whose head is the backbone's own.
      poolings: those that some row may ask for, in the order of `POOLINGS`; none for tokens.
      labels: the largest C.
    """

    task: str
    poolings: tuple[Place, ...]
    labels: int

    def holds(self, head: Classifier) -> bool:
        """Whether a head fits into these slots."""
        fits = head.pooling is None or head.pooling in self.poolings
        return fits and head.task == self.task and len(head.bias) <= self.labels

    def fill(self, head: Classifier) -> Tree:
        """The head's leaves in the shapes of the slots."""
        more = self.labels - len(head.bias)
        leaves: Tree = {
            "kernel": np.pad(head.kernel, ((0, 0), (0, more))),
            "bias": np.pad(head.bias, (0, more), constant_values=-np.inf),
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


def read_head(name: str, head: Head | None, trainable: Tree, initialized: Tree) -> Classifier:
    """An adapter's head.

    Raises:
      UserError: it predicts neither labels nor words, is none of the package's, or leaves of the backbone were trained
        beside it.
    """
    if head is None or type(head) not in (SequenceClassifier, TokenClassifier, CausalLM):
        raise UserError(
            f"the adapter {name!r} has the head {type(head).__name__}, and only SequenceClassifier, TokenClassifier "
            "and CausalLM can share a program; serve it on its own with jp.load_adapter."
        )
    moved = [path for path in flatten(trainable.get("backbone", {})) if not head.trains(path)]
    if moved:
        raise UserError(
            f"the adapter {name!r} has trained {len(moved)} leaves of the backbone ({moved[0]}, for one), which the "
            "others share; serve it on its own with jp.load_adapter."
        )
    if isinstance(head, CausalLM):  # it is the backbone's
        return Classifier(head.task, None, np.zeros((1, 0), np.float32), np.zeros(0, np.float32), None)
    pooling, pooler = getattr(head, "pooling", None), None
    if pooling in ("pooler", "trained_pooler"):
        pooler = merge(initialized, trainable.get("backbone", {})).get("pooler")
        pooling = "pooler" if pooler is None else "own_pooler"
    classifier, pooler = jax.tree.map(np.asarray, (trainable["head"]["classifier"], pooler))
    bias = classifier.get("bias", np.zeros(classifier["kernel"].shape[1], np.float32))
    return Classifier(head.task, pooling, classifier["kernel"], bias, pooler)


def make_head_slots(heads: dict[str, Classifier]) -> HeadSlots:
    """Slots that hold every head; refuses heads of different tasks."""
    first, task = next((name, head.task) for name, head in heads.items())
    for name, head in heads.items():
        if head.task != task:
            raise UserError(
                f"the adapter {name!r} is for {head.task} and {first!r} for {task}, whose logits have different "
                "shapes; load them into two banks."
            )
    asked = {head.pooling for head in heads.values()}
    return HeadSlots(task, tuple(p for p in POOLINGS if p in asked), max(len(head.bias) for head in heads.values()))
