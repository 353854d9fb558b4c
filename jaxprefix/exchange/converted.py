"""A foreign adapter in our terms, and what becomes of it on a backbone: an `Adapter` like one of our own runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.data import Files
from jaxprefix.distributed.devices import found_devices
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.models.heads import Head
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import Classification
from jaxprefix.tasks.base import Task
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Backbone, read_run_backbone
from jaxprefix.tree_check import check_finite
from jaxprefix.trees import Tree, flatten, split

NO_ROWS = Files(train="")  # an imported adapter comes without data


@dataclasses.dataclass(frozen=True)
class Converted:
    """Foreign tensors in our terms.

    Attributes:
      method: with the position rule of the library that it comes from.
      task: the kind of task that the head answers.
      head: the head without its number of labels.
      trainable: numpy leaves under `method`, `head` and, for a trained pooler, `backbone`.
      initialized: numpy leaves that were frozen and differ from the backbone's folder (a pooler).
      labels: names of the labels, where the files have them.
      config: what the classifier's own `config.json` says.
    """

    method: Method
    task: type[Task]
    head: Head
    trainable: Tree
    initialized: Tree = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_base(source: str, tokenizer: str | None = None) -> Backbone:
    """The backbone that an imported adapter belongs to.

    Args:
      source: folder or hub name.
      tokenizer: likewise, of the tokenizer; None for the one in the backbone's folder.

    Raises:
      UserError: it is not available, or is of no architecture that is computed here.
    """
    return read_run_backbone(Run(Classification(NO_ROWS), backbone=source, tokenizer=tokenizer), _one_device())


def as_adapter(
    found: Converted,
    backbone: Backbone,
    labels: Sequence[str] | None,
    task: Task | None,
    tokenizer: str | None = None,
) -> Adapter:
    """The converted adapter on its backbone.

    Args:
      found: from one of the conversions.
      backbone: from `read_base`.
      labels: names in the order of the logits; None takes the task's, those of the files, else LABEL_0, LABEL_1, ...;
        a language model has none.
      task: columns, templates and cutting of texts; None for one text (or words) cut at 128 tokens, or where the
        position table ends.
      tokenizer: as `read_base` was told.

    Raises:
      UserError: labels, task or pooler do not fit the head.
    """
    for leaves in (found.trainable, found.initialized):
        check_finite("the folder to be imported", flatten(leaves), "take it from before its values were lost")
    leaves = found.trainable.get("head", {}).get("classifier")
    count = None if leaves is None else leaves["kernel"].shape[1]
    offset = jax.eval_shape(TunedModel(backbone.module, found.method).edits, found.trainable).positions
    if labels and count is None:
        raise UserError("an adapter of a language model has no labels; remove them.")
    if task is None:
        length = max(1, min(128, backbone.module.dims.positions - offset))
        task = found.task.imported(NO_ROWS, length, count, labels or found.labels, found.config)
    else:
        if not task.accepts(found.head):
            raise UserError(
                f"{type(found.head).__name__} does not answer the task {type(task).__name__}; "
                "import it with the task that it was trained for."
            )
        task = task.with_names(labels, found.labels)
    facts = task.imported_facts(count)
    places = {"backbone": backbone.identity["source"], "tokenizer": tokenizer}
    run = Run(task, method=found.method, head=found.head, **places)
    trainable, initialized = (jax.tree.map(jnp.asarray, tree) for tree in (found.trainable, found.initialized))
    moved = set(flatten(trainable.get("backbone", {})))
    _, kept = split(backbone.tree, lambda path: path in moved)
    if found.head.reads_pooler() and not moved and "pooler" not in {*kept, *initialized}:
        raise UserError(
            f"{run.backbone} has no pooler, which this adapter's head reads and its files do not hold; name a folder "
            "with the pooler that was there in training."
        )
    model = TunedModel(backbone.module, found.method, run.resolve_head(count))
    return Adapter(model, trainable, {"backbone": kept, "initialized": initialized}, backbone, run, facts, {})


def _one_device() -> Any:
    return make_mesh(MeshShape(data=1), found_devices()[:1])
