"""The heads of transformers under PEFT's names, both ways.

Encoders: BERT classifies sequences by a linear map of its pooler, frozen unless `modules_to_save` names it, RoBERTa by
a trained `tanh(dense(first token))` and a linear map, which is our `pooling="trained_pooler"`. Decoders classify
sequences by a linear map without bias of the last token, `pooling="last"` with `bias=False`; their language-model head
is the backbone's own, and no tensor of it is in the folder.
"""

from typing import NamedTuple

import numpy as np

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.exchange.layout import Linear, Tensors, from_linear, take, to_linear
from jaxprefix.models.decoder_config import DECODER_KINDS
from jaxprefix.models.heads import CausalLM, Head, SequenceClassifier, TokenClassifier
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree, merge

HEAD, POOLER, SCORE = "classifier", "bert.pooler.dense", "score"
TASKS = {SequenceClassifier: "SEQ_CLS", TokenClassifier: "TOKEN_CLS", CausalLM: "CAUSAL_LM"}
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
    """A head of PEFT in our terms: without its number of labels, its leaves by tree, and the names of its tensors."""

    head: Head
    trainable: Tree
    known: set[str]


def to_head(model: TunedModel, trainable: Tree, frozen: Tree, root: str) -> Written:
    """The head's tensors; `root` is what their names have before those of the base model (`PeftType.root`).

    Raises:
      UserError: transformers has no such head for this backbone.
    """
    head, kind = model.head, model.backbone.config.kind
    task = TASKS.get(type(head), "")
    if not task or (task == "CAUSAL_LM" and kind not in DECODER_KINDS):
        raise UserError(
            f"PEFT has no counterpart of {type(head).__name__} on {kind}; export an adapter with "
            "SequenceClassifier, TokenClassifier or, on a decoder, CausalLM."
        )
    if task == "CAUSAL_LM":
        return Written(task, {}, None)
    linear, saved = trainable["head"]["classifier"], ["classifier", "score"]
    if kind in DECODER_KINDS:
        return Written(task, _decoder_tensors(head, kind, linear, root), saved)
    if task == "TOKEN_CLS":
        return Written(task, to_linear(_biased(linear), root + HEAD), saved)
    if head.pooling not in ("pooler", "trained_pooler"):
        raise UserError(
            f'transformers has no head with pooling="{head.pooling}", so PEFT would classify another vector; '
            'train with SequenceClassifier(pooling="trained_pooler") or "pooler".'
        )
    pooler = merge(frozen["backbone"], frozen["initialized"], trainable.get("backbone", {}))["pooler"]
    if kind == "roberta":
        maps = {"dense": pooler, "out_proj": _biased(linear)}
        tensors = {}
        for name, leaves in maps.items():
            tensors |= to_linear(leaves, f"{root}{HEAD}.{name}")
        return Written(task, tensors, saved)
    tensors = to_linear(_biased(linear), root + HEAD)
    if head.pooling == "trained_pooler" or "pooler" in frozen["initialized"]:
        return Written(task, {**tensors, **to_linear(pooler, root + POOLER)}, ["pooler", *saved])
    return Written(task, tensors, saved)


def _decoder_tensors(
    head: SequenceClassifier | TokenClassifier, kind: str, linear: Tree, root: str
) -> dict[str, np.ndarray]:
    if isinstance(head, TokenClassifier):
        if kind == "gemma3_text":
            raise UserError("transformers has no token classifier of gemma3_text; export another adapter.")
        return to_linear(_biased(linear), root + (HEAD if kind == "gpt2" else SCORE))
    if head.pooling != "last":
        raise UserError(
            f'transformers classifies rows on a decoder by the last token, and this head has pooling="{head.pooling}"; '
            'train with SequenceClassifier(pooling="last", bias=False).'
        )
    if np.any(np.asarray(linear.get("bias", 0))):
        raise UserError(
            "transformers' sequence classifiers on decoders have no bias, so PEFT would silently drop it; train with "
            'SequenceClassifier(pooling="last", bias=False).'
        )
    weight = f"{root}{SCORE}.weight"
    return {weight: to_linear(_biased(linear), root + SCORE)[weight]}


def _biased(linear: Tree) -> Tree:
    """The same map with a bias, of zeros where it has none."""
    return {"bias": np.zeros(linear["kernel"].shape[1], np.float32), **linear}


def from_head(tensors: Tensors, task: str, kind: str, dims: Dims, root: str) -> Found:
    """The head of a task in our terms; `root` as in `to_head`.

    Raises:
      UserError: missing or ill-shaped tensors, a task that the backbone does not answer.
    """
    known: set[str] = set()

    def read(name: str, outputs: int | None = None) -> Linear:
        known.update((f"{root}{name}.weight", f"{root}{name}.bias"))
        return from_linear(tensors, root + name, dims.width, outputs)

    if task == "CAUSAL_LM":
        if kind not in DECODER_KINDS:
            raise UserError(f"task_type = CAUSAL_LM needs a decoder, and {kind} is an encoder; name the base model.")
        return Found(CausalLM(), {}, known)
    if kind in DECODER_KINDS and task == "SEQ_CLS":
        weight = take(tensors, f"{root}{SCORE}.weight", (None, dims.width))
        leaves = {"head": {"classifier": {"kernel": np.ascontiguousarray(weight.T)}}}
        return Found(SequenceClassifier(pooling="last", bias=False), leaves, {f"{root}{SCORE}.weight"})
    if task == "TOKEN_CLS":
        linear = read(SCORE if kind in DECODER_KINDS and kind != "gpt2" else HEAD)
        return Found(TokenClassifier(), {"head": {"classifier": linear}}, known)
    if kind == "roberta":
        moved, linear = read(f"{HEAD}.dense", dims.width), read(f"{HEAD}.out_proj")
    else:
        linear = read(HEAD)
        moved = read(POOLER, dims.width) if f"{root}{POOLER}.weight" in tensors else None
    head = SequenceClassifier(pooling="pooler" if moved is None else "trained_pooler")
    leaves = {"head": {"classifier": linear}, **({} if moved is None else {"backbone": {"pooler": moved}})}
    return Found(head, leaves, known)
