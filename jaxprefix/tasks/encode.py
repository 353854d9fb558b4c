"""Rows to token ids: templates, pairs, words and their tags, one chunk of rows at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from string import Formatter
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

from jaxprefix.data.examples import IGNORED, Vocabulary
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError
from jaxprefix.tasks.kinds import (
    CausalLanguage,
    Classification,
    ConditionalGeneration,
    MaskedLanguage,
    Tagging,
    Task,
    Unlabelled,
)

CHUNK = 1000  # rows: enough for the tokenizer's threads, little enough to hold

LabelOf = Callable[[Any, int, str], int]
"""Raw value, row, column -> index."""


class Encoded(NamedTuple):
    """A chunk of rows."""

    ids: Int32[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " rows"]
    labels: Int32[np.ndarray, " rows_or_tokens"] | None
    token_type_ids: Int32[np.ndarray, " tokens"] | None = None


def encode(task: Task, tokenizer: Any, rows: Rows, label_of: LabelOf | None) -> Iterator[Encoded]:
    """Tokenises all rows; `label_of` None means that they carry no labels.

    Raises `UserError` for a missing column, a label that `label_of` refuses, words and tags of different number, or,
    with truncation off, a row longer than `max_length`.
    """
    backend = own_backend(task, tokenizer)
    typed = "token_type_ids" in tokenizer.model_input_names
    numbered = iter(enumerate(rows))
    while chunk := list(islice(numbered, CHUNK)):
        if isinstance(task, Tagging):
            inputs: list = [_words(rows, row, index, task.words) for index, row in chunk]
        else:
            inputs = [_texts(task, rows, row, index) for index, row in chunk]
        encodings = backend.encode_batch(inputs, is_pretokenized=isinstance(task, Tagging))
        lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)
        if lengths.max() > task.max_length:
            longest = int(np.argmax(lengths))
            raise UserError(
                f"{rows.locate(chunk[longest][0])} is {lengths[longest]} tokens long and max_length is "
                f"{task.max_length}; raise max_length or set truncation to True."
            )
        labels = None
        if isinstance(task, Tagging):
            tags = _tags(task, rows, chunk, inputs, label_of)
            labels = align(tags, [len(words) for words in inputs], [encoding.word_ids for encoding in encodings])
        elif isinstance(task, Classification) and label_of is not None:
            raw = ((index, rows.value(row, index, task.label)) for index, row in chunk)
            labels = np.array([label_of(value, index, task.label) for index, value in raw], np.int32)
        yield Encoded(
            ids=_flat(encoding.ids for encoding in encodings),
            lengths=lengths,
            labels=labels,
            token_type_ids=_flat(encoding.type_ids for encoding in encodings) if typed else None,
        )


def own_backend(task: Task, tokenizer: Any) -> Any:
    """A copy of the tokenizer's fast half with the task's truncation, so that the person's tokenizer stays as it is."""
    from tokenizers import Tokenizer

    description = json.loads(serialised(tokenizer))
    if isinstance(task, Tagging):
        # Byte-level vocabularies tell words from continuations by the space before them, which splitting took away.
        _set_everywhere(description["pre_tokenizer"], "add_prefix_space", True)
    backend = Tokenizer.from_str(json.dumps(description))
    room = task.max_length - backend.num_special_tokens_to_add(
        is_pair=not isinstance(task, Tagging) and len(_sides(task)) > 1
    )
    if room < 1:
        raise UserError(f"With max_length {task.max_length} there is no room for a text; raise it.")
    if task.truncation:
        backend.enable_truncation(task.max_length, strategy="longest_first")
    return backend


def serialised(tokenizer: Any) -> str:
    """The tokenizer as JSON, without the truncation and padding that its last use left behind."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(f"{type(tokenizer).__name__} is a tokenizer in Python; use a fast one (a tokenizer.json file).")
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    description["truncation"] = description["padding"] = None
    return json.dumps(description, sort_keys=True)


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """What the batches need of a Hugging Face tokenizer."""
    return Vocabulary(
        size=len(tokenizer),
        padding_id=tokenizer.pad_token_id or 0,
        special_ids=tuple(sorted(set(tokenizer.all_special_ids))),
        mask_id=tokenizer.mask_token_id,
    )


def columns_of(task: Task) -> tuple[str, ...]:
    """The columns that make up the input, without the label."""
    if isinstance(task, Tagging):
        return (task.words,)
    if isinstance(task, ConditionalGeneration) and task.format is not None:
        return task.format.columns
    columns = [template_fields(template) if template else (column,) for template, column in _sides(task)]
    return tuple(dict.fromkeys(chain.from_iterable(columns)))


def template_fields(template: str) -> tuple[str, ...]:
    """The columns that a template names, in order. `UserError` if it is malformed."""
    try:
        fields = [
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        raise UserError(f"The template {template!r} is malformed ({error}); write columns as {{name}}.") from None
    if any(not name or spec or conversion for name, spec, conversion in fields):
        raise UserError(f"The template {template!r} must name columns as {{name}}, with nothing else in the braces.")
    return tuple(name for name, _, _ in fields)


def align(
    tags: Int32[np.ndarray, " words"], counts: Sequence[int], word_ids: Sequence[Sequence[int | None]]
) -> Int32[np.ndarray, " tokens"]:
    """One label per token: the word's tag on its first sub-token, -100 on the others and on special tokens.

    `tags` holds all rows' tags one after the other, `counts` the number of words of each row, `word_ids` each row's
    word index per token, None for special tokens.
    """
    words = _flat([-1 if word is None else word for word in row] for row in word_ids)
    tokens = np.array([len(row) for row in word_ids], np.int64)
    first = first_of_words(words, tokens)
    starts = np.repeat(np.cumsum([0, *counts])[:-1], tokens)
    labels = np.full(len(words), IGNORED, np.int32)
    labels[first] = tags[(starts + words)[first]]
    return labels


def first_of_words(
    words: Int32[np.ndarray, " tokens"], lengths: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " tokens"]:
    """Where a word begins; `words` is -1 on special tokens."""
    before = np.concatenate([[-1], words[:-1]]) if len(words) else words
    starts = np.cumsum(lengths) - lengths
    before[starts[lengths > 0]] = -1
    return (words >= 0) & (words != before)


def _sides(task: Unlabelled | Classification) -> list[tuple[str | None, str]]:
    """Template, or else column, of the text or of the two texts of a pair."""
    if isinstance(task, ConditionalGeneration):
        return [(task.template, task.prompt)]
    if isinstance(task, CausalLanguage):
        return [(None, task.text)]
    if isinstance(task, MaskedLanguage):
        columns = [task.text] if task.text_pair is None else [task.text, task.text_pair]
        return [(None, column) for column in columns]
    pair = task.template_pair is not None or task.text_pair is not None
    return [(task.template, task.text)] + ([(task.template_pair, task.text_pair or "")] if pair else [])


def _texts(task: Unlabelled | Classification, rows: Rows, row: Mapping[str, Any], index: int) -> str | tuple[str, ...]:
    values = {column: str(rows.value(row, index, column)) for column in columns_of(task)}
    texts = tuple(template.format_map(values) if template else values[column] for template, column in _sides(task))
    single = len(texts) == 1 or (isinstance(task, MaskedLanguage) and not texts[1])
    return texts[0] if single else texts


def _words(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> list[str]:
    value = rows.value(row, index, column)
    return value.split() if isinstance(value, str) else [str(word) for word in _listed(rows, value, index, column)]


def _listed(rows: Rows, value: Any, index: int, column: str) -> list:
    if not isinstance(value, list | tuple):
        raise UserError(
            f"{rows.locate(index)} has {value!r} in column {column!r}; give a list, or one string separated by spaces."
        )
    return list(value)


def _tags(
    task: Tagging, rows: Rows, chunk: list[tuple[int, dict]], words: list[list[str]], label_of: LabelOf | None
) -> Int32[np.ndarray, " words"]:
    if label_of is None:
        return np.zeros(sum(map(len, words)), np.int32)
    tags: list[int] = []
    for (index, row), row_words in zip(chunk, words, strict=True):
        row_tags = tag_values(task, rows, row, index)
        if len(row_tags) != len(row_words):
            raise UserError(
                f"{rows.locate(index)} has {len(row_words)} words in {task.words!r} and {len(row_tags)} tags in "
                f"{task.tags!r}; give each word one tag."
            )
        tags.extend(label_of(tag, index, task.tags) for tag in row_tags)
    return np.array(tags, np.int32)


def tag_values(task: Tagging, rows: Rows, row: Mapping[str, Any], index: int) -> list:
    """The raw tags of a row."""
    value = rows.value(row, index, task.tags)
    return value.split() if isinstance(value, str) else _listed(rows, value, index, task.tags)


def _set_everywhere(node: Any, key: str, value: Any) -> None:
    if isinstance(node, dict):
        if key in node:
            node[key] = value
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _set_everywhere(child, key, value)


def _flat(lists: Iterable[Sequence[int]]) -> Int32[np.ndarray, " total"]:
    return np.fromiter(chain.from_iterable(lists), np.int32)
