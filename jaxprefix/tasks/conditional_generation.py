"""A text to be written for a prompt."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from typing_extensions import override

from jaxprefix.data.examples import IGNORED, Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.models.heads import CausalLM
from jaxprefix.tasks.base import Facts, Metric, RowReader, Task, register_task
from jaxprefix.tasks.causal_language import (
    cut,
    end_of,
    plain_backend,
    report_next_tokens,
    with_next_tokens,
    with_whole_offsets,
    without_end,
)
from jaxprefix.tasks.cells import read_text
from jaxprefix.tasks.formats.encoding import encode_format
from jaxprefix.tasks.formats.format import Format
from jaxprefix.tasks.formats.rows import open_published
from jaxprefix.tasks.formats.tokens import with_tokens
from jaxprefix.tasks.metrics import LANGUAGE
from jaxprefix.tasks.text_metrics import text_metrics
from jaxprefix.tasks.texts import columns_of, text_of
from jaxprefix.tasks.tokenizing import Encoded, chunks
from jaxprefix.values import Count

log = logging.getLogger("jaxprefix")


@register_task
@dataclasses.dataclass(frozen=True)
class ConditionalGeneration(Task):
    """A text to be written for a prompt; the loss is that of the text and its end alone."""

    source: Source
    """Where the rows come from. Rows of one prompt are one case in evaluation, with all their texts as references."""
    prompt: str = "prompt"
    """Column of the prompt; not read where `template` is given."""
    target: str = "target"
    """Column of the text to be written."""
    template: str | None = None
    """Makes the prompt out of columns: `{question} {passage}`."""
    separator: str = "\n"
    """What stands between prompt and target."""
    format: Format | None = None
    """A published format (`jp.WebNLG()`), which makes prompts and targets out of the columns that it names, with its
    own cuts; the four fields above, `truncation` and `truncation_side` are not read then, and what is longer still is
    an error."""
    max_prompt_length: Count = 128
    """Longest prompt in tokens, the separator included."""
    max_target_length: Count = 128
    """Longest target in tokens, its end included."""
    truncation: bool = True
    """Whether longer prompts and targets are cut, each by itself; if not, they are an error."""
    truncation_side: Literal["right", "left"] = "right"
    """Which end of a prompt that is too long is cut; special tokens before it, and the separator, stay."""
    packed: bool = False
    """Whether a row of up to `max_prompt_length + max_target_length` tokens holds several prompts with their targets,
    as in `CausalLanguage`."""
    metric: Literal["perplexity", "accuracy"] = "perplexity"
    """The metric that chooses the best checkpoint."""

    question: ClassVar[str] = "generation"
    stack: ClassVar[Literal["encoder", "decoder"] | None] = "decoder"
    cache_version: ClassVar[int | None] = 1

    @property
    def max_length(self) -> int:
        """Longest row in tokens, which a packed one is filled up to."""
        return self.max_prompt_length + self.max_target_length

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return columns_of([(self.template, self.prompt)]) if self.format is None else self.format.columns

    @property
    @override
    def target_columns(self) -> tuple[str, ...]:
        return (self.target,) if self.format is None else ()

    @override
    def open_rows(self, split: str) -> Rows:
        found = None if self.format is None else open_published(self.format, self.source, split)
        return super().open_rows(split) if found is None else found

    @override
    def encode(self, tokenizer: Any, rows: Rows, facts: Facts | None) -> Iterator[Encoded]:
        """Labels are the target's tokens and its end; without facts there are the prompts alone."""
        if self.format is not None:
            limits = self.max_prompt_length, self.max_target_length
            yield from encode_format(self.format, limits, tokenizer, rows, facts is not None)
            return
        backend, end = plain_backend(tokenizer), end_of(tokenizer)
        placing = with_whole_offsets(tokenizer)
        for chunk in chunks(rows):
            prompts = [self.prompt_text(rows, row, index) for index, row in chunk]
            targets: list = [None] * len(chunk)
            if facts is not None:
                texts = [read_text(rows, row, index, self.target) for index, row in chunk]
                empty = next((index for (index, _), text in zip(chunk, texts, strict=True) if not text.strip()), None)
                if empty is not None:
                    raise UserError(f"{rows.locate(empty)} has an empty {self.target!r}; fill it in or remove the row.")
                targets = backend.encode_batch(texts, add_special_tokens=False)
            made, cuts = [], 0
            encodings = placing.encode_batch(prompts)
            for (index, _), text, prompt, target in zip(chunk, prompts, encodings, targets, strict=True):
                ids, was_cut = self._cut_prompt(prompt, text, end, rows, index)
                if target is None:
                    cuts += was_cut
                    made.append((ids, ids))
                    continue
                where = rows, index, "tokens of target", "max_target_length"
                cuts += was_cut or len(target.ids) >= self.max_target_length
                new = [*cut(target.ids, self.max_target_length - 1, self.truncation, *where), end]
                # behind an empty prompt the first token of the target has nothing to be predicted from
                made.append(([*ids, *new], [*[IGNORED] * (len(ids) - 1), *(new if ids else new[1:]), IGNORED]))
            yield with_next_tokens(made, facts is not None, cuts)

    def _cut_prompt(self, prompt: Any, text: str, end: int, rows: Rows, index: int) -> tuple[list[int], bool]:
        """The tokens of a prompt, cut where there are too many, and whether they were."""
        ids, limit = without_end(prompt.ids, end), self.max_prompt_length
        if len(ids) <= limit or not self.truncation:
            return cut(ids, limit, self.truncation, rows, index, "tokens of prompt", "max_prompt_length"), False
        special = [*prompt.special_tokens_mask[: len(ids)], 0]
        first = special.index(0)
        ends_of_text = len(text) - len(self.separator)
        last = next((at for at in range(first, len(ids)) if prompt.offsets[at][1] > ends_of_text), len(ids))
        room = limit - first - (len(ids) - last)
        if room < 1:
            raise UserError(
                f"With max_prompt_length {limit} there is no room for the prompt of {rows.locate(index)} beside its "
                "separator; raise it."
            )
        kept = ids[first:last][:room] if self.truncation_side == "right" else ids[first:last][-room:]
        return [*ids[:first], *kept, *ids[last:]], True

    def prompt_text(self, rows: Rows, row: Mapping[str, Any], index: int) -> str:
        """The prompt of a row, its separator included."""
        return text_of(self.template, self.prompt, rows, row, index) + self.separator

    @override
    def input_reader(self, rows: Rows) -> RowReader:
        made = self.format
        if made is None:
            return super().input_reader(rows)
        return lambda row, index: {"prompt": [piece.text for piece in made.prompt(row, rows.locate(index))]}

    @override
    def report_targets(self, examples: Examples) -> dict[str, Any]:
        return report_next_tokens(examples)

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        return {"labels": TargetSpec("token")}

    @override
    def extend_tokenizer(self, tokenizer: Any, vocab: int) -> Any:
        return tokenizer if self.format is None else with_tokens(self.format, tokenizer, vocab)

    @property
    @override
    def added_tokens(self) -> tuple[str, ...]:
        return () if self.format is None else self.format.added_tokens

    @classmethod
    @override
    def default_head(cls) -> CausalLM:
        return CausalLM()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        return LANGUAGE

    @property
    @override
    def stops(self) -> tuple[str, ...]:
        return () if self.format is None else self.format.stops

    @override
    def measure_texts(self, split: str, write: Callable[[list[dict[str, Any]]], list[str]]) -> dict[str, float]:
        """BLEU, chrF and ROUGE; nothing where the packages that score texts are not installed, which the log tells."""
        try:
            text_metrics(["a"], [["a"]])
        except UserError as error:
            log.info("no BLEU, chrF and ROUGE: %s", error)
            return {}
        rows, references = self.cases(split)
        return text_metrics(write(rows), references)

    def cases(self, split: str) -> tuple[list[dict[str, Any]], list[list[str]]]:
        """The different prompts of a split, as rows, and for each all its targets."""
        rows, made = self.open_rows(split), self.format
        found: dict[tuple, tuple[dict, list]] = {}
        for index, row in enumerate(rows):
            if made is not None:
                _, targets = found.setdefault(tuple(made.prompt(row, rows.locate(index))), (dict(row), []))
                targets += made.references(row, rows.locate(index))
                continue
            columns = {name: rows.value(row, index, name) for name in self.columns}
            _, targets = found.setdefault(tuple(map(str, columns.values())), (columns, []))
            targets.append(read_text(rows, row, index, self.target))
        prompts, references = zip(*found.values(), strict=True)
        return list(prompts), list(references)
