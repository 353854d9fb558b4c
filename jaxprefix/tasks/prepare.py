"""Rows to examples: tokenised once, then memory-mapped from the cache."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.data.examples import Examples, Vocabulary
from jaxprefix.data.packing import packed
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import open_split
from jaxprefix.data.store import Store
from jaxprefix.errors import UserError, listed
from jaxprefix.paths import cache_folder
from jaxprefix.tasks.causal import encode_causal
from jaxprefix.tasks.encode import Encoded, columns_of, encode, serialised, vocabulary_of
from jaxprefix.tasks.formats.encoding import encode_format
from jaxprefix.tasks.formats.rows import open_rows
from jaxprefix.tasks.kinds import CausalLanguage, ConditionalGeneration, MaskedLanguage, Tagging, Task, Unlabelled
from jaxprefix.tasks.labels import label_finder, label_names

FORMAT = 2  # of what is stored; raise it when the same key would give other arrays
NOT_STORED = ("source", "metric", "mask_rate", "focus", "focus_rate")  # what a task says beyond the arrays


def prepare(
    task: Task, tokenizer: Any, split: str = "train", labels: Sequence[str] | None = None, folder: Path | None = None
) -> Examples:
    """The tokenised rows of a split, from the cache if the same data met the same tokenizer and task before.

    Args:
      task: which data, which columns, which limits.
      tokenizer: a fast Hugging Face tokenizer.
      split: `train`, `validation` or `test`.
      labels: the labels in the order of the logits where something trained fixes them already; overrides the task's.
      folder: where prepared rows are kept; by default `tokens` in the cache folder.

    Returns:
      Examples over memory-mapped arrays.

    Raises:
      UserError: bad data, task or tokenizer, named by file and line or row; or a cache folder that cannot be written.
    """
    if labels is not None and not isinstance(task, Unlabelled):
        task = replace(task, labels=tuple(labels))
    if isinstance(task, MaskedLanguage) and tokenizer.mask_token_id is None:
        raise UserError("The tokenizer has no mask token; masked language modelling needs one that has.")
    if isinstance(task, MaskedLanguage):
        for name, rate in (("mask_rate", task.mask_rate), ("focus_rate", task.focus_rate)):
            if not 0 < rate < 1:
                raise UserError(f"The {name} is {rate}; it must lie between 0 and 1.")
    rows = open_rows(task, split)
    naming = rows  # whose rows name the labels if nothing else does
    if _needs_training_rows(task, rows) and split != "train":
        naming = open_split(task.source, "train")
    key = _key(task, tokenizer, rows.identity, naming.identity)
    store = Store(folder or cache_folder() / "tokens")
    stored = store.read(key)
    if stored is None:
        names = () if isinstance(task, Unlabelled) else label_names(task, naming)
        arrays = _arrays(task, tokenizer, rows, names)
        about = {"names": list(names), "vocabulary": asdict(vocabulary_of(tokenizer))}
        store.write(key, arrays, about)
        stored = store.read(key) or (arrays, about)
    examples = _examples(task, *stored)
    if isinstance(task, MaskedLanguage):
        examples = replace(examples, focus_ids=_one_token_each(task.focus, tokenizer), focus_rate=task.focus_rate)
    if split == "train" and not isinstance(task, Unlabelled):
        _refuse_one_class(examples, rows)
    return examples


def encode_texts(task: Task, tokenizer: Any, texts: Sequence[str | Sequence[str] | Mapping[str, Any]]) -> Examples:
    """Unlabelled rows for prediction, kept in memory.

    Each is a mapping from the task's columns to values; or a string, where one column makes up the input; or, for
    tagging, a list of words. Unlabelled rows of a tagging task have label 0 on the first sub-token of each word, -100
    elsewhere: where predictions are to be read off.
    """
    columns = columns_of(task)

    def read(index: int) -> dict[str, Any]:
        text = texts[index]
        if isinstance(text, Mapping):
            return dict(text)
        if len(columns) != 1:
            raise UserError(
                f"Text {index} is one string, but the task reads {listed(columns)}; name these in each row."
            )
        return {columns[0]: text}

    rows = Rows("the texts", "", len(texts), read, lambda index: f"text {index}")
    about = {"names": list(getattr(task, "labels", None) or ()), "vocabulary": asdict(vocabulary_of(tokenizer))}
    return _examples(task, _arrays(task, tokenizer, rows, None), about)


def _arrays(task: Task, tokenizer: Any, rows: Rows, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    nothing = np.zeros(0, np.int32)
    if isinstance(task, ConditionalGeneration) and task.format is not None:
        encoded = encode_format(task, tokenizer, rows, labelled=names is not None)
    elif isinstance(task, CausalLanguage | ConditionalGeneration):
        encoded = encode_causal(task, tokenizer, rows, labelled=names is not None)
    elif names is None or isinstance(task, MaskedLanguage):
        encoded = encode(task, tokenizer, rows, None)
    else:
        encoded = encode(task, tokenizer, rows, label_finder(task, rows, names))
    chunks = [Encoded(nothing, nothing, None), *encoded]
    lengths = np.concatenate([chunk.lengths for chunk in chunks])
    arrays = {
        "ids": np.concatenate([chunk.ids for chunk in chunks]).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    }
    types = [chunk.token_type_ids for chunk in chunks if chunk.token_type_ids is not None]
    if types:
        arrays["token_type_ids"] = np.concatenate(types).astype(np.int32)
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    if labels:
        arrays["labels"] = np.concatenate(labels).astype(np.int32)
        if getattr(task, "packed", False):
            arrays = packed(arrays, task.max_length)
    return arrays


def _examples(task: Task, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Examples:
    vocabulary = {**about["vocabulary"], "special_ids": tuple(about["vocabulary"]["special_ids"])}
    return Examples(
        ids=arrays["ids"],
        offsets=arrays["offsets"],
        labels=arrays.get("labels"),
        names=tuple(about["names"]),
        vocabulary=Vocabulary(**vocabulary),
        max_length=task.max_length,
        per_token=isinstance(task, Tagging | CausalLanguage | ConditionalGeneration),
        mask_rate=task.mask_rate if isinstance(task, MaskedLanguage) else None,
        segment_ids=arrays.get("segment_ids"),
        token_type_ids=arrays.get("token_type_ids"),
    )


def _needs_training_rows(task: Task, rows: Rows) -> bool:
    if isinstance(task, Unlabelled) or task.labels is not None:
        return False
    return (task.tags if isinstance(task, Tagging) else task.label) not in rows.class_names


def _key(task: Task, tokenizer: Any, *identities: str) -> str:
    import tokenizers

    fields = {name: value for name, value in asdict(task).items() if name not in NOT_STORED}
    about_tokenizer = [serialised(tokenizer), asdict(vocabulary_of(tokenizer)), tokenizers.__version__]
    about_tokenizer.append("token_type_ids" in tokenizer.model_input_names)
    if isinstance(task, CausalLanguage | ConditionalGeneration):
        about_tokenizer += [tokenizer.bos_token_id, tokenizer.eos_token_id]
    kinds = [type(task).__name__, type(getattr(task, "format", None)).__name__]
    everything = [FORMAT, kinds, fields, about_tokenizer, identities]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def _one_token_each(words: Sequence[str], tokenizer: Any) -> tuple[int, ...]:
    ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    broken = [word for word, found in zip(words, ids, strict=True) if len(found) != 1]
    if broken:
        raise UserError(f"The tokenizer breaks {listed(broken)}; focus takes words that are one token each.")
    return tuple(found[0] for found in ids)


def _refuse_one_class(examples: Examples, rows: Rows) -> None:
    assert examples.labels is not None  # the training rows of a labelled task
    seen = np.unique(examples.labels)
    seen = seen[seen >= 0]
    if len(seen) < 2:
        only = examples.names[seen[0]] if len(seen) else "none"
        raise UserError(
            f"All rows of the training split {rows.name} have one label ({only}); give rows of two classes or more."
        )
