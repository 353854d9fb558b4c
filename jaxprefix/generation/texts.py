"""Prompts to texts: batches of prompts padded on the left, decoded, and read off."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxprefix.data.examples import Examples
from jaxprefix.errors import UserError
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.loop import Generated, generate, stream
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree

SHORTEST = 16  # tokens of the smallest padded length


def with_tokens_of(decoding: Decoding, tokenizer: Any, stops: Sequence[str] = ()) -> Decoding:
    """The decoding with the tokenizer's padding, and where no stop token is named with its end token and `stops`."""
    end = tokenizer.eos_token_id
    ends = (() if end is None else (end,)) + stop_tokens(stops, tokenizer)
    stop = decoding.stop if decoding.stop is not None else tuple(dict.fromkeys(ends))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (0 if end is None else end)
    return dataclasses.replace(decoding, stop=stop, pad=pad)


def stop_tokens(words: Sequence[str], tokenizer: Any) -> tuple[int, ...]:
    """The ids of tokens that end a text; refuses a word that is not one token."""
    ids = []
    for word in words:
        known = tokenizer.convert_tokens_to_ids(word)
        found = [known] if known is not None and known != tokenizer.unk_token_id else _plain(tokenizer, word)
        if len(found) != 1:
            raise UserError(f"the stop token {word!r} is {len(found)} tokens of this tokenizer; name a single one.")
        ids += found
    return tuple(ids)


def _plain(tokenizer: Any, word: str) -> list[int]:
    """The ids of a word, by a copy: a call of the tokenizer itself would change the cuts and the padding that its fast
    half holds, which other threads may be using."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend.encode(word, add_special_tokens=False).ids


def prompt_batches(examples: Examples, batch_size: int, longest: int) -> Iterator[tuple[dict, np.ndarray]]:
    """Batches of prompts with padding on the left, in order of length, with the numbers of their rows.

    Widths are powers of two from 16 on, `longest` at most, so that few programs serve all prompts; a last batch is
    filled up with copies of its last row, which the numbers leave out.
    """
    lengths = examples.lengths
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), batch_size):
        index = order[first : first + batch_size]
        filled = np.concatenate([index, np.repeat(index[-1:], batch_size - len(index))])
        width = SHORTEST
        while width < lengths[index].max():
            width *= 2
        width = max(min(width, longest), int(lengths[index].max()))
        ids = np.full((batch_size, width), examples.vocabulary.padding_id, np.int32)
        mask = np.zeros((batch_size, width), bool)
        types = np.zeros_like(ids)
        for place, row in enumerate(filled):
            found = examples.row(int(row))
            start = width - len(found["ids"])
            ids[place, start:], mask[place, start:] = found["ids"], True
            types[place, start:] = found.get("token_type_ids", 0)
        typed = {} if examples.token_type_ids is None else {"token_type_ids": types}
        yield {"input_ids": ids, "attention_mask": mask, **typed}, index


Decode = Callable[[dict, np.ndarray], Generated]
"""From a batch and the numbers of its rows to new tokens."""


def decoded_texts(examples: Examples, tokenizer: Any, decode: Decode, batch_size: int, longest: int) -> list[str]:
    """The text for each prompt, in their order.

    Args:
      examples: prompts, none of them empty.
      tokenizer: reads tokens off as text; special tokens are left out.
      decode: makes the tokens of a batch.
      batch_size: prompts decoded at a time.
      longest: tokens of the longest row that the model can take.
    """
    if len(examples) and not examples.lengths.min():
        empty = int(np.argmin(examples.lengths))
        raise UserError(f"the prompt {empty} is empty; give it at least one token.")
    texts = [""] * len(examples)
    for batch, index in prompt_batches(examples, min(batch_size, max(len(examples), 1)), longest):
        found = jax.device_get(decode(batch, index))
        for place, row in enumerate(index):
            tokens = found.tokens[place, : found.lengths[place]].tolist()
            texts[row] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return texts


def generate_texts(
    model: TunedModel,
    trainable: Tree,
    frozen: Tree,
    tokenizer: Any,
    prompts: Examples,
    decoding: Decoding,
    *,
    batch_size: int = 32,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> list[str]:
    """The text that a model writes for each prompt, up to the tokenizer's end or one of `stops` where `decoding` names
    no stop tokens; drawn ones depend on `seed` and on what they are batched with."""
    decoding = with_tokens_of(decoding, tokenizer, stops)

    def decode(batch: dict, index: np.ndarray) -> Generated:
        key = jax.random.fold_in(jax.random.key(seed), int(index[0])) if decoding.draws else None
        return generate(model, trainable, frozen, batch, decoding, key)

    return decoded_texts(prompts, tokenizer, decode, batch_size, model.backbone.dims.positions)


def stream_text(
    model: TunedModel,
    trainable: Tree,
    frozen: Tree,
    tokenizer: Any,
    prompt: Examples,
    decoding: Decoding,
    *,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> Iterator[str]:
    """The text for one prompt, piece by piece as its tokens are made; `stops` as in `generate_texts`."""
    decoding = with_tokens_of(decoding, tokenizer, stops)
    ((batch, _),) = prompt_batches(prompt, 1, model.backbone.dims.positions)
    tokens, shown = [], ""
    for token in stream(model, trainable, frozen, batch, decoding, jax.random.key(seed) if decoding.draws else None):
        tokens.append(int(token[0]))
        text = tokenizer.decode(tokens, skip_special_tokens=True).lstrip()
        if text.startswith(shown) and not text.endswith("\ufffd"):  # else a character is not whole yet
            yield text[len(shown) :]
            shown = text
