"""The heads of transformers under PEFT's names, both ways.

What they are called and what they read, a backbone's config says (`classifiers`). A pooler is frozen unless
`modules_to_save` names it, or belongs to the classifier: a trained `tanh(dense(first token))` and a linear map, our
`pooling="trained_pooler"`. Decoders classify sequences by a linear map without bias of the last token,
`pooling="last"` with `bias=False`; their language-model head is the backbone's own, and no tensor of it is in the
folder.
"""

from typing import NamedTuple

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.exchange.layout import Linear, Tensors, from_linear, take, to_linear
from jaxprefix.models.backbone_config import BackboneConfig, Classifiers
from jaxprefix.models.heads import CausalLM, Head
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import CausalLanguage, Classification, SequenceClassifier, Tagging, TokenClassifier
from jaxprefix.tasks.base import Task
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


def to_head(model: TunedModel, trainable: Tree, frozen: Tree, root: str) -> Written:
    """The head's tensors; `root` is what their names have before those of the base model (`PeftType.root`).

    Raises:
      UserError: transformers has no such head for this backbone.
    """
    head, config = model.head, model.backbone.config
    task, theirs = None if head is None else head.task_type, config.classifiers
    if head is None or task is None or theirs is None or (task == "CAUSAL_LM" and not config.causal):
        raise UserError(
            f"PEFT has no counterpart of {type(head).__name__} on {config.model_type}; export an "
            "adapter with SequenceClassifier, TokenClassifier or, on a decoder, CausalLM."
        )
    if task == "CAUSAL_LM":
        return Written(task, {}, None)
    linear, saved = trainable["head"]["classifier"], ["classifier", "score"]
    if task == "TOKEN_CLS":
        if theirs.tokens is None:
            raise UserError(f"transformers has no token classifier of {config.model_type}; export another adapter.")
        return Written(task, to_linear(_biased(linear), root + theirs.tokens), saved)
    form = head.canonical(trainable, frozen["initialized"])
    assert form is not None  # that of a linear map of one vector, as all heads of this task_type have
    if theirs.pooling == "last":
        return Written(task, _last_token(str(form.pooling), theirs, linear, root), saved)
    if not head.reads_pooler():
        raise UserError(
            f'transformers has no head with pooling="{form.pooling}", so PEFT would classify another vector; '
            'train with SequenceClassifier(pooling="trained_pooler") or "pooler".'
        )
    pooler = merge(frozen["backbone"], frozen["initialized"], trainable.get("backbone", {}))["pooler"]
    named = to_linear(pooler, root + theirs.pooler)
    tensors = to_linear(_biased(linear), root + theirs.rows)
    if theirs.pooler_is_trained:
        return Written(task, {**named, **tensors}, saved)
    if head.trains("pooler/kernel") or "pooler" in frozen["initialized"]:
        return Written(task, {**tensors, **named}, ["pooler", *saved])
    return Written(task, tensors, saved)


def _last_token(pooling: str, theirs: Classifiers, linear: Tree, root: str) -> dict[str, np.ndarray]:
    if pooling != "last":
        raise UserError(
            f'transformers classifies rows on a decoder by the last token, and this head has pooling="{pooling}"; '
            'train with SequenceClassifier(pooling="last", bias=False).'
        )
    if np.any(np.asarray(linear.get("bias", 0))):
        raise UserError(
            "transformers' sequence classifiers on decoders have no bias, so PEFT would silently drop it; train with "
            'SequenceClassifier(pooling="last", bias=False).'
        )
    weight = f"{root}{theirs.rows}.weight"
    return {weight: to_linear(_biased(linear), root + theirs.rows)[weight]}


def _biased(linear: Tree) -> Tree:
    """The same map with a bias, of zeros where it has none."""
    return {"bias": np.zeros(linear["kernel"].shape[1], np.float32), **linear}


def from_head(tensors: Tensors, task: str, config: BackboneConfig, root: str) -> Found:
    """The head of a task on a backbone in our terms; `root` as in `to_head`.

    Raises:
      UserError: missing or ill-shaped tensors, a task that the backbone does not answer.
    """
    theirs, width, known = config.classifiers, config.width, set()
    if theirs is None:
        raise UserError(
            f"transformers has no classifiers of {config.model_type} that are read here; name another base model."
        )

    def read(name: str, outputs: int | None = None) -> Linear:
        known.update((f"{root}{name}.weight", f"{root}{name}.bias"))
        return from_linear(tensors, root + name, width, outputs)

    if task == "CAUSAL_LM":
        if not config.causal:
            raise UserError(
                f"task_type = CAUSAL_LM needs a decoder, and {config.model_type} is an encoder; name the base model."
            )
        return Found(CausalLanguage, CausalLM(), {}, known)
    if task == "TOKEN_CLS":
        return Found(Tagging, TokenClassifier(), {"head": {"classifier": read(theirs.tokens or "score")}}, known)
    if theirs.pooling == "last":
        name = f"{root}{theirs.rows}.weight"
        weight = take(tensors, name, (None, width))
        leaves = {"head": {"classifier": {"kernel": np.ascontiguousarray(weight.T)}}}
        return Found(Classification, SequenceClassifier(pooling="last", bias=theirs.bias), leaves, {name})
    has_pooler = theirs.pooler_is_trained or f"{root}{theirs.pooler}.weight" in tensors
    moved = read(theirs.pooler, width) if theirs.pooler and has_pooler else None
    linear = read(theirs.rows)
    head = SequenceClassifier(pooling="pooler" if moved is None else "trained_pooler")
    leaves = {"head": {"classifier": linear}, **({} if moved is None else {"backbone": {"pooler": moved}})}
    return Found(Classification, head, leaves, known)
