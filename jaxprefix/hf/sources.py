"""From what a person calls a model to the folder that holds it: a path, an embedded encoder, a hub name."""

import contextlib
import importlib.resources
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError
from jaxprefix.paths import check_entries, parse_json

EMBEDDED = ("tiny-encoder", "tiny-decoder")
"""Backbones shipped inside the package; such a name means the shipped one, `./tiny-encoder` a person's own folder."""

CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
HUB_FILES = [
    CONFIG,
    "*.safetensors",
    "*.safetensors.index.json",
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
]


def find_folder(source: str | Path) -> Path:
    """The local folder of a model: the folder itself, an embedded encoder, or a snapshot of a hub repository.

    A hub repository's files come from its local cache where they are there, whole, and the network is not.

    Raises:
      UserError: there is no such folder, or the hub cannot be reached or does not have it.
    """
    if source in EMBEDDED:
        folder = Path(str(importlib.resources.files("jaxprefix.models"))) / "pretrained" / source
        if not folder.is_dir():
            raise UserError(f"this installation lacks the embedded encoder {source!r}; install jaxprefix again.")
        return folder
    folder = Path(source).expanduser()
    if folder.is_dir():
        check_entries(folder)
        return folder
    if folder.exists():
        raise UserError(f"{source} is a file; give the folder that holds it and its {CONFIG}.")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(source)):
        raise UserError(f"there is no folder {source}; give an existing one, or a hub name such as 'roberta-base'.")
    return _download(str(source))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"neither a local folder nor a repository of the hub is called {name!r} (or it is private); "
            "correct the name, or log in with `hf auth login`."
        ) from error
    except Exception as error:  # the HTTP client's own errors are not the hub library's, and change with its versions
        said = "" if not isinstance(error, HfHubHTTPError) else f" (it says {str(error).splitlines()[0]!r})"
        raise UserError(
            f"there is no local folder {name!r}, and the hub cannot be reached for a model of that name{said}; "
            f"give a local folder or one of the embedded encoders ({', '.join(EMBEDDED)})."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
      UserError: it is absent or damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} is no model folder: it has no {CONFIG}; give the folder that save_pretrained wrote.")
    try:
        config = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check its permissions.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error}); copy or download it again.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it is no table of settings; copy or download it again.")
    return config


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """transformers advises to install torch when it is imported; nobody needs that here."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def name_inputs(tokenizer: Any, token_types: bool) -> None:
    """Makes a tokenizer give `token_type_ids` or leave them out, whatever its folder says.

    Args:
      tokenizer: a transformers tokenizer.
      token_types: whether the backbone has a table of them. To a decoder they would be words (GPT-2) or nothing.
    """
    others = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    tokenizer.model_input_names = [*others[:1], *(["token_type_ids"] if token_types else []), *others[1:]]


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer that can be read: transformers would make an empty one up."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def read_tokenizer(source: str | Path) -> Any:
    """The transformers tokenizer of a model.

    Args:
      source: as for `load_pretrained`.

    Raises:
      UserError: no such model, or its folder has no tokenizer that can be read.
    """
    folder = find_folder(source)
    if not has_tokenizer(folder) and (folder / "tokenizer.model").is_file():
        raise UserError(
            f"{folder} has its tokenizer as tokenizer.model alone, the form of SentencePiece; convert it once, where "
            "sentencepiece is installed, with AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of "
            "transformers."
        )
    if not has_tokenizer(folder):
        raise UserError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}, ...); copy the files of the one that the "
            "model was trained with into it, or name a folder that has it by --tokenizer, in Python by tokenizer=."
        )
    try:
        with _without_advice():
            from transformers import AutoTokenizer
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its errors are of every type
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"the tokenizer in {folder} cannot be read ({reason[0]}); copy its files again.") from error
