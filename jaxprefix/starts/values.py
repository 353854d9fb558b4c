"""Starts as typed values: what a config file says about where virtual tokens begin.

A start of one's own is a subclass of `TokenStart`: a frozen dataclass, registered with `jp.register`, whose `tokens`
says what the frozen model reads.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from jaxprefix.contract import Contract, required
from jaxprefix.errors import UserError
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural, NonNegative, Place


class Start(Contract):
    """Where the virtual tokens of a method begin; see `jaxprefix.starts.start`."""


class TokenStart(Start):
    """A start at tokens: prefixes begin at the keys and values that the frozen model computes for them as one text,
    prompt tuning at their rows of the word table."""

    @required
    def tokens(self, tokenizer: Any, length: int, labels: Sequence[str]) -> list[int]:
        """The ids of exactly `length` tokens; refuses what cannot be, as UserError."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class TextStart(TokenStart):
    """A text, with the start token that the tokenizer puts before texts, without an end token.

    On a decoder with `position_offset=True` an untrained prefix of as many tokens is the text in context: what follows
    has the hidden states that it would have behind the text itself. So it is with `position_offset=False` where
    positions are rotations. Layers with sliding windows need `subject_to_window=True` for that, and prompt tuning has
    it without further conditions. On an encoder the text has not seen what it stands before, so it is a start and no
    more.
    """

    text: str
    """The text."""
    fit: bool = False
    """Whether a text of another number of tokens than the method's length is cut there, or read again from its
    beginning up to there; if not, it is refused."""

    @override
    def tokens(self, tokenizer: Any, length: int, labels: Sequence[str]) -> list[int]:
        ids = begun(tokenizer, self.text)
        if not ids:
            raise UserError(f"the text {self.text!r} of TextStart has no tokens; give it some words.")
        if len(ids) != length and not self.fit:
            raise UserError(
                f"the text of TextStart has {len(ids)} tokens and the method has length = {length}; set length = "
                f"{len(ids)}, or fit=True to cut or repeat the text."
            )
        return cycled(ids, length)


@register
@dataclass(frozen=True)
class VocabularyStart(TokenStart):
    """Words of the vocabulary, drawn or named (Lester et al. 2021, section 3.2, "sampled vocabulary"; Li & Liang 2021,
    section 7.4, "real words")."""

    words: tuple[str, ...] | None = None
    """Words whose tokens are taken one after another, again from the first where the method is longer; None draws
    tokens at random. A vocabulary that has words with the space before them has them so here, as in `" word"`."""
    seed: Natural = 0
    """Of the drawing."""
    among: Count = 5000
    """Drawn among so many of the first ids, special ones excepted: the commonest tokens in most vocabularies, and as
    many as Lester et al. drew from."""

    @override
    def tokens(self, tokenizer: Any, length: int, labels: Sequence[str]) -> list[int]:
        if self.words is not None:
            return cycled(plain(tokenizer, self.words, "words of VocabularyStart"), length)
        if self.among < 1:
            raise UserError(f"VocabularyStart has among = {self.among}; it must be at least 1.")
        special = set(tokenizer.all_special_ids)
        known = [index for index in range(len(tokenizer)) if index not in special][: self.among]
        if not known:
            raise UserError("the tokenizer has no tokens but special ones; start in another way.")
        random = np.random.default_rng(self.seed)
        return [int(known[index]) for index in random.choice(len(known), length, replace=len(known) < length)]


@register
@dataclass(frozen=True)
class LabelStart(TokenStart):
    """The names of the labels, one after another, again from the first where the method is longer (Lester et al. 2021,
    section 3.2, "class label", who average the rows of a name's tokens and fill up with drawn words)."""

    @override
    def tokens(self, tokenizer: Any, length: int, labels: Sequence[str]) -> list[int]:
        if not labels:
            raise UserError("LabelStart needs the names of labels, and this task has none; take VocabularyStart.")
        return cycled(plain(tokenizer, labels, "names of the labels"), length)


@register
@dataclass(frozen=True)
class SinkStart(Start):
    """The token that rows begin with, by itself: much of the attention of a pretrained model rests on its first token,
    and a prefix of such tokens draws attention without saying anything (Xiao et al. 2024, "attention sinks").

    Every virtual token is this one, at the first position. Copies that are equal would get equal gradients and stay
    equal, so a little noise tells them apart. P copies weigh P times as much as one.
    """

    token: str | None = None
    """The token; None takes the tokenizer's first of `bos_token`, `cls_token` and `eos_token` that it has."""
    noise: NonNegative = 0.01
    """Standard deviation of the noise, as a share of the root mean square of keys, and of values, in their layer."""
    seed: Natural = 0
    """Of the noise."""

    def token_id(self, tokenizer: Any) -> int:
        """The id of the token."""
        if self.noise < 0:
            raise UserError(f"SinkStart has noise = {self.noise}; it must be at least 0.")
        if self.token is not None:
            found = tokenizer.get_vocab().get(self.token)
            if found is None:
                raise UserError(f"the tokenizer has no token {self.token!r}; name one of its own in SinkStart.")
            return int(found)
        known = (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id)
        first = next((index for index in known if index is not None), None)
        if first is None:
            raise UserError("the tokenizer has no token that rows begin with; name one, as in SinkStart(token='the').")
        return int(first)


@register
@dataclass(frozen=True)
class AdapterStart(Start):
    """Another adapter's virtual tokens, from a prefix to a prefix or from a prompt to a prompt.

    A method with fewer tokens takes the first of them, one with more takes them again from the first; so it is in every
    layer. With as many tokens and the same convention of positions it is the same function; conventions that differ
    are converted where positions are rotations. Gates do not go along: a prefix under gates is taken as it is scaled at
    a hidden state of 0.
    """

    folder: Place
    """The adapter folder of a run on a backbone of the same sizes."""


STARTS = (AdapterStart, LabelStart, SinkStart, TextStart, VocabularyStart)
"""Every start that comes with the package."""


def begun(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text behind what the tokenizer puts before texts, without what it puts after them."""
    whole = list(tokenizer(text, add_special_tokens=True)["input_ids"])
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ends = (first + len(own) for first in range(len(whole)) if whole[first : first + len(own)] == own)
    return whole[: next(ends, len(whole))] if own else []


def plain(tokenizer: Any, words: Iterable[str], what: str) -> list[int]:
    """The ids of all words, one word after another."""
    found = [index for word in words for index in tokenizer(word, add_special_tokens=False)["input_ids"]]
    if not found:
        raise UserError(f"the {what} have no tokens; give at least one that has.")
    return [int(index) for index in found]


def cycled(ids: Sequence[int], length: int) -> list[int]:
    """The first `length` ids, again from the first where there are fewer."""
    return list(itertools.islice(itertools.cycle(ids), length))
