"""Whole sequence classifiers of transformers: the backbone in their folder, and their head as the one thing trained.

A folder is what `save_pretrained` writes: `config.json` and safetensors. The adapter refers to the folder as its
backbone, and holds the head; nothing in the folder is executed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.errors import UserError
from jaxprefix.exchange.classifier_config import SEQUENCES, ClassifierConfig, asked_type
from jaxprefix.exchange.converted import Converted, as_adapter, read_base
from jaxprefix.exchange.layout import refuse_unknown, take
from jaxprefix.exchange.peft_heads import from_head
from jaxprefix.hf.folders import architecture
from jaxprefix.hf.safetensors_files import TensorFiles
from jaxprefix.hf.sources import CONFIG, find_folder, read_config
from jaxprefix.methods import HeadOnly
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.tasks.base import Task
from jaxprefix.training.setup import Backbone

ARCHITECTURE = "ForSequenceClassification"  # how the names of its classes end


def import_transformers(
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    task: Task | None = None,
    problem_type: str | None = None,
    tokenizer: str | None = None,
) -> Adapter:
    """A sequence classifier of transformers as an adapter: `predict`, `save`, `evaluate(file=...)`.

    Args:
      folder: what `save_pretrained` wrote, or a name on the hub; the adapter's backbone too.
      labels: names in the order of the logits (columns, of a regression); None for those of `config.json`, else
        LABEL_0, LABEL_1, ...
      task: columns, templates and cutting of texts, where rows are more than one text.
      problem_type: as for `import_peft`, where `config.json` has none.
      tokenizer: folder or hub name of the tokenizer, where the folder has none; None for the one there.

    Raises:
      UserError: it is no sequence classifier, its `problem_type` is unknown, its head has missing, ill-shaped or
        further tensors, or it is computed by code of its own.
    """
    path = find_folder(folder)
    settings = read_config(path)
    _check_architecture(settings, path)
    said = ClassifierConfig(path / CONFIG, settings, asked=asked_type(problem_type, task))
    said.problem_type(said.outputs)  # what config.json may not say is refused before anything is read
    base = read_base(str(folder), tokenizer)
    _check_pooler(base)
    heads = HeadTensors(path, base.module.config, base.identity["fingerprint"])
    return as_adapter(from_transformers(heads, base.module.config, said), base, labels, task, tokenizer)


def from_transformers(tensors: Mapping[str, np.ndarray], config: BackboneConfig, said: ClassifierConfig) -> Converted:
    """The head of a classifier in our terms.

    Args:
      tensors: those that are not the backbone's.
      config: of the backbone.
      said: what `config.json` says of the classifier.

    Raises:
      UserError: missing, unknown or ill-shaped tensors, or an unknown `problem_type`.
    """
    theirs = config.classifiers
    if theirs is not None:
        take(tensors, f"{theirs.rows}.weight", (said.outputs, config.width))
    kind, head, leaves, known = from_head(tensors, SEQUENCES, config, "", said)
    refuse_unknown(tensors, known, "transformers", "a sequence classifier")
    return Converted(HeadOnly(), kind, head, leaves, labels=said.labels(said.outputs), config=said.own)


class HeadTensors(Mapping[str, np.ndarray]):
    """The tensors of a folder beside those of its backbone, read when they are asked for."""

    def __init__(self, folder: Path, config: BackboneConfig, used: Mapping[str, str]) -> None:
        """Those that were not `used` for the backbone, nor have its prefix."""
        self._files = TensorFiles(folder)
        self._names = [
            name
            for name in self._files.places
            if name not in used and not name.startswith(config.prefix) and not name.endswith(config.constants)
        ]

    @override
    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._files.read(name)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)


def _check_pooler(base: Backbone) -> None:
    theirs = base.module.config.classifiers
    if theirs is not None and theirs.pooler and not theirs.pooler_is_trained and "pooler" not in base.tree:
        raise UserError(
            f"the tensors {theirs.pooler}.weight and {theirs.pooler}.bias, which the classifier reads, are not both "
            "there; copy or download the folder again."
        )


def is_classifier(settings: Mapping[str, Any]) -> bool:
    """Whether the dict of a `config.json` is that of a sequence classifier of transformers."""
    return architecture(settings).endswith(ARCHITECTURE)


def _check_architecture(settings: Mapping[str, Any], folder: Path) -> None:
    if not is_classifier(settings):
        raise UserError(
            f"{folder / CONFIG} has architectures = {settings.get('architectures')!r}, and only classes that end in "
            f"{ARCHITECTURE} can be imported; give the folder of such a model."
        )
    code = settings.get("auto_map")
    if isinstance(code, Mapping) and any(name.endswith(ARCHITECTURE) for name in code):
        raise UserError(
            f"{folder / CONFIG} has an auto_map, so code in its folder computes the classifier, and that is not "
            "run; give a model of transformers' own classes."
        )
