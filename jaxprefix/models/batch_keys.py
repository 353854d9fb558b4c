"""What a backbone reads of a batch, by the tokenizer's own keys."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Int

from jaxprefix.edits import Edits
from jaxprefix.errors import UserError
from jaxprefix.renamed import BATCH_KEYS

TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids", "segment_ids")
"""Keys of what a batch has for every token."""


class Unfold(NamedTuple):
    """From the backbone's rows back to those of a batch.

    Attributes:
      shape: `(B, C)` of a batch `[B, C, T]`; None of one `[B, T]`, which stays as it is.
    """

    shape: tuple[int, int] | None

    def __call__(self, x: Array, axis: int = 0) -> Array:
        """`[..., B C, ...]` to `[..., B, C, ...]`, where the rows are at `axis`."""
        return x if self.shape is None else x.reshape(*x.shape[:axis], *self.shape, *x.shape[axis + 1 :])

    def edits(self, edits: Edits) -> Edits:
        """Edits whose offsets of rows are those of the backbone's rows."""
        if self.shape is None or edits.row_offsets is None:
            return edits
        return dataclasses.replace(edits, row_offsets=jnp.repeat(edits.row_offsets, self.shape[1], axis=0))


def fold_choices(batch: Mapping[str, Any]) -> tuple[dict[str, Any], Unfold]:
    """A batch `[B, C, T]` as one of `B C` rows for the backbone, and the way back; others as they are."""
    shape = batch["input_ids"].shape
    if len(shape) == 2:
        return dict(batch), Unfold(None)
    tokens = {name: batch[name].reshape(-1, shape[-1]) for name in TOKEN_KEYS if name in batch}  # [B, C, T] -> [B C, T]
    return {**batch, **tokens}, Unfold((shape[0], shape[1]))


def check_batch(batch: Any, targets: Sequence[str] | None = ()) -> None:
    """Refuses a batch that could not be read, or of which something would not be read.

    Args:
      batch: `input_ids` int `[B, T]` or `[B, C, T]`; `attention_mask` bool or 0 and 1, `token_type_ids` and
        `segment_ids` int of that shape, which may be absent; `weight` and the targets.
      targets: the names of the targets that a head reads; None where it does not say, and other keys are let through.

    Raises:
      UserError: something is no array, has another shape or dtype, is missing, or has a name that nobody reads.
    """
    if not isinstance(batch, Mapping):
        raise UserError(f"the batch is a {type(batch).__name__}; give a dict of arrays, as in {{'input_ids': ids}}.")
    known = (*TOKEN_KEYS, "weight", *(targets or ()))
    for key in batch:
        if key in BATCH_KEYS and key not in known:
            raise UserError(f"the batch has the key {key!r}; the key is {BATCH_KEYS[key]!r} now.")
        if key in known:
            continue
        # Where the targets are not known, any name may be one of them, unless it looks like one of the tokens' keys.
        candidates = TOKEN_KEYS if targets is None else known
        meant = {**BATCH_KEYS, **dict(zip(candidates, candidates, strict=True))}
        near = difflib.get_close_matches(str(key), meant, n=1, cutoff=0.75 if targets is None else 0.7)
        if near or targets is not None:
            remedy = f"the nearest that is read is {meant[near[0]]!r}" if near else "remove it"
            raise UserError(f"the batch has the key {key!r}, which nothing reads; {remedy}.")
    if "input_ids" not in batch:
        raise UserError("the batch has no 'input_ids'; give token ids, int [B, T].")
    for name in TOKEN_KEYS:
        if name in batch:
            _check_tokens(name, batch[name], batch["input_ids"])


def _check_tokens(name: str, value: Any, ids: Any) -> None:
    """Refuses what is no array of tokens, `[B, T]` or `[B, C, T]`."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise UserError(f"{name} is a {type(value).__name__}; make it an array, as in numpy.array({name}).")
    if len(value.shape) not in (2, 3) or 0 in value.shape:
        raise UserError(
            f"{name} has the shape {tuple(value.shape)}; give [B, T], or [B, C, T] for C sequences a row, none of them "
            "0."
        )
    if value.shape != ids.shape:
        raise UserError(f"{name} has the shape {tuple(value.shape)} and input_ids {tuple(ids.shape)}; make them equal.")
    if jnp.issubdtype(value.dtype, jnp.integer) or (name == "attention_mask" and value.dtype == bool):
        return
    kinds = "bool, or as integers: 1 for a real token and 0 for padding" if name == "attention_mask" else "integers"
    raise UserError(f"{name} is {value.dtype}; give it as {kinds}.")


def refuse_packed(batch: Mapping[str, Any], causal: bool) -> None:
    """Refuses several examples in a row on a backbone that reads one, and would let each see the others."""
    if "segment_ids" in batch and not causal:
        raise UserError(
            "the batch has segment_ids, and an encoder reads one example per row; give each example a row of its own."
        )


def check_values(batch: Mapping[str, Any], vocab: int, types: int | None) -> None:
    """Refuses values in NumPy arrays that no table has.

    Those that are traced or on a device are not looked at, an id outside giving NaN in its row there; but types that
    would be ignored are looked at where they are not traced.

    Args:
      batch: whose keys and shapes are right (`check_batch`).
      vocab: the number of tokens, those that a method adds among them.
      types: the number of types of tokens; None where they have no embeddings and would be ignored.

    Raises:
      UserError: naming key, place, value and range.
    """
    for name, size in {"input_ids": vocab, "attention_mask": 2, "token_type_ids": types or 1}.items():
        value = batch.get(name)
        if name == "token_type_ids" and types is None and isinstance(value, Array) and not isinstance(value, Tracer):
            value = np.asarray(value)
        if not isinstance(value, np.ndarray) or value.dtype == bool:
            continue
        outside = (value < 0) | (value >= size)
        if not outside.any():
            continue
        place = tuple(int(index) for index in np.argwhere(outside)[0])
        found = f"{name}{list(place)} is {value[place]}"
        if name == "token_type_ids" and types is None:
            raise UserError(f"{found}, and this backbone has no embeddings of token types; remove the key.")
        raise UserError(f"{found}; it must be from 0 to {size - 1}.")


def read_attention_mask(batch: Mapping[str, Any]) -> Bool[Array, "*B T"]:
    """Which tokens are real: `attention_mask` `[B, T]`, bool or integers 0 and 1; all of them where it is absent.

    Raises:
      UserError: it is no array, or of another shape or dtype than that.
    """
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if mask is None:
        return jnp.ones(ids.shape, bool)
    _check_tokens("attention_mask", mask, ids)
    return jnp.asarray(mask).astype(bool)


def read_segment_ids(batch: Mapping[str, Any], mask: Bool[Array, "B T"]) -> Int[Array, "B T"] | None:
    """`segment_ids` `[B, T]` with -1 where a token is not real, so that no example begins with padding; None where the
    batch has none."""
    segment_ids = batch.get("segment_ids")
    return None if segment_ids is None else jnp.where(mask, segment_ids, -1)
