"""Rows to token ids for decoders: what is predicted, and where the loss counts."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from jaxprefix.data.examples import IGNORED
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError
from jaxprefix.tasks.encode import CHUNK, Encoded, columns_of, serialised
from jaxprefix.tasks.kinds import CausalLanguage, ConditionalGeneration


def encode_causal(
    task: CausalLanguage | ConditionalGeneration, tokenizer: Any, rows: Rows, labelled: bool = True
) -> Iterator[Encoded]:
    """Tokenises all rows; labels are the next tokens, -100 where they do not count.

    With `labelled=False` there are no labels, and of a `ConditionalGeneration` the prompts alone.

    Raises `UserError` for a missing column, an empty target, a tokenizer without an end token, or, with truncation
    off, a row that is too long.
    """
    from tokenizers import Tokenizer

    if tokenizer.eos_token_id is None:
        raise UserError("The tokenizer has no end token (eos_token); set one, which texts then end with.")
    backend = Tokenizer.from_str(serialised(tokenizer))
    numbered = iter(enumerate(rows))
    while chunk := list(islice(numbered, CHUNK)):
        if isinstance(task, CausalLanguage):
            encoded = _texts(task, backend, tokenizer.eos_token_id, rows, chunk, labelled)
        else:
            encoded = _pairs(task, backend, tokenizer.eos_token_id, rows, chunk, labelled)
        ids, labels = zip(*encoded, strict=True)
        flat = np.concatenate([np.array(row, np.int32) for row in ids])
        yield Encoded(
            ids=flat,
            lengths=np.array([len(row) for row in ids], np.int64),
            labels=np.concatenate([np.array(row, np.int32) for row in labels]) if labelled else None,
        )


def prompt_text(task: ConditionalGeneration, rows: Rows, row: Mapping[str, Any], index: int) -> str:
    """The prompt of a row, its separator included."""
    values = {column: str(rows.value(row, index, column)) for column in columns_of(task)}
    return (task.template.format_map(values) if task.template else values[task.prompt]) + task.separator


def _texts(task: CausalLanguage, backend: Any, end: int, rows: Rows, chunk: list, labelled: bool) -> list:
    texts = [str(rows.value(row, index, task.text)) for index, row in chunk]
    encoded = []
    for (index, _), found in zip(chunk, backend.encode_batch(texts), strict=True):
        ids = _without_end(found.ids, end)
        ids = _cut(ids, task.max_length - labelled, task.truncation, rows, index, "tokens", "max_length")
        ids = [*ids, end] if labelled else ids
        encoded.append((ids, [*ids[1:], IGNORED]))
    return encoded


def _pairs(task: ConditionalGeneration, backend: Any, end: int, rows: Rows, chunk: list, labelled: bool) -> list:
    prompts = [prompt_text(task, rows, row, index) for index, row in chunk]
    encoded = []
    targets: list = [None] * len(chunk)
    if labelled:
        texts = [str(rows.value(row, index, task.target)) for index, row in chunk]
        empty = next((index for (index, _), text in zip(chunk, texts, strict=True) if not text.strip()), None)
        if empty is not None:
            raise UserError(f"{rows.locate(empty)} has an empty {task.target!r}; fill it in or remove the row.")
        targets = backend.encode_batch(texts, add_special_tokens=False)
    for (index, _), prompt, target in zip(chunk, backend.encode_batch(prompts), targets, strict=True):
        where = rows, index, "tokens of prompt", "max_prompt_length"
        ids = _cut(_without_end(prompt.ids, end), task.max_prompt_length, task.truncation, *where)
        if target is None:
            encoded.append((ids, ids))
            continue
        where = rows, index, "tokens of target", "max_target_length"
        new = [*_cut(target.ids, task.max_target_length - 1, task.truncation, *where), end]
        # behind an empty prompt the first token of the target has nothing to be predicted from
        encoded.append(([*ids, *new], [*[IGNORED] * (len(ids) - 1), *(new if ids else new[1:]), IGNORED]))
    return encoded


def _without_end(ids: list[int], end: int) -> list[int]:
    """Without the end that some tokenizers put behind every text."""
    return ids[:-1] if ids and ids[-1] == end else ids


def _cut(ids: list[int], room: int, truncation: bool, rows: Rows, index: int, what: str, field: str) -> list[int]:
    if len(ids) > room and not truncation:
        raise UserError(
            f"{rows.locate(index)} has {len(ids)} {what} and there is room for {room}; raise {field} or set truncation "
            "to True."
        )
    return list(ids[: max(room, 0)])
