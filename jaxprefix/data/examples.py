"""Tokenised examples: flat arrays with two levels of offsets, as they lie in memory or memory-mapped on disk.

An example is what a batch has one row of: one sequence of tokens, or several (`[B, C, T]`). A row of the data is one
example or more (windows of a long text); examples of one question or passage may share a group.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32, Int64

IGNORED = -100
"""The label of a token that has none."""

Per = Literal["row", "sequence", "token"]


@dataclass(frozen=True)
class Vocabulary:
    """What batches must know of a tokenizer."""

    size: int
    """How many token ids there are."""
    padding_id: int
    special_ids: tuple[int, ...]
    """Ids that are never masked and never put in a masked token's place."""
    mask_id: int | None


@dataclass(frozen=True)
class TargetSpec:
    """What a target is: an array with one entry, of any shape, for each example, sequence or token."""

    per: Per
    dtype: Any = np.int32
    shape: tuple[int, ...] = ()
    """Of one entry."""
    fill: float = IGNORED
    """What pads sequences and tokens."""


@dataclass(frozen=True)
class Target:
    """The values of a target, `[examples, ...]`, `[sequences, ...]` or `[tokens, ...]`."""

    values: np.ndarray
    spec: TargetSpec

    def count(self) -> int:
        """How many entries are others than what pads them."""
        fill = self.spec.fill
        padding = np.isnan(self.values) if np.isnan(fill) else self.values == fill
        return int((~padding).any(axis=tuple(range(1, padding.ndim))).sum())


@dataclass(frozen=True)
class Examples:
    """The examples of a split. Sequence `s` holds the tokens `offsets[s]` to `offsets[s + 1]`, and example `i` the
    sequences `sequences[i]` to `sequences[i + 1]`, or sequence `i` where `sequences` is None."""

    ids: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " sequences_plus_1"]
    vocabulary: Vocabulary
    max_length: int
    """What the task allows; no sequence is longer."""
    targets: Mapping[str, Target] = field(default_factory=dict)
    """By the names that batches give them; none of unlabelled examples, but for marks of where answers are read off."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the task knows of its training rows (`Task.fit`): the labels' names under `labels`, for one."""
    sequences: Int64[np.ndarray, " examples_plus_1"] | None = None
    rows: Int64[np.ndarray, " examples"] | None = None
    """The number of the row that each example was made of; None where each row is one."""
    groups: Int64[np.ndarray, " examples"] | None = None
    """The group that each example belongs to; None where a task has none."""
    finish: Callable[..., dict[str, np.ndarray]] | None = None
    """What is done to every batch: `(batch, examples' numbers, seed, step) -> batch` (masking, for one)."""
    segment_ids: Int32[np.ndarray, " tokens"] | None = None
    """Where sequences hold several texts: the number of each token's text in its sequence, from 1."""
    token_type_ids: Int32[np.ndarray, " tokens"] | None = None
    """Token types, where tokenizer or format gives them: rows of an encoder's own table, ids of GPT-2's vocabulary."""
    cut: tuple[int, int] = (0, 0)
    """How many rows were longer than the task allows and were cut, and how many words with a label went with that."""

    def __len__(self) -> int:
        return (len(self.offsets) if self.sequences is None else len(self.sequences)) - 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names in the order of the logits, where the task has labels."""
        return tuple(self.facts.get("labels", ()))

    @property
    def row_numbers(self) -> Int64[np.ndarray, " examples"]:
        """The number of the row that each example was made of."""
        return np.arange(len(self)) if self.rows is None else self.rows

    @property
    def choices(self) -> int | None:
        """C, the most sequences of an example; None where every example is one sequence."""
        return None if self.sequences is None else int(np.diff(self.sequences).max(initial=1))

    @property
    def lengths(self) -> Int64[np.ndarray, " examples"]:
        """Tokens of each example's longest sequence, special tokens included."""
        lengths = np.diff(self.offsets)
        if self.sequences is None:
            return lengths
        return np.maximum.reduceat(lengths, self.sequences[:-1]) if len(self) else lengths[:0]

    @property
    def token_counts(self) -> Int64[np.ndarray, " examples"]:
        """Tokens of each example, those of all its sequences."""
        return np.diff(self.offsets if self.sequences is None else self.offsets[self.sequences])

    def row(self, index: int) -> dict[str, Any]:
        """An example of one sequence: `ids`, its targets and, where there are any, `segment_ids` and
        `token_type_ids`."""
        tokens = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        row: dict[str, Any] = {"ids": self.ids[tokens]}
        for name, target in self.targets.items():
            row[name] = target.values[tokens if target.spec.per == "token" else index]
        for name, values in (("segment_ids", self.segment_ids), ("token_type_ids", self.token_type_ids)):
            if values is not None:
                row[name] = values[tokens]
        return row


def joined(parts: Sequence[Examples]) -> Examples:
    """The examples of several tasks of one tokenizer, one part after another, with the targets that all have and
    without facts, rows and groups; all parts have one sequence an example, or none has."""
    first = parts[0]
    types = [part.token_type_ids for part in parts if part.token_type_ids is not None]
    names = [name for name in first.targets if all(name in part.targets for part in parts)]
    return Examples(
        ids=np.concatenate([part.ids for part in parts]),
        offsets=_chained([np.diff(part.offsets) for part in parts]),
        vocabulary=first.vocabulary,
        max_length=max(part.max_length for part in parts),
        targets={
            name: Target(np.concatenate([part.targets[name].values for part in parts]), first.targets[name].spec)
            for name in names
        },
        sequences=None
        if first.sequences is None
        else _chained([np.diff(part.sequences) for part in parts if part.sequences is not None]),
        token_type_ids=np.concatenate(types) if types else None,
    )


def _chained(lengths: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
