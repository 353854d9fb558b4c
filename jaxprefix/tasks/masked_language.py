"""Unlabelled text for an encoder: predict the tokens that were masked out."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from typing_extensions import override

from jaxprefix.data.examples import Examples, TargetSpec
from jaxprefix.data.masking import Masking
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError, listed
from jaxprefix.models.heads import MaskedLM
from jaxprefix.tasks.base import Facts, Metric, Task, register_task
from jaxprefix.tasks.metrics import LANGUAGE
from jaxprefix.tasks.texts import columns_of, sides, texts_of
from jaxprefix.tasks.tokenizing import Encoded, Tokenizing, chunks
from jaxprefix.values import Count, Fraction


@register_task
@dataclasses.dataclass(frozen=True)
class MaskedLanguage(Task):
    """Unlabelled text: predict the tokens that were masked out."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text, or of the first text of a pair."""
    text_pair: str | None = None
    """Column of the second text; rows where it is empty are single texts."""
    mask_rate: Fraction = 0.15
    """Share of the tokens that are to be predicted (of these 80 % are masked, 10 % replaced, 10 % kept)."""
    focus: tuple[str, ...] = ()
    """Words, each one token of the tokenizer, that are to be predicted at `focus_rate` instead: for what is rare in the
    text and needs much of it understood."""
    focus_rate: Fraction = 0.5
    """Share of the words of `focus` that are to be predicted."""
    max_length: Count = 128
    """Longest input in tokens, special tokens included."""
    truncation: bool = True
    """Whether longer texts are cut; if not, they are an error."""
    metric: Literal["accuracy", "perplexity"] = "accuracy"
    """The metric that chooses the best checkpoint."""

    question: ClassVar[str] = "masked_language"
    stack: ClassVar[Literal["encoder", "decoder"] | None] = "encoder"
    cache_version: ClassVar[int | None] = 1
    not_cached: ClassVar[tuple[str, ...]] = ("source", "metric", "mask_rate", "focus", "focus_rate")

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return columns_of(sides(self.text, self.text_pair))

    @override
    def encode(self, tokenizer: Any, rows: Rows, facts: Facts | None) -> Iterator[Encoded]:
        texts = sides(self.text, self.text_pair)
        tokenizing = Tokenizing(tokenizer, self.max_length, self.truncation, pairs=len(texts) > 1)
        for chunk in chunks(rows):
            found = [texts_of(texts, rows, row, index) for index, row in chunk]
            inputs = [text[0] if isinstance(text, tuple) and not text[1] else text for text in found]
            yield tokenizing.encoded(tokenizing(inputs, [rows.locate(index) for index, _ in chunk]))

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        """`labels`, which are made with each batch."""
        return {"labels": TargetSpec("token")}

    @override
    def finish(self, examples: Examples, tokenizer: Any) -> Masking:
        return Masking(examples.vocabulary, self.mask_rate, one_token_each(self.focus, tokenizer), self.focus_rate)

    @classmethod
    @override
    def default_head(cls) -> MaskedLM:
        return MaskedLM()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        return LANGUAGE

    @override
    def check_tokenizer(self, tokenizer: Any) -> None:
        if tokenizer.mask_token_id is None:
            raise UserError("The tokenizer has no mask token; masked language modelling needs one that has.")


def one_token_each(words: Sequence[str], tokenizer: Any) -> tuple[int, ...]:
    """The ids of words; refuses, as UserError, a word that is not one token."""
    ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    broken = [word for word, found in zip(words, ids, strict=True) if len(found) != 1]
    if broken:
        raise UserError(f"The tokenizer breaks {listed(broken)}; focus takes words that are one token each.")
    return tuple(found[0] for found in ids)
