"""Unlabelled text for a decoder: predict every next token, and the text's end."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from jaxprefix.data.examples import IGNORED, Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.models.heads import CausalLM
from jaxprefix.tasks.base import Facts, Metric, Task, register_task
from jaxprefix.tasks.cells import read_text
from jaxprefix.tasks.metrics import LANGUAGE
from jaxprefix.tasks.tokenizing import Encoded, chunks, serialised
from jaxprefix.tasks.word_marks import set_everywhere
from jaxprefix.values import Count


@register_task
@dataclasses.dataclass(frozen=True)
class CausalLanguage(Task):
    """Unlabelled text for a decoder: predict every next token, and the text's end."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text."""
    max_length: Count = 128
    """Longest text in tokens, its end included."""
    truncation: bool = True
    """Whether longer texts are cut; if not, they are an error."""
    packed: bool = False
    """Whether a row of up to `max_length` tokens holds several texts, which do not see each other: less padding, and
    fewer rows in an epoch. Texts go, in the order of the data, each into the first row that has room."""
    metric: Literal["perplexity", "accuracy"] = "perplexity"
    """The metric that chooses the best checkpoint."""

    question: ClassVar[str] = "causal_language"
    stack: ClassVar[Literal["encoder", "decoder"] | None] = "decoder"
    cache_version: ClassVar[int | None] = 1
    text_fields: ClassVar[tuple[str, ...]] = ("text",)

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return (self.text,)

    @override
    def encode(self, tokenizer: Any, rows: Rows, facts: Facts | None) -> Iterator[Encoded]:
        """Labels are the next tokens; without facts the end is left out, for a text to be gone on with."""
        backend, end = plain_backend(tokenizer), end_of(tokenizer)
        for chunk in chunks(rows):
            texts = [read_text(rows, row, index, self.text) for index, row in chunk]
            made, cuts = [], 0
            for (index, _), found in zip(chunk, backend.encode_batch(texts), strict=True):
                room = self.max_length - (facts is not None)
                ids = without_end(found.ids, end)
                cuts += len(ids) > room
                ids = cut(ids, room, self.truncation, rows, index, "tokens", "max_length")
                ids = ids if facts is None else [*ids, end]
                made.append((ids, [*ids[1:], IGNORED]))
            yield with_next_tokens(made, facts is not None, cuts)

    @override
    def report_targets(self, examples: Examples) -> dict[str, Any]:
        return report_next_tokens(examples)

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        return {"labels": TargetSpec("token")}

    @classmethod
    @override
    def default_head(cls) -> CausalLM:
        return CausalLM()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        return LANGUAGE


def report_next_tokens(examples: Examples) -> dict[str, int]:
    """How many tokens are to be predicted."""
    return {"tokens to predict": examples.targets["labels"].count()}


def end_of(tokenizer: Any) -> int:
    """The id of a tokenizer's end token; `UserError` where it has none."""
    if tokenizer.eos_token_id is None:
        raise UserError("The tokenizer has no end token (eos_token); set one, which texts then end with.")
    return tokenizer.eos_token_id


def plain_backend(tokenizer: Any) -> Any:
    """A copy of the tokenizer's fast half, which cuts nothing."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(serialised(tokenizer))


def with_whole_offsets(tokenizer: Any) -> Any:
    """The same, whose offsets of tokens count the white space in them."""
    from tokenizers import Tokenizer

    description = json.loads(serialised(tokenizer))
    for part in ("pre_tokenizer", "post_processor"):
        set_everywhere(description[part], "trim_offsets", False)
    return Tokenizer.from_str(json.dumps(description))


def with_next_tokens(made: Sequence[tuple[list[int], list[int]]], labelled: bool, cuts: int) -> Encoded:
    """A chunk of (ids, labels), `cuts` of which were cut."""
    ids, labels = zip(*made, strict=True)
    return Encoded(
        ids=np.concatenate([np.array(row, np.int32) for row in ids]),
        lengths=np.array([len(row) for row in ids], np.int64),
        targets={"labels": np.concatenate([np.array(row, np.int32) for row in labels])} if labelled else {},
        cut=(cuts, 0),
    )


def without_end(ids: list[int], end: int) -> list[int]:
    """Without the end that some tokenizers put behind every text."""
    return ids[:-1] if ids and ids[-1] == end else ids


def cut(ids: list[int], room: int, truncation: bool, rows: Rows, index: int, what: str, field: str) -> list[int]:
    """The first `room` tokens; refuses, as UserError, more of them where `truncation` is off."""
    if len(ids) > room and not truncation:
        raise UserError(
            f"{rows.locate(index)} has {len(ids)} {what} and there is room for {room}; raise {field} or set truncation "
            "to True."
        )
    return list(ids[: max(room, 0)])
