"""Hugging Face PEFT's folders, both ways.

A folder has `adapter_config.json` and tensors: those of the method, which `TYPES` knows by `peft_type`, and those of
the head (`peft_heads.py`).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.adapters.adapter import Adapter, load_adapter
from jaxprefix.checkpoints.files import as_path, put_folder, recover_folder, writing
from jaxprefix.errors import UserError, listed
from jaxprefix.exchange.classifier_config import ClassifierConfig, asked_type, call_options, written_config
from jaxprefix.exchange.converted import Converted, as_adapter, read_base
from jaxprefix.exchange.files import read_json, read_tensors
from jaxprefix.exchange.ia3 import IA3_TYPE
from jaxprefix.exchange.layout import Tensors, refuse_unknown
from jaxprefix.exchange.peft_heads import AUTO, Units, from_head, to_head
from jaxprefix.exchange.peft_prefix import PREFIX_TUNING
from jaxprefix.hf.sources import CONFIG as HF_CONFIG
from jaxprefix.hf.sources import EMBEDDED, find_folder, read_config
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks.base import Task
from jaxprefix.trees import Tree

log = logging.getLogger("jaxprefix")

TENSORS, CONFIG, CARD = "adapter_model.safetensors", "adapter_config.json", "README.md"
WRITTEN = {TENSORS, CONFIG, CARD, HF_CONFIG}
TYPES = (PREFIX_TUNING, IA3_TYPE)
"""The kinds of adapters that are read and written, a file each."""

COMMON = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save", "peft_type", "peft_version"),
    *("revision", "task_type"),
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
    task, facts, head = adapter.run.task, adapter.facts, adapter.model.head
    tensors, config = to_peft(adapter.model, adapter.trainable, adapter.frozen, task.output_units(facts))
    base = backbone or (str(find_folder(source)) if source in EMBEDDED else source)
    config = {"base_model_name_or_path": base, **config}
    assert head is not None  # as `to_peft` has seen
    said, options = {}, ""
    if (count := head.count) is not None:  # a classifier
        said = written_config(read_config(find_folder(backbone or source)), task, facts, head.problem_type)
        options = call_options(said, count)
    target = as_path(folder)
    recover_folder(target)
    if target.exists() and (not target.is_dir() or not {found.name for found in target.iterdir()} <= WRITTEN):
        raise UserError(f"{folder} exists and holds more than an exported adapter; choose another place.")
    from safetensors.numpy import save

    with writing("the PEFT folder", target):
        staged = target.parent / f"{target.name}.partial"
        if staged.exists():
            staged.rmtree()
        staged.mkdir(parents=True)
        try:
            (staged / TENSORS).write_bytes(save(tensors, {"format": "pt"}))
            (staged / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            if said:
                (staged / HF_CONFIG).write_text(json.dumps(said, indent=2) + "\n")
            (staged / CARD).write_text(_card(config, adapter.labels, said, options))
            put_folder(staged, target)
        finally:
            if staged.exists():
                staged.rmtree()
    return Path(folder)


def to_peft(
    model: TunedModel, trainable: Tree, frozen: Tree, units: Units | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """PEFT's tensors (float32) and its configuration, less the name of the base model.

    Args:
      model: backbone, method and head.
      trainable: its trained leaves.
      frozen: its other leaves.
      units: those of the head's outputs (`Task.output_units`).

    Raises:
      UserError: PEFT would read it as another function.
    """
    kind = next((kind for kind in TYPES if type(model.method) in kind.methods), None)
    if kind is None:
        known = [cls.__name__ for kind in TYPES for cls in kind.methods]
        raise UserError(
            f"{type(model.method).__name__} cannot be written as an adapter of PEFT that has the same function; export "
            f"an adapter of {', '.join(known[:-1])} or {known[-1]}."
        )
    tensors, settings = kind.write(model, trainable)
    task, head, saved = to_head(model, trainable, frozen, kind.root, units)
    config = {
        "auto_mapping": None,
        "inference_mode": True,
        "modules_to_save": saved,
        "peft_type": kind.name,
        "revision": None,
        "task_type": task,
        **settings,
    }
    return {**tensors, **head}, config


def import_peft(
    folder: str | Path,
    *,
    backbone: str | None = None,
    labels: Sequence[str] | None = None,
    task: Task | None = None,
    problem_type: str | None = None,
    tokenizer: str | None = None,
) -> Adapter:
    """A folder of PEFT as an adapter: `predict`, `save`, `evaluate(file=...)`.

    Args:
      folder: with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`, which needs torch).
      backbone: folder or hub name of the base model; None for the one that the folder names.
      labels: names in the order of the logits (columns, of a regression); None for those of the folder's
        `config.json`, as `export_peft` writes it, else those of the base model where there are as many, else LABEL_0,
        LABEL_1, ...; a language model has none.
      task: columns, templates and cutting of texts, where rows are more than one text.
      problem_type: what a sequence classifier answers, in transformers' words (`regression`,
        `single_label_classification`, `multi_label_classification`); None for that of the task, else that of the
        folder's `config.json` or the base model's, else by transformers' rule: one output is a regression.
      tokenizer: folder or hub name of the tokenizer, where the model's folder has none; None for the one there.

    Raises:
      UserError: it is of another kind, not of a sequence classifier, a token classifier or a causal language model,
        its `problem_type` is unknown, or it does not fit the backbone.
    """
    folder = Path(folder).expanduser()
    config = read_json(folder / CONFIG)
    tensors = read_tensors(folder, "adapter_model")
    source = backbone or config.get("base_model_name_or_path")
    if not source:
        raise UserError(f"{folder} does not name its base model; give it as backbone.")
    base = read_base(str(source), tokenizer)
    of_base = not (folder / HF_CONFIG).is_file()
    place = find_folder(str(source)) if of_base else folder
    said = ClassifierConfig(place / HF_CONFIG, read_config(place), of_base, asked_type(problem_type, task))
    return as_adapter(from_peft(tensors, config, base.module, said), base, labels, task, tokenizer)


def from_peft(
    tensors: Tensors, config: Mapping[str, Any], module: Module, said: ClassifierConfig | None = None
) -> Converted:
    """PEFT's tensors in our terms.

    Args:
      tensors: of `adapter_model.safetensors`.
      config: of `adapter_config.json`; keys without meaning here are logged and ignored, as PEFT does.
      module: the backbone's.
      said: what is said of a classifier beside all that.

    Raises:
      UserError: another method or task, missing, unknown or ill-shaped tensors.
    """
    kind = next((kind for kind in TYPES if kind.name == config.get("peft_type")), None)
    if kind is None:
        known = listed(sorted(kind.name for kind in TYPES))
        raise UserError(
            f"{CONFIG} has peft_type = {config.get('peft_type')!r}, and only {known} can be imported; give the folder "
            "of such an adapter."
        )
    task = config.get("task_type")
    if not isinstance(task, str) or task not in AUTO:
        raise UserError(
            f"{CONFIG} has task_type = {task!r}, and only {', '.join(AUTO)} can be imported; "
            "give an adapter for one of these."
        )
    if ignored := sorted(set(config) - COMMON - kind.settings):
        log.info("%s has settings that are ignored: %s.", CONFIG, ", ".join(ignored))
    method, leaves, known = kind.read(tensors, config, module)
    others = {name: tensor for name, tensor in tensors.items() if name not in known}
    lora = "base_model.model."
    if kind.root != lora and (wrong := [name for name in others if name.startswith(lora)]):
        raise UserError(
            f"the tensor {wrong[0]} has the prefix of LoRA files, {lora}, where {kind.name} has {kind.root}; save the "
            "adapter again with PEFT."
        )
    said = said or ClassifierConfig()
    asked, head, own, read = from_head(others, task, module.config, kind.root, said)
    refuse_unknown(others, read, "PEFT", kind.what)
    outputs = own["head"]["classifier"]["kernel"].shape[1] if "head" in own else None
    labels = None if outputs is None else said.labels(outputs)
    return Converted(method, asked, head, {"method": leaves, **own}, labels=labels, config=said.own)


def _card(config: Mapping[str, Any], labels: Sequence[str], said: Mapping[str, Any], options: str) -> str:
    base, model = config["base_model_name_or_path"], AUTO[config["task_type"]]
    named = ", ".join(f"`{label}`" for label in labels)
    named_labels = f"Labels, in the order of the logits: {named}.\n\n" if labels else ""
    if "thresholds" in said:
        numbers = ", ".join(f"{number:g}" for number in said["thresholds"])
        named_labels += f"A row has a label from these probabilities on: {numbers}.\n\n"
    return (
        f"---\nlibrary_name: peft\n---\n\nAn adapter ({config['peft_type']}), written by jaxprefix.\n\n{named_labels}"
        f"```python\nfrom peft import PeftModel\nfrom transformers import {model}\n\n"
        f'base = {model}.from_pretrained(\n    "{base}"{options},\n)\n'
        "model = PeftModel.from_pretrained(base, FOLDER).eval()  # FOLDER holds this file\n```\n"
    )
