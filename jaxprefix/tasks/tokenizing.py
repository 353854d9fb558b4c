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
from jaxprefix.tasks.word_marks import words_backend

CHUNK = 1000  # rows: enough for the tokenizer's threads, little enough to hold
LETTERS = 1_000_000  # that are tokenized at a time
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
      cut: how many rows, and how many words with a label of their own, were cut off.
    """

    ids: Int32[np.ndarray, " tokens"]
    lengths: Int[np.ndarray, " sequences"]
    targets: Mapping[str, np.ndarray] = {}
    token_type_ids: Int32[np.ndarray, " tokens"] | None = None
    counts: Int[np.ndarray, " examples"] | None = None
    rows: Int[np.ndarray, " examples"] | None = None
    groups: Int[np.ndarray, " examples"] | None = None
    cut: tuple[int, int] = (0, 0)


def chunks(rows: Rows) -> Iterator[Chunk]:
    """The rows with their numbers, up to `CHUNK` at a time."""
    numbered = iter(enumerate(rows))
    while chunk := list(islice(numbered, CHUNK)):
        yield chunk


class Tokens(NamedTuple):
    """A sequence.

    Attributes:
      ids: of its tokens.
      type_ids: of its tokens; none where the tokenizer's models take none.
      word_ids: of each token the number of its word among those that were given, None for special tokens; none where
        texts were given.
      cut: whether tokens were cut off.
      lost: how many words have no token left.
    """

    ids: Sequence[int]
    type_ids: Sequence[int]
    word_ids: Sequence[int | None]
    cut: bool = False
    lost: int = 0


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

        description = serialised(tokenizer)
        self.backend, self.front = Tokenizer.from_str(description), ""
        if words:
            self.backend, self.front = words_backend(json.loads(description))
        self.max_length, self.truncation, self.words = max_length, truncation, words
        self.typed = "token_type_ids" in tokenizer.model_input_names
        self._ends = None if pairs else special_ends(self.backend, words)
        if max_length - self.backend.num_special_tokens_to_add(is_pair=pairs) < 1:
            raise UserError(f"With max_length {max_length} there is no room for a text; raise it.")

    def __call__(self, inputs: Sequence[Any], places: Sequence[str]) -> list[Tokens]:
        """The tokens of texts, pairs of texts or lists of words; `places` names each in messages.

        Raises:
          UserError: with truncation off, one is longer than `max_length`.
        """
        if self.front:
            inputs = [[word and self.front + word for word in words] for words in inputs]
        found = []
        for part in _parts(inputs):
            # Cut here and not by the tokenizer, which also makes all the pieces that it cuts off, of pairs each with
            # each.
            encodings = self.backend.encode_batch(list(part), is_pretokenized=self.words)
            for encoding in encodings:
                length = len(encoding)
                if length > self.max_length and not self.truncation:
                    raise UserError(
                        f"{places[len(found)]} is {length} tokens long and max_length is {self.max_length}; raise "
                        "max_length or set truncation to True."
                    )
                types = encoding.type_ids if self.typed else ()
                words = encoding.word_ids if self.words else ()
                found.append(cut_tokens(encoding, self.max_length, types, words, self._ends))
        return found

    def encoded(
        self, encodings: Sequence[Any], targets: Mapping[str, np.ndarray] | None = None, **more: Any
    ) -> Encoded:
        """A chunk of these encodings; `more` are further fields of `Encoded`."""
        if "cut" not in more:
            cut = np.array([encoding.cut for encoding in encodings], bool)
            rows = _cut_rows(cut, more.get("counts"), more.get("rows"))
            more["cut"] = rows, sum(encoding.lost for encoding in encodings)
        return Encoded(
            ids=flat(encoding.ids for encoding in encodings),
            lengths=np.array([len(encoding.ids) for encoding in encodings], np.int64),
            targets=targets or {},
            token_type_ids=flat(encoding.type_ids for encoding in encodings) if self.typed else None,
            **more,
        )


def _cut_rows(
    cut: Bool[np.ndarray, " sequences"],
    counts: Int[np.ndarray, " examples"] | None,
    rows: Int[np.ndarray, " examples"] | None,
) -> int:
    """How many rows have a sequence that was cut."""
    example = np.arange(len(cut)) if counts is None else np.repeat(np.arange(len(counts)), counts)
    return len(np.unique((example if rows is None else rows[example])[cut]))


def special_ends(backend: Any, words: bool) -> tuple[int, int] | None:
    """How many special tokens stand before and behind every single text; None where that cannot be told."""
    probe = backend.encode(["a"] if words else "a", is_pretokenized=words)
    special = probe.special_tokens_mask
    if 0 not in special:
        return None
    return special.index(0), special[::-1].index(0)


def cut_tokens(
    encoding: Any, limit: int, types: Sequence[int], words: Sequence[int | None], ends: tuple[int, int] | None = None
) -> Tokens:
    """An encoding with at most `limit` tokens: of one text its end is cut, of two the end of the longer one, then both
    alike (`longest_first` of tokenizers); special tokens stay. `ends` are those of a single text, where they are known.
    """
    ids = encoding.ids
    if len(ids) <= limit:
        return Tokens(ids, types, words)
    kept = _stretches(encoding, limit) if ends is None else [slice(limit - ends[1]), slice(len(ids) - ends[1], None)]

    def cut(values: Sequence[Any]) -> list[Any]:
        return [*chain.from_iterable(values[part] for part in kept)]

    left_words = cut(words) if words else ()
    return Tokens(
        ids=cut(ids),
        type_ids=cut(types) if types else (),
        word_ids=left_words,
        cut=True,
        lost=len({*words} - {*left_words}),
    )


def _stretches(encoding: Any, limit: int) -> list[slice]:
    """What stays of an encoding that is too long."""
    special, sequences = encoding.special_tokens_mask, encoding.sequence_ids
    of = [-1 if fixed else sequence for fixed, sequence in zip(special, sequences, strict=True)]
    counts = of.count(0), of.count(1)
    left = longest_first(*counts, max(limit - (len(of) - sum(counts)), 0))
    texts = [
        (of.index(text), count, room) for text, (count, room) in enumerate(zip(counts, left, strict=True)) if count
    ]
    kept, begin = [], 0
    for start, count, room in sorted(texts):  # each lies in one piece, and its end is cut
        kept.append(slice(begin, start + room))
        begin = start + count
    return [*kept, slice(begin, None)]


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts stay where there is room for so many, as tokenizers reckons it."""
    if first + second <= room:
        return first, second
    if not second:
        return min(first, room), 0
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def _parts(inputs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The inputs in parts of about `LETTERS` letters, since an encoding takes some hundred bytes for each token."""
    part: list[Any] = []
    letters = 0
    for given in inputs:
        part.append(given)
        letters += len(given) if isinstance(given, str) else sum(map(len, given))
        if letters > LETTERS:
            yield part
            part, letters = [], 0
    if part:
        yield part


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
