"""Rows to examples: tokenised once, then memory-mapped from the cache."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.data.examples import Examples, Target, Vocabulary
from jaxprefix.data.packing import packed
from jaxprefix.data.rows import Rows
from jaxprefix.data.store import Store
from jaxprefix.errors import UserError
from jaxprefix.paths import cache_folder
from jaxprefix.tasks.base import Facts, Task, check_columns
from jaxprefix.tasks.texts import rows_to_answer
from jaxprefix.tasks.tokenizing import serialised, vocabulary_of
from jaxprefix.typed_json import to_json

log = logging.getLogger("jaxprefix")

FORMAT = 4  # of what is stored; raise it when the same key would give other arrays
TARGET = "target."  # before the names of targets among the stored arrays


def prepare(
    task: Task, tokenizer: Any, split: str = "train", facts: Facts | None = None, folder: Path | None = None
) -> Examples:
    """The tokenised rows of a split, from the cache if the same data met the same tokenizer and task before.

    Args:
      task: which data, which columns, which limits.
      tokenizer: a fast Hugging Face tokenizer.
      split: `train`, `validation` or `test`.
      facts: what the task knows of its training rows, where something trained fixes it already.
      folder: where prepared rows are kept; by default `tokens` in the cache folder.

    Returns:
      Examples over memory-mapped arrays.

    Raises:
      UserError: bad data, task or tokenizer, named by file and line or row; or a cache folder that cannot be written.
    """
    check_columns(task)
    task.check_tokenizer(tokenizer)
    rows = task.open_rows(split)
    naming = rows  # whose rows are learned from if nothing says what is learned
    if facts is None and split != "train" and task.learns_from_rows(rows):
        naming = task.open_rows("train")
    if task.cache_version is None:
        facts = task.fit(naming) if facts is None else facts
        examples = _examples(task, facts, *_arrays(task, tokenizer, rows, facts), vocabulary_of(tokenizer))
    else:
        key = _key(task, tokenizer, facts, rows.identity, naming.identity)
        store = Store(folder or cache_folder() / "tokens")
        stored = store.read(key)
        if stored is None:
            facts = task.fit(naming) if facts is None else facts
            arrays, cut = _arrays(task, tokenizer, rows, facts)
            about = {"facts": facts, "vocabulary": asdict(vocabulary_of(tokenizer)), "cut": cut}
            store.write(key, arrays, about)
            stored = store.read(key) or (arrays, about)
        arrays, about = stored
        special = tuple(about["vocabulary"]["special_ids"])
        vocabulary = Vocabulary(**{**about["vocabulary"], "special_ids": special})
        examples = _examples(task, about["facts"], arrays, about["cut"], vocabulary)
    examples = replace(examples, finish=task.finish(examples, tokenizer))
    if examples.cut[0]:
        words = f", and {examples.cut[1]} words with a label went with that" if examples.cut[1] else ""
        log.warning(
            "%s: %d of %d rows are longer than the task allows and were cut%s",
            *(rows.name, examples.cut[0], len(rows), words),
        )
    if split == "train":
        task.check_training_rows(examples, rows.name)
    return examples


def encode_texts(
    task: Task, tokenizer: Any, texts: Sequence[str | Sequence[str] | Mapping[str, Any]], facts: Facts | None = None
) -> Examples:
    """Unlabelled rows for prediction, kept in memory.

    Args:
      task: which columns, which limits.
      tokenizer: a fast Hugging Face tokenizer.
      texts: each is a mapping from the task's columns to values; or a string, where one column makes up the input; or,
        for tagging, a list of words.
      facts: what answers need of the training rows.
    """
    rows = rows_to_answer(task.columns, texts)
    return _examples(task, facts or {}, *_arrays(task, tokenizer, rows, None), vocabulary_of(tokenizer))


def _arrays(task: Task, tokenizer: Any, rows: Rows, facts: Facts | None) -> tuple[dict[str, np.ndarray], list[int]]:
    """The arrays that are stored, and how many rows and labelled words were cut."""
    chunks = [*task.encode(tokenizer, rows, facts)]
    lengths = _joined((chunk.lengths for chunk in chunks), np.int64)
    arrays = {"ids": _joined((chunk.ids for chunk in chunks), np.int32), "offsets": _offsets(lengths)}
    for name in ("token_type_ids", "counts", "rows", "groups"):
        parts = [part for chunk in chunks if (part := getattr(chunk, name)) is not None]
        if parts:
            arrays[name] = _joined(parts, np.int32 if name == "token_type_ids" else np.int64)
    if "counts" in arrays:
        counts = arrays.pop("counts")
        if counts.min(initial=1) < 1:
            empty = int(arrays["rows"][np.argmin(counts)]) if "rows" in arrays else int(np.argmin(counts))
            raise UserError(f"{rows.locate(empty)} asks about no sequence; give it at least one, or remove the row.")
        arrays["sequences"] = _offsets(counts)
    for name, spec in task.targets(task.count(facts)).items():
        parts = [chunk.targets[name] for chunk in chunks if name in chunk.targets]
        if parts:
            arrays[TARGET + name] = _joined(parts, spec.dtype, spec.shape)
    cut = [sum(chunk.cut[place] for chunk in chunks) for place in (0, 1)]
    return (packed(arrays, task.max_length) if task.packed and facts is not None else arrays), cut


def _joined(parts: Iterable[np.ndarray], dtype: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *parts], dtype=dtype, casting="unsafe")


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _examples(
    task: Task, facts: Facts, arrays: Mapping[str, np.ndarray], cut: Sequence[int], vocabulary: Vocabulary
) -> Examples:
    specs = task.targets(task.count(facts or None))
    return Examples(
        ids=arrays["ids"],
        offsets=arrays["offsets"],
        vocabulary=vocabulary,
        max_length=task.max_length,
        targets={name: Target(arrays[TARGET + name], spec) for name, spec in specs.items() if TARGET + name in arrays},
        facts=facts,
        sequences=arrays.get("sequences"),
        rows=arrays.get("rows"),
        groups=arrays.get("groups"),
        segment_ids=arrays.get("segment_ids"),
        token_type_ids=arrays.get("token_type_ids"),
        cut=(cut[0], cut[1]),
    )


def _key(task: Task, tokenizer: Any, facts: Facts | None, *identities: str) -> str:
    import tokenizers

    about_tokenizer = [serialised(tokenizer), asdict(vocabulary_of(tokenizer)), tokenizers.__version__]
    about_tokenizer += ["token_type_ids" in tokenizer.model_input_names]
    about_tokenizer += [tokenizer.bos_token_id, tokenizer.eos_token_id]
    everything = [FORMAT, *described_task(task), about_tokenizer, facts, identities]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def described_task(task: Task) -> tuple[list[Any], Any]:
    """As JSON, a task's kind and version, and those of its fields that change what rows become."""
    names = [field.name for field in fields(task) if field.name not in task.not_cached]  # pyright: ignore[reportArgumentType]  # a dataclass
    kind = [type(task).__module__, type(task).__qualname__, task.cache_version]
    return kind, json.loads(to_json({name: getattr(task, name) for name in names}))
