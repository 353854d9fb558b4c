"""Texts, pairs and words to token ids, one chunk of rows at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32

from jaxprefix.data.examples import Vocabulary
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError

CHUNK = 1000  # rows: enough for the tokenizer's threads, little enough to hold
Chunk = list[tuple[int, dict[str, Any]]]


class Encoded(NamedTuple):
    """A chunk of examples.

    Attributes:
      ids: of all tokens.
      lengths: tokens of each sequence.
      targets: values by name, one for each example, sequence or token; empty where they are unlabelled.
      token_type_ids: of all tokens, or None.
      counts: sequences of each example; None for one each.
      rows: the number of the row that each example was made of; None where each row of the data is one example.
      groups: the group of each example; None where there are none.
    """

    ids: Int32[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " sequences"]
    targets: Mapping[str, np.ndarray] = {}
    token_type_ids: Int32[np.ndarray, " tokens"] | None = None
    counts: Int[np.ndarray, " examples"] | None = None
    rows: Int[np.ndarray, " examples"] | None = None
    groups: Int[np.ndarray, " examples"] | None = None


def chunks(rows: Rows) -> Iterator[Chunk]:
    """The rows with their numbers, up to `CHUNK` at a time."""
    numbered = iter(enumerate(rows))
    while chunk := list(islice(numbered, CHUNK)):
        yield chunk


class Tokenizing:
    """A copy of a tokenizer's fast half with a task's limits, so that the person's tokenizer stays as it is.

    Args:
      tokenizer: a fast Hugging Face tokenizer.
      max_length: most tokens of a sequence, special ones included; of a pair the longer text is cut first.
      truncation: whether longer sequences are cut; if not, they are refused.
      pairs: whether sequences are of two texts.
      words: whether they are lists of words.

    Raises:
      UserError: the tokenizer is one in Python, or there is no room for a text.
    """

    def __init__(self, tokenizer: Any, max_length: int, truncation: bool, *, pairs: bool = False, words: bool = False):
        from tokenizers import Tokenizer

        description = json.loads(serialised(tokenizer))
        if words:
            # Byte-level vocabularies tell words from continuations by the space before them, which splitting took away.
            _set_everywhere(description["pre_tokenizer"], "add_prefix_space", True)
        self.backend = Tokenizer.from_str(json.dumps(description))
        self.max_length, self.words = max_length, words
        self.typed = "token_type_ids" in tokenizer.model_input_names
        if max_length - self.backend.num_special_tokens_to_add(is_pair=pairs) < 1:
            raise UserError(f"With max_length {max_length} there is no room for a text; raise it.")
        if truncation:
            self.backend.enable_truncation(max_length, strategy="longest_first")

    def __call__(self, inputs: Sequence[Any], places: Sequence[str]) -> list[Any]:
        """The encodings of texts, pairs of texts or lists of words; `places` names each in messages.

        Raises:
          UserError: with truncation off, one is longer than `max_length`.
        """
        encodings = self.backend.encode_batch(list(inputs), is_pretokenized=self.words)
        lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)
        if lengths.max(initial=0) > self.max_length:
            longest = int(np.argmax(lengths))
            raise UserError(
                f"{places[longest]} is {lengths[longest]} tokens long and max_length is {self.max_length}; raise "
                "max_length or set truncation to True."
            )
        return encodings

    def encoded(
        self, encodings: Sequence[Any], targets: Mapping[str, np.ndarray] | None = None, **more: Any
    ) -> Encoded:
        """A chunk of these encodings; `more` are further fields of `Encoded`."""
        return Encoded(
            ids=flat(encoding.ids for encoding in encodings),
            lengths=np.array([len(encoding.ids) for encoding in encodings], np.int64),
            targets=targets or {},
            token_type_ids=flat(encoding.type_ids for encoding in encodings) if self.typed else None,
            **more,
        )


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


def first_of_words(
    words: Int32[np.ndarray, " tokens"], lengths: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " tokens"]:
    """Where a word begins; `words` is -1 on special tokens."""
    before = np.concatenate([[-1], words[:-1]]) if len(words) else words
    starts = np.cumsum(lengths) - lengths
    before[starts[lengths > 0]] = -1
    return (words >= 0) & (words != before)


def flat(lists: Iterable[Sequence[int]]) -> Int32[np.ndarray, " total"]:
    """Lists of integers one after the other, int32."""
    return np.fromiter(chain.from_iterable(lists), np.int32)


def _set_everywhere(node: Any, key: str, value: Any) -> None:
    if isinstance(node, dict):
        if key in node:
            node[key] = value
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _set_everywhere(child, key, value)
