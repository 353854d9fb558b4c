"""The heads of transformers under PEFT's names, both ways.

What they are called and what they read, a backbone's config says (`classifiers`). A pooler is frozen unless
`modules_to_save` names it, or belongs to the classifier: a trained `tanh(dense(first token))` and a linear map, our
`pooling="trained_pooler"`. Decoders classify sequences by a linear map without bias of the last token,
`pooling="last"` with `bias=False`; their language-model head is the backbone's own, and no tensor of it is in the
folder.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.exchange.classifier_config import ClassifierConfig
from jaxprefix.exchange.layout import Linear, Tensors, from_linear, take, to_linear
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.models.heads import Head
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks.base import Task
from jaxprefix.tasks.foreign import find_kind
from jaxprefix.trees import Tree, merge

AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
}


class Written(NamedTuple):
    """A head as PEFT has it: the task, its tensors, and `modules_to_save`."""

    task: str
    tensors: dict[str, np.ndarray]
    saved: list[str] | None


class Found(NamedTuple):
    """A head of PEFT in our terms: its task, itself without its number of labels, its leaves by tree, and the names of
    its tensors."""

    task: type[Task]
    head: Head
    trainable: Tree
    known: set[str]


Units = tuple[np.ndarray, np.ndarray]
"""Factors and summands `[C]` of a head's outputs (`Task.output_units`)."""


def to_head(model: TunedModel, trainable: Tree, frozen: Tree, root: str, units: Units | None = None) -> Written:
    """The head's tensors.

    Args:
      model: backbone, method and head.
      trainable: its trained leaves.
      frozen: its other leaves.
      root: what the tensors' names have before those of the base model (`PeftType.root`).
      units: what the outputs are multiplied by, and what is added, for transformers; that becomes part of the map.

    Raises:
      UserError: transformers has no such head for this backbone.
    """
    head, config = model.head, model.backbone.config
    task, theirs = None if head is None else head.task_type, config.classifiers
    if head is None or task is None or theirs is None or (task == "CAUSAL_LM" and not config.causal):
        raise UserError(
            f"PEFT has no counterpart of {type(head).__name__} on {config.model_type}; export an "
            "adapter that classifies sequences or tokens, or on a decoder one of a language model."
        )
    if task == "CAUSAL_LM":
        return Written(task, {}, None)
    linear, saved = _in_units(trainable["head"]["classifier"], units), ["classifier", "score"]
    if task == "TOKEN_CLS":
        if theirs.tokens is None:
            raise UserError(f"transformers has no token classifier of {config.model_type}; export another adapter.")
        return Written(task, to_linear(_biased(linear), root + theirs.tokens), saved)
    form = head.canonical(trainable, frozen["initialized"])
    assert form is not None  # that of a linear map of one vector, as all heads of this task_type have
    if theirs.pooling == "last":
        _check_last_token(head, str(form.pooling), trainable["head"]["classifier"], units)
        weight = f"{root}{theirs.rows}.weight"
        return Written(task, {weight: to_linear(_biased(linear), root + theirs.rows)[weight]}, saved)
    if not head.reads_pooler():
        raise UserError(
            f'transformers has no head with pooling="{form.pooling}", so PEFT would classify another vector; '
            f'train with {type(head).__name__}(pooling="trained_pooler") or "pooler".'
        )
    pooler = merge(frozen["backbone"], frozen["initialized"], trainable.get("backbone", {}))["pooler"]
    named = to_linear(pooler, root + theirs.pooler)
    tensors = to_linear(_biased(linear), root + theirs.rows)
    if theirs.pooler_is_trained:
        return Written(task, {**named, **tensors}, saved)
    if head.trains("pooler/kernel") or "pooler" in frozen["initialized"]:
        return Written(task, {**tensors, **named}, ["pooler", *saved])
    return Written(task, tensors, saved)


ROUNDING = 1e-6  # of a standard deviation: a mean below that is 0, as that of centred targets in float32


def _check_last_token(head: Head, pooling: str, linear: Tree, units: Units | None) -> None:
    """Refuses what a sequence classifier on a decoder, a map of the last token without bias, cannot compute."""
    asked = f'{type(head).__name__}(pooling="last", bias=False)'
    if pooling != "last":
        raise UserError(
            f'transformers classifies rows on a decoder by the last token, and this head has pooling="{pooling}"; '
            f"train with {asked}."
        )
    if np.any(np.asarray(linear.get("bias", 0))):
        raise UserError(
            "transformers' sequence classifiers on decoders have no bias, so PEFT would silently drop it; train with "
            f"{asked}."
        )
    if units is not None and np.any(np.abs(units[1]) > ROUNDING * units[0]):
        means = ", ".join(f"{mean:g}" for mean in units[1])
        raise UserError(
            f"the mean of the targets ({means}) would have to be a bias, and transformers' sequence classifiers on "
            "decoders have none; train on targets less their mean."
        )


def _in_units(linear: Tree, units: Units | None) -> Tree:
    """The linear map with its outputs in other units, computed in float64."""
    if units is None:
        return linear
    scale, shift = units
    kernel, bias = (np.asarray(leaf, np.float64) for leaf in (linear["kernel"], linear.get("bias", np.zeros(1))))
    return {"kernel": kernel * scale, "bias": bias * scale + shift}


def _biased(linear: Tree) -> Tree:
    """The same map with a bias, of zeros where it has none."""
    return {"bias": np.zeros(linear["kernel"].shape[1], np.float32), **linear}


def from_head(tensors: Tensors, task: str, config: BackboneConfig, root: str, said: ClassifierConfig) -> Found:
    """The head of a task on a backbone in our terms.

    Args:
      tensors: those beside the method's.
      task: PEFT's `task_type`, one of `AUTO`.
      config: of the backbone.
      root: as in `to_head`.
      said: what is said of a classifier of sequences.

    Raises:
      UserError: missing or ill-shaped tensors, a task that the backbone does not answer, an unknown `problem_type`.
    """
    theirs, width, known = config.classifiers, config.width, set()
    if theirs is None:
        raise UserError(
            f"transformers has no classifiers of {config.model_type} that are read here; name another base model."
        )

    def read(name: str, outputs: int | None = None) -> Linear:
        known.update((f"{root}{name}.weight", f"{root}{name}.bias"))
        return from_linear(tensors, root + name, width, outputs)

    def found(kind: type[Task] | None, leaves: Tree, **fields: Any) -> Found:
        assert kind is not None  # our own kinds have all words of `AUTO`
        head: Any = kind.default_head()
        return Found(kind, dataclasses.replace(head, **fields), leaves, known)

    if task == "CAUSAL_LM":
        if not config.causal:
            raise UserError(
                f"task_type = CAUSAL_LM needs a decoder, and {config.model_type} is an encoder; name the base model."
            )
        return found(find_kind(task), {})
    if task == "TOKEN_CLS":
        return found(find_kind(task), {"head": {"classifier": read(theirs.tokens or "score")}})
    if theirs.pooling == "last":
        known.add(name := f"{root}{theirs.rows}.weight")
        weight = take(tensors, name, (None, width))
        leaves = {"head": {"classifier": {"kernel": np.ascontiguousarray(weight.T)}}}
        return found(said.kind(len(weight)), leaves, pooling="last", bias=theirs.bias)
    has_pooler = theirs.pooler_is_trained or f"{root}{theirs.pooler}.weight" in tensors
    moved = read(theirs.pooler, width) if theirs.pooler and has_pooler else None
    linear = read(theirs.rows)
    leaves = {"head": {"classifier": linear}, **({} if moved is None else {"backbone": {"pooler": moved}})}
    pooling = "pooler" if moved is None else "trained_pooler"
    return found(said.kind(len(linear["bias"])), leaves, pooling=pooling)
