"""Tokenised rows: flat arrays with offsets, as they lie in memory or memory-mapped on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

IGNORED = -100
"""The label of a token that has none."""


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
class Examples:
    """The rows of a split. Row `i` holds the tokens `offsets[i]` to `offsets[i + 1]`."""

    ids: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " rows_plus_1"]
    labels: Int32[np.ndarray, " rows_or_tokens"] | None
    """One for each row, or one for each token with -100 where there is none. None: unlabelled rows. Unlabelled rows of
    a tagging task have 0 on the first sub-token of each word."""
    names: tuple[str, ...]
    """The labels' names, in the order of the logits."""
    vocabulary: Vocabulary
    max_length: int
    """What the task allows; no row is longer."""
    per_token: bool = False
    """Whether `labels` has one entry for each token."""
    mask_rate: float | None = None
    """Set for masked language modelling, whose labels are made with each batch."""
    focus_ids: tuple[int, ...] = ()
    """Tokens that are masked at `focus_rate` instead."""
    focus_rate: float = 0.0
    segment_ids: Int32[np.ndarray, " tokens"] | None = None
    """Where rows hold several examples: the number of each token's example in its row, from 1."""
    token_type_ids: Int32[np.ndarray, " tokens"] | None = None
    """Token types, where tokenizer or format gives them: rows of an encoder's own table, ids of GPT-2's vocabulary."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row, special tokens included."""
        return np.diff(self.offsets)

    def row(self, index: int) -> dict[str, Any]:
        """`ids` and, where there are any, `labels`, `segment_ids` and `token_type_ids` of one row."""
        tokens = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        row: dict[str, Any] = {"ids": self.ids[tokens]}
        if self.labels is not None:
            row["labels"] = self.labels[tokens] if self.per_token else int(self.labels[index])
        for name, values in (("segment_ids", self.segment_ids), ("token_type_ids", self.token_type_ids)):
            if values is not None:
                row[name] = values[tokens]
        return row


def joined(parts: Sequence[Examples]) -> Examples:
    """The rows of several tasks of one kind and tokenizer, one part after another; their labels have no names."""
    labels = [part.labels for part in parts if part.labels is not None]
    types = [part.token_type_ids for part in parts if part.token_type_ids is not None]
    lengths = np.concatenate([part.lengths for part in parts])
    return Examples(
        ids=np.concatenate([part.ids for part in parts]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.concatenate(labels) if labels else None,
        names=(),
        vocabulary=parts[0].vocabulary,
        max_length=max(part.max_length for part in parts),
        per_token=parts[0].per_token,
        token_type_ids=np.concatenate(types) if types else None,
    )
