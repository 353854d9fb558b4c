"""Hugging Face PEFT's prefix-tuning folders, both ways.

PEFT keeps one table `prompt_embeddings` `[P, 2 L K E]` (an MLP is evaluated when it saves), shifts the positions of
real tokens by P, and applies no dropout to the prefix. On decoders it hands the prefix over as keys and values of
tokens that were seen before: keys are stored as they enter the attention (rotated), the table is as wide as the
key/value heads, and in layers with a sliding window the prefix leaves it (`subject_to_window=True`). PEFT ignores
tensors that it does not know, so an adapter with more than that would load there and be another function: `to_peft`
  refuses it.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprefix.adapters.adapter import Adapter, load_adapter
from jaxprefix.checkpoints.files import as_path, put_folder, writing
from jaxprefix.errors import UserError
from jaxprefix.exchange.converted import Converted, as_adapter, read_base
from jaxprefix.exchange.files import read_json, read_tensors
from jaxprefix.exchange.layout import Tensors, from_table, refuse_unknown, take, to_table
from jaxprefix.exchange.peft_heads import AUTO, from_head, to_head
from jaxprefix.hf.sources import EMBEDDED, find_folder
from jaxprefix.methods import PrefixTuning, PTuningV2, collapse
from jaxprefix.methods.prefix_edits import Prefix
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.models.positions import convert_positions, has_rotation
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import Task
from jaxprefix.trees import Tree

log = logging.getLogger("jaxprefix")

TENSORS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
PREFIX = "prompt_embeddings"
KNOWN = {
    *("auto_mapping", "base_model_name_or_path", "encoder_hidden_size", "inference_mode", "init_weights"),
    *("modules_to_save", "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens"),
    *("peft_type", "peft_version", "prefix_projection", "revision", "task_type", "token_dim"),
}


def export_peft(adapter: Adapter | str | Path, folder: str | Path, *, backbone: str | None = None) -> Path:
    """Writes an adapter as a folder that `peft.PeftModel.from_pretrained` opens, with the same logits.

    Args:
      adapter: a loaded adapter, or an adapter folder.
      folder: where to; an older export there is replaced.
      backbone: as for `load_adapter`, and the base model that the folder names; None for the run's.

    Returns:
      The folder.

    Raises:
      UserError: PEFT would read it as another function; the message says why.
    """
    if not isinstance(adapter, Adapter):
        adapter = load_adapter(adapter, backbone=backbone)
    source = str(adapter.backbone.identity["source"])
    if not adapter.backbone.identity["identity"]:
        raise UserError("the backbone was drawn at random in its run; write it with save_pretrained, and tune that.")
    tensors, config = to_peft(adapter.model, adapter.trainable, adapter.frozen)
    base = backbone or (str(find_folder(source)) if source in EMBEDDED else source)
    config = {"base_model_name_or_path": base, **config}
    target = as_path(folder)
    if target.exists() and (
        not target.is_dir() or any(found.name not in (TENSORS, CONFIG, CARD) for found in target.iterdir())
    ):
        raise UserError(f"{folder} exists and holds more than an exported prefix; choose another place.")
    from safetensors.numpy import save

    with writing("the PEFT folder", target):
        staged = target.parent / f"{target.name}.partial"
        if staged.exists():
            staged.rmtree()
        staged.mkdir(parents=True)
        try:
            (staged / TENSORS).write_bytes(save(tensors, {"format": "pt"}))
            (staged / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            (staged / CARD).write_text(_card(config, adapter.labels))
            put_folder(staged, target)
        finally:
            if staged.exists():
                staged.rmtree()
    return Path(folder)


def to_peft(model: TunedModel, trainable: Tree, frozen: Tree) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """PEFT's tensors (float32) and its configuration, less the name of the base model.

    Args:
      model: backbone, method and head.
      trainable, frozen: its two trees.

    Raises:
      UserError: PEFT would read it as another function.
    """
    dims = model.backbone.dims
    prefix = exported_prefix(model, trainable)
    table = to_table(np.asarray(prefix.keys, np.float32), np.asarray(prefix.values, np.float32))
    task, tensors, saved = to_head(model, trainable, frozen)
    width = dims.kv_heads * dims.head_width
    config = {
        "auto_mapping": None,
        "encoder_hidden_size": width,
        "inference_mode": True,
        "modules_to_save": saved,
        "num_attention_heads": dims.kv_heads,
        "num_layers": dims.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(table),
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,
        "revision": None,
        "task_type": task,
        "token_dim": width,
    }
    return {PREFIX: table, **tensors}, config


def exported_prefix(model: TunedModel, trainable: Tree) -> Prefix:
    """The keys and values `[L, P, K, E]` that the method hands to the layers, where they are all that it does.

    Raises:
      UserError: the method does more than PEFT's prefix can say.
    """
    method, name = model.method, type(model.method).__name__
    if type(method) not in (PTuningV2, PrefixTuning):
        raise UserError(
            f"{name} cannot be written as PEFT's prefix tuning, which has keys and values alone; "
            "export an adapter of PTuningV2 or PrefixTuning."
        )
    lengths = method.layer_lengths(model.backbone.dims)
    if min(lengths) < max(lengths):
        field = "lengths" if method.lengths is not None else "layers"
        raise UserError(
            f"{name} has {field} = {getattr(method, field)}, but PEFT gives every layer a prefix of the same length, "
            f"and tokens of zeros would take attention too; train without {field}."
        )
    if method.no_op_start:
        raise UserError(f"{name}(no_op_start=True) has masses, which PEFT would silently drop; train without it.")
    config = model.backbone.config
    if config.slides and not method.subject_to_window:
        raise UserError(
            f"{config.model_type} has windows of {config.window} tokens, which a prefix leaves in PEFT, and {name} has "
            "subject_to_window = False; set it to True (which changes nothing for prefix and row together no longer "
            "than a window)."
        )
    if has_rotation(config):
        model, trainable = _moved(model, trainable)
    elif not method.position_offset:
        raise UserError(f"{name} has position_offset = False, but PEFT shifts positions; train with True.")
    edits = model.edits(trainable)
    prefix = edits.layers[0] if len(edits.layers) == 1 else None
    if type(prefix) is not Prefix or len(jax.tree.leaves(prefix)) != 2 or edits.position_offset != prefix.keys.shape[1]:
        raise UserError(f"{name} does more than add keys and values, which PEFT would silently drop; export another.")
    return prefix


def _moved(model: TunedModel, trainable: Tree) -> tuple[TunedModel, Tree]:
    """The same function with the positions of real tokens shifted by P."""
    method, leaves = model.method, trainable["method"]
    if method.position_offset is True:
        return model, trainable
    if "keys" not in leaves:
        method, leaves = collapse(method, leaves, model.backbone.dims)
    method, leaves = convert_positions(model, method, leaves, True)
    return dataclasses.replace(model, method=method), {**trainable, "method": leaves}


def import_peft(
    folder: str | Path,
    *,
    backbone: str | None = None,
    labels: Sequence[str] | None = None,
    task: Task | None = None,
) -> Adapter:
    """A prefix-tuning folder of PEFT as an adapter: `predict`, `save`, `evaluate(file=...)`.

    Args:
      folder: with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`, which needs torch).
      backbone: folder or hub name of the base model; None for the one that the folder names.
      labels: names in the order of the logits; None for LABEL_0, LABEL_1, ...; a language model has none.
      task: columns, templates and cutting of texts, where rows are more than one text.

    Raises:
      UserError: it is no prefix of a sequence classifier, a token classifier or a causal language model, or does not
        fit the backbone.
    """
    folder = Path(folder).expanduser()
    config = read_json(folder / CONFIG)
    tensors = read_tensors(folder, "adapter_model")
    source = backbone or config.get("base_model_name_or_path")
    if not source:
        raise UserError(f"{folder} does not name its base model; give it as backbone.")
    base = read_base(str(source))
    return as_adapter(from_peft(tensors, config, base.module.config), base, labels, task)


def from_peft(tensors: Tensors, config: Mapping[str, Any], backbone: BackboneConfig) -> Converted:
    """PEFT's tensors in our terms; the prefix stays without the MLP that PEFT dropped.

    Args:
      tensors: of `adapter_model.safetensors`.
      config: of `adapter_config.json`; keys without meaning here are logged and ignored, as PEFT does.
      backbone: the config of the base model; where any layer of it slides, the prefix leaves the window.

    Raises:
      UserError: another method or task, missing, unknown or ill-shaped tensors.
    """
    if config.get("peft_type") != "PREFIX_TUNING":
        raise UserError(
            f"{CONFIG} has peft_type = {config.get('peft_type')!r}, and only PREFIX_TUNING can be imported; "
            "give the folder of a prefix-tuning adapter."
        )
    task = config.get("task_type")
    if task not in AUTO:
        raise UserError(
            f"{CONFIG} has task_type = {task!r}, and only {', '.join(AUTO)} can be imported; "
            "give an adapter for one of these."
        )
    if ignored := sorted(set(config) - KNOWN):
        log.info("%s has settings that are ignored: %s.", CONFIG, ", ".join(ignored))
    if wrong := [name for name in tensors if name.startswith("base_model.model.")]:
        raise UserError(
            f"the tensor {wrong[0]} has the prefix of LoRA files, base_model.model., where prefix-tuning has "
            "base_model.; save the adapter again with PEFT."
        )
    dims = backbone.dims
    width = dims.kv_heads * dims.head_width
    table = take(tensors, PREFIX, (config.get("num_virtual_tokens"), 2 * dims.layers * width))
    head, leaves, known = from_head(tensors, task, backbone)
    refuse_unknown(tensors, {PREFIX, *known}, "PEFT")
    trainable: Tree = {"method": from_table(table, dims.layers, dims.kv_heads, dims.head_width), **leaves}
    return Converted(PTuningV2(length=len(table), dropout=0.0, subject_to_window=backbone.slides), head, trainable)


def _card(config: Mapping[str, Any], labels: Sequence[str]) -> str:
    base, model = config["base_model_name_or_path"], AUTO[config["task_type"]]
    named = ", ".join(f"`{label}`" for label in labels)
    listed = f"Labels, in the order of the logits: {named}.\n\n" if labels else ""
    options = f", num_labels={len(labels)}" if labels else ""
    return (
        f"---\nlibrary_name: peft\n---\n\nA prefix of {config['num_virtual_tokens']} virtual tokens, written by "
        f"jaxprefix.\n\n{listed}"
        f"```python\nfrom peft import PeftModel\nfrom transformers import {model}\n\n"
        f'base = {model}.from_pretrained("{base}"{options})\n'
        "model = PeftModel.from_pretrained(base, FOLDER).eval()  # FOLDER holds this file\n```\n"
    )
