"""A model folder before its tensors: its config, and the one place that parses `config.json`."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxprefix.errors import UserError
from jaxprefix.hf.headers import has_tensors
from jaxprefix.hf.safetensors_files import TensorFiles
from jaxprefix.hf.sources import CONFIG, find_folder, read_config
from jaxprefix.models.backbone_config import BackboneConfig, leaves_in
from jaxprefix.models.backbones import read_hf_config
from jaxprefix.models.leaves import HEAD, WORD

log = logging.getLogger("jaxprefix")


class ModelFolder(NamedTuple):
    """A folder whose `config.json` was read.

    Attributes:
      source: the model as the person named it.
      path: the folder.
      config: the backbone's.
      untied: whether `config.json` says that the head of a language model is not the word table.
    """

    source: str
    path: Path
    config: BackboneConfig
    untied: bool


def open_folder(source: str | Path | ModelFolder) -> ModelFolder:
    """The folder of a model, by `find_folder`; one that was opened before as it is.

    Raises:
      UserError: it is not available, or of no supported architecture.
    """
    return source if isinstance(source, ModelFolder) else _read(str(source), find_folder(source))


def open_hub_config(name: str) -> ModelFolder:
    """The same of a hub's model of which `config.json` alone is fetched.

    Raises:
      UserError: it is not available, or of no supported architecture.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, CONFIG)).parent
    except Exception as error:  # the HTTP client's errors are not the hub library's
        raise UserError(
            f"the sizes of {name!r} are neither known here nor available from the hub ({type(error).__name__}); give "
            f"a folder with its {CONFIG}."
        ) from error
    return _read(name, path)


def check_vocabulary(tokenizer: Any, config: BackboneConfig, source: str | Path) -> None:
    """Refuses a tokenizer with more entries than the word table has rows."""
    if len(tokenizer) > config.vocab:
        raise UserError(
            f"the tokenizer of {source} has {len(tokenizer)} entries, but the word table only {config.vocab}; take the "
            "tokenizer that the model was trained with, or for a new backbone a larger vocab."
        )


def _read(source: str, path: Path) -> ModelFolder:
    raw = read_config(path)
    config = by_values(read_hf_config(raw), path)
    return ModelFolder(source, path, config, raw.get("tie_word_embeddings") is False)


def by_values(config: BackboneConfig, folder: Path) -> BackboneConfig:
    """A config whose head of a language model is tied or not as the files say, whatever `config.json` does.

    transformers keeps a head that differs from the word table although the config ties the two.
    """
    if not (config.causal and config.tied and has_tensors(folder)):
        return config
    untied = dataclasses.replace(config, tied=False)
    files = TensorFiles(folder)
    leaves = {leaf.path: leaf for leaf in leaves_in(untied, files.places)}
    if HEAD not in leaves:  # of a family that has no head of its own
        return config
    (head,), (words, *_) = leaves[HEAD].names, leaves[WORD].names
    if head not in files.places or words not in files.places:
        return config
    digests = files.fingerprints((head, words))
    files.remember()
    if digests[head] == digests[words]:
        return config
    log.info("%s has a head that is not its word table, although its config.json ties them; both are read.", folder)
    return untied


def architecture(raw: Mapping[str, Any]) -> str:
    """The class that the dict of a `config.json` names; "" where it names none."""
    named = raw.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""
