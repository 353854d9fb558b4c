"""One label for each word of a sentence."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jax import Array
from jaxtyping import Float, Int32
from typing_extensions import override

from jaxprefix.data.examples import IGNORED, Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.models.heads import LabelHead, Unit, cross_entropy, example_weights, label_targets, register_head
from jaxprefix.models.heads.base import label_outputs
from jaxprefix.tasks.base import Evaluated, Facts, Metric, RowReader, register_task
from jaxprefix.tasks.cells import read_tags, read_words
from jaxprefix.tasks.classification import refuse_one_class
from jaxprefix.tasks.labelled import LabelledTask, label_probabilities
from jaxprefix.tasks.metrics import ACCURACY, LOSS, counted, seqeval_f1
from jaxprefix.tasks.tag_schemes import Scheme, find_scheme
from jaxprefix.tasks.texts import rows_to_answer
from jaxprefix.tasks.tokenizing import Encoded, Tokenizing, chunks, first_of_words, flat
from jaxprefix.values import Count

log = logging.getLogger("jaxprefix")


@register_head
@dataclasses.dataclass(frozen=True)
class TokenClassifier(LabelHead):
    """One label for each token: dropout and a linear map of the last layer (P-Tuning v2, named entities)."""

    task: ClassVar[str] = "tagging"
    task_type: ClassVar[str | None] = "TOKEN_CLS"
    unit: ClassVar[Unit] = "token"

    @override
    def loss(
        self, logits: Float[Array, "B T C"], batch: Mapping[str, Any], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the labelled tokens; a token's weight is its row's."""
        labels = label_targets(batch, logits.shape[:-1])
        weight = example_weights(batch, len(logits))[:, None] * (labels != IGNORED)
        return cross_entropy(logits, labels, weight, self.class_weights, smoothing)

    @override
    def outputs(self, logits: Float[Array, "B T C"], batch: Mapping[str, Any]) -> dict[str, Array]:
        """`predictions` int32 and, with labels, `losses` `[B, T]`."""
        return label_outputs(logits, batch)

    @override
    def scores(self, logits: Float[Array, "B T C"]) -> dict[str, Array]:
        """`logits` `[B, T, C]`."""
        return {"logits": logits}


@register_task
@dataclasses.dataclass(frozen=True)
class Tagging(LabelledTask):
    """One label for each word of a sentence, for instance BIO tags of names."""

    source: Source
    """Where the rows come from."""
    words: str = "tokens"
    """Column of the words: a list, or one string that is split at spaces and tabs (a printed list is that list)."""
    tags: str = "tags"
    """Column of the tags, one for each word, in the same form."""
    labels: tuple[str, ...] | None = None
    """The tags in the order of the logits; by default the dataset's own, else the training rows' own, sorted."""
    max_length: Count = 128
    """Longest input in tokens, special tokens included."""
    truncation: bool = True
    """Whether longer sentences are cut; if not, they are an error. Words that were cut off are not scored."""
    metric: Literal["seqeval_f1", "accuracy"] = "seqeval_f1"
    """The metric that chooses the best checkpoint."""

    question: ClassVar[str] = "tagging"
    cache_version: ClassVar[int | None] = 1

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return (self.words,)

    @property
    @override
    def label_column(self) -> str:
        return self.tags

    @override
    def raw_labels(self, rows: Rows, row: Mapping[str, Any], index: int) -> list[Any]:
        return read_tags(rows, row, index, self.tags)

    @override
    def encode(self, tokenizer: Any, rows: Rows, facts: Facts | None) -> Iterator[Encoded]:
        """Unlabelled rows have the word's number on the first sub-token of each word: where answers are read off."""
        tokenizing = Tokenizing(tokenizer, self.max_length, self.truncation, words=True)
        find = None if facts is None else self.label_finder(rows, facts)
        for chunk in chunks(rows):
            words = [read_words(rows, row, index, self.words) for index, row in chunk]
            found = tokenizing(words, [rows.locate(index) for index, _ in chunk])
            tags: list[int] = []
            for (index, row), row_words in zip(chunk, words, strict=True):
                if find is None:
                    tags += range(len(row_words))
                    continue
                row_tags = self.raw_labels(rows, row, index)
                if len(row_tags) != len(row_words):
                    raise UserError(
                        f"{rows.locate(index)} has {len(row_words)} words in {self.words!r} and {len(row_tags)} tags "
                        f"in {self.tags!r}; give each word one tag."
                    )
                tags += [find(tag, index) for tag in row_tags]
            counts, word_ids = [len(row_words) for row_words in words], [encoding.word_ids for encoding in found]
            labels = align(np.array(tags, np.int32), counts, word_ids)
            yield tokenizing.encoded(found, {"labels": labels})

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        return {"labels": TargetSpec("token")}

    @classmethod
    @override
    def default_head(cls) -> TokenClassifier:
        return TokenClassifier()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        """`seqeval_f1` is that of whole entities, by the scheme of the tags; None where they have none."""
        return {"seqeval_f1": Metric(self._entities), "accuracy": ACCURACY, "loss": LOSS}

    def _entities(self, evaluated: Evaluated) -> float | None:
        scheme = find_scheme(evaluated.facts["labels"])
        if not isinstance(scheme, Scheme):
            if self.metric == "seqeval_f1":
                raise _no_scheme(scheme)
            return None
        where, names = counted(evaluated), [scheme.prefixed(tag) for tag in evaluated.facts["labels"]]
        return seqeval_f1(evaluated.targets["labels"], evaluated.outputs["predictions"], where, names)

    @override
    def answers(self, evaluated: Evaluated, inputs: Sequence[Any], scores: bool) -> list[dict[str, Any]]:
        """`{"words", "labels"}` for each row, with None for words that were cut off or have no token; with `scores`,
        each word's `{label: probability}` under `scores`."""
        names, found, rows = evaluated.facts["labels"], [], rows_to_answer(self.columns, inputs)
        for place, row in enumerate(rows):
            words = read_words(rows, row, place, self.words)
            numbers = evaluated.targets["labels"][place]
            first = np.flatnonzero(numbers != IGNORED)
            tags = [names[label] for label in evaluated.outputs["predictions"][place][first]]
            answer = {"words": words, "labels": _at_words(numbers[first], tags, len(words))}
            if scores:
                shares = label_probabilities(evaluated.outputs["logits"][place][first]).tolist()
                named = [dict(zip(names, word, strict=True)) for word in shares]
                answer["scores"] = _at_words(numbers[first], named, len(words))
            found.append(answer)
        return found

    @override
    def input_reader(self, rows: Rows) -> RowReader:
        return lambda row, index: {self.words: read_words(rows, row, index, self.words)}

    @override
    def report_targets(self, examples: Examples) -> dict[str, Any]:
        """The words with a label, each label's, and the scheme of the tags."""
        counts, scheme = super().report_targets(examples), find_scheme(examples.labels)
        named = str(scheme) if isinstance(scheme, Scheme) else "none, so no entities are counted"
        return {"words with a label": sum(counts["labels"].values()), "scheme of the tags": named, **counts}

    @override
    def check_training_rows(self, examples: Examples, name: str) -> None:
        refuse_one_class(examples, name)
        scheme = find_scheme(examples.labels)
        if isinstance(scheme, Scheme):
            log.info("tags of %s: %s", name, scheme)
        elif self.metric == "seqeval_f1":
            raise _no_scheme(f"of {name} {scheme}")
        else:
            log.info("no seqeval_f1 is measured: the tags of %s %s", name, scheme)


def _no_scheme(why: str) -> UserError:
    return UserError(f"The tags {why}, or set metric='accuracy'.")


def _at_words(numbers: Int32[np.ndarray, " some"], values: Sequence[Any], count: int) -> list[Any]:
    """The values at the places of the words that have one, None at the others."""
    placed = [None] * count
    for number, value in zip(numbers, values, strict=True):
        placed[number] = value
    return placed


def align(
    tags: Int32[np.ndarray, " words"], counts: Sequence[int], word_ids: Sequence[Sequence[int | None]]
) -> Int32[np.ndarray, " tokens"]:
    """One label per token: the word's tag on its first sub-token, -100 on the others and on special tokens.

    `tags` holds all rows' tags one after the other, `counts` the number of words of each row, `word_ids` each row's
    word index per token, None for special tokens.
    """
    words = flat([-1 if word is None else word for word in row] for row in word_ids)
    tokens = np.array([len(row) for row in word_ids], np.int64)
    first = first_of_words(words, tokens)
    starts = np.repeat(np.cumsum([0, *counts])[:-1], tokens)
    labels = np.full(len(words), IGNORED, np.int32)
    labels[first] = tags[(starts + words)[first]]
    return labels
