"""P-Tuning v2's own checkpoints (Liu et al. 2022, the published code), as its trainer saves them.

A checkpoint is the whole model: the prefix under `prefix_encoder` (a table `[P, 2 L D]`, or an embedding and an MLP),
a linear classifier, and the frozen encoder, pooler included. The pooler is the one of training, drawn at random for
RoBERTa, so it is taken from there; the other encoder tensors only tell whether the backbone is the right one.
Positions are shifted by P, and in training the prefix gets the backbone's hidden dropout.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.exchange.classifier_config import read_labels
from jaxprefix.exchange.converted import Converted, as_adapter, read_base
from jaxprefix.exchange.files import read_json, read_tensors
from jaxprefix.exchange.layout import Linear, Tensors, from_linear, from_table, refuse_unknown, reparameterised, take
from jaxprefix.hf.folders import architecture
from jaxprefix.methods import PTuningV2
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.tasks import Classification, SequenceClassifier, Tagging, TokenClassifier
from jaxprefix.trees import Tree, flatten

Kind = Literal["classification", "tagging"]
TABLE, UP, DOWN = "prefix_encoder.embedding.weight", "prefix_encoder.trans.0", "prefix_encoder.trans.2"


def import_p_tuning_v2(
    source: str | Path | Mapping[str, np.ndarray],
    *,
    backbone: str,
    kind: Kind | None = None,
    labels: Sequence[str] | None = None,
    task: Classification | Tagging | None = None,
    tokenizer: str | None = None,
) -> Adapter:
    """A checkpoint of P-Tuning v2's code as an adapter: `predict`, `save`, `evaluate(file=...)`.

    Args:
      source: a checkpoint folder (`pytorch_model.bin`, which needs torch, or `model.safetensors`), or its tensors as
        numpy arrays by name.
      backbone: folder or hub name of the model that was tuned.
      kind: `classification` or `tagging`; None takes the task's, or what the folder's `config.json` tells.
      labels: names in the order of the logits; None for those of `config.json`, else LABEL_0, LABEL_1, ...
      task: columns, templates and cutting of texts, where rows are more than one text.
      tokenizer: folder or hub name of the tokenizer, where the model's folder has none; None for the one there.

    Raises:
      UserError: no prefix of a sequence or token classifier, or another backbone.
    """
    if isinstance(source, Mapping):
        tensors, config, place = source, {}, Path()
    else:
        place = Path(source).expanduser()
        tensors = read_tensors(place, "model", "pytorch_model")
        config = read_json(place / "config.json") if (place / "config.json").exists() else {}
    kind = kind or (task and _kind_of(task.question)) or _kind_of(" ".join(config.get("architectures") or ()))
    if kind is None:
        raise UserError("the tensors do not tell sequences from tokens; say kind = 'classification' or 'tagging'.")
    base = read_base(backbone, tokenizer)
    if base.module.dims.causal:
        raise UserError(f"P-Tuning v2's code tunes encoders, and {backbone} is a decoder; name the encoder.")
    converted = from_p_tuning_v2(tensors, kind, base.module.config, base.module.dims, base.tree)
    known = read_labels(config, place / "config.json")
    return as_adapter(dataclasses.replace(converted, labels=known), base, labels, task, tokenizer)


def is_checkpoint(config: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a `config.json`, or these names of tensors, are those of P-Tuning v2's code."""
    return "Prefix" in architecture(config) or TABLE in names


def _kind_of(name: str) -> Kind | None:
    if re.search("TokenClassification|tagging", name):
        return "tagging"
    return "classification" if re.search("SequenceClassification|classification", name) else None


def from_p_tuning_v2(tensors: Tensors, kind: Kind, config: BackboneConfig, dims: Dims, backbone: Tree) -> Converted:
    """P-Tuning v2's tensors in our terms; an MLP stays one.

    Args:
      tensors: `prefix_encoder.*`, `classifier.*`, and perhaps the encoder's.
      kind: what `classifier` reads.
      config: of the backbone.
      dims: of the backbone.
      backbone: its leaves, which an encoder among the tensors must equal.

    Raises:
      UserError: missing, unknown or ill-shaped tensors, or another encoder.
    """
    columns = 2 * dims.layers * dims.kv_heads * dims.head_width
    maps: tuple[str, ...] = ("classifier",)
    if f"{UP}.weight" in tensors:
        maps += (UP, DOWN)
        up = from_linear(tensors, UP, dims.width)
        down = from_linear(tensors, DOWN, len(up["bias"]), columns)
        prefix = reparameterised(take(tensors, TABLE, (None, dims.width)), up, down)
        method = PTuningV2(length=len(prefix["embedding"]), mlp_width=len(up["bias"]))
    else:
        table = take(tensors, TABLE, (None, columns))
        prefix = from_table(table, dims.layers, dims.kv_heads, dims.head_width)
        method = PTuningV2(length=len(table))
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith(config.prefix)}
    pooler = _checked_encoder(encoder, config, flatten(backbone))
    own = {f"{name}.{leaf}" for name in maps for leaf in ("weight", "bias")}
    refuse_unknown(tensors, {TABLE, *own, *encoder}, "P-Tuning v2")
    trainable: Tree = {"method": prefix, "head": {"classifier": from_linear(tensors, "classifier", dims.width)}}
    if kind == "tagging":
        return Converted(method, Tagging, TokenClassifier(), trainable)
    head, initialized = SequenceClassifier(pooling="pooler"), {"pooler": pooler} if pooler else {}
    return Converted(method, Classification, head, trainable, initialized)


def _checked_encoder(encoder: Tensors, config: BackboneConfig, backbone: Mapping[str, Any]) -> Linear | None:
    """The checkpoint's pooler where it is another than the backbone's; None where it is the same or absent.

    Raises:
      UserError: a tensor that is no encoder's, or that differs from the backbone's.
    """
    known = {name for name in encoder if name.endswith(config.constants)}
    for leaf in config.leaves(config.prefix):
        if leaf.top == "pooler":
            continue
        for layer, names in enumerate(leaf.tensor_names(config.layers)):
            for name in set(names) & set(encoder):
                known.add(name)
                theirs = take(encoder, name, leaf.shape[::-1] if leaf.transposed else leaf.shape)
                ours = backbone[leaf.path][layer] if leaf.stacked else backbone[leaf.path]
                if not _same(ours, theirs.T if leaf.transposed else theirs):
                    raise UserError(
                        f"the checkpoint's {name} is not the backbone's; name the model that was tuned (its encoder "
                        "is frozen in P-Tuning v2)."
                    )
    pooler, name = None, f"{config.prefix}pooler.dense"
    if f"{name}.weight" in encoder:
        known |= {f"{name}.weight", f"{name}.bias"}
        pooler = from_linear(encoder, name, config.width, config.width)
        if all(f"pooler/{leaf}" in backbone and _same(backbone[f"pooler/{leaf}"], pooler[leaf]) for leaf in pooler):
            pooler = None
    refuse_unknown(encoder, known, "P-Tuning v2")
    return pooler


def _same(ours: Any, theirs: np.ndarray) -> bool:
    return np.allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-6)
