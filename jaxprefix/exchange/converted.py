"""A foreign adapter in our terms, and what becomes of it on a backbone: an `Adapter` like one of our own runs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.data import Files
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.models.heads import CausalLM, SequenceClassifier, TokenClassifier
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import CausalLanguage, Classification, Tagging, Task
from jaxprefix.training.config import HEADS, Run
from jaxprefix.training.setup import Backbone, read_run_backbone
from jaxprefix.trees import Tree, flatten, split

NO_ROWS = Files(train="")  # an imported adapter comes without data


@dataclasses.dataclass(frozen=True)
class Converted:
    """Foreign tensors in our terms.

    Attributes:
      method: with the position rule of the library that it comes from.
      head: the head without its number of labels.
      trainable: numpy leaves under `method`, `head` and, for a trained pooler, `backbone`.
      initialized: numpy leaves that were frozen and differ from the backbone's folder (a pooler).
      labels: names of the labels, where the files have them.
    """

    method: Method
    head: SequenceClassifier | TokenClassifier | CausalLM
    trainable: Tree
    initialized: Tree = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] | None = None


def read_base(source: str) -> Backbone:
    """The backbone that an imported adapter belongs to.

    Raises:
      UserError: it is not available, or is of no architecture that is computed here.
    """
    return read_run_backbone(Run(Classification(NO_ROWS), backbone=source), _one_device())


def as_adapter(
    found: Converted,
    backbone: Backbone,
    labels: Sequence[str] | None,
    task: Task | None,
) -> Adapter:
    """The converted adapter on its backbone.

    Args:
      found: from one of the conversions.
      backbone: from `read_base`.
      labels: names in the order of the logits; None takes the task's, those of the files, else LABEL_0, LABEL_1, ...;
        a language model has none.
      task: columns, templates and cutting of texts; None for one text (or words) cut at 128 tokens, or where the
        position table ends.

    Raises:
      UserError: labels, task or pooler do not fit the head.
    """
    labels = _labels(found, labels, task)
    offset = jax.eval_shape(TunedModel(backbone.module, found.method).edits, found.trainable).positions
    if task is None:
        kinds: dict[type, Callable[..., Task]] = {
            SequenceClassifier: Classification,
            TokenClassifier: Tagging,
            CausalLM: CausalLanguage,
        }
        task = kinds[type(found.head)](NO_ROWS, max_length=max(1, min(128, backbone.module.dims.positions - offset)))
    elif HEADS[type(task)] is not type(found.head):
        raise UserError(
            f"{type(found.head).__name__} does not answer the task {type(task).__name__}; "
            "import it with the task that it was trained for."
        )
    if labels:
        task = dataclasses.replace(task, labels=tuple(labels))
    run = Run(task, backbone=backbone.identity["source"], method=found.method, head=found.head)
    trainable, initialized = (jax.tree.map(jnp.asarray, tree) for tree in (found.trainable, found.initialized))
    moved = set(flatten(trainable.get("backbone", {})))
    _, kept = split(backbone.tree, lambda path: path in moved)
    if "pooler" in getattr(found.head, "pooling", "") and not moved and "pooler" not in {*kept, *initialized}:
        raise UserError(
            f"{run.backbone} has no pooler, which this adapter's head reads and its files do not hold; name a folder "
            "with the pooler that was there in training."
        )
    model = TunedModel(backbone.module, found.method, run.resolve_head(len(labels)))
    return Adapter(model, trainable, {"backbone": kept, "initialized": initialized}, backbone, run, tuple(labels), {})


def _labels(found: Converted, labels: Sequence[str] | None, task: Task | None) -> tuple[str, ...]:
    """The names of the labels in the order of the logits; none for a language model."""
    if isinstance(found.head, CausalLM):
        if labels:
            raise UserError("an adapter of a language model has no labels; remove them.")
        return ()
    count = found.trainable["head"]["classifier"]["kernel"].shape[1]
    if count < 2:
        raise UserError("the head has one output, as for a regression; import an adapter that chooses among labels.")
    named = labels or getattr(task, "labels", None) or found.labels or [f"LABEL_{index}" for index in range(count)]
    if len(named) != count or len(set(named)) != count:
        raise UserError(f"the head has {count} labels, but these are given: {', '.join(named)}; name each once.")
    return tuple(named)


def _one_device() -> Any:
    return make_mesh(MeshShape(data=1), jax.devices()[:1])
