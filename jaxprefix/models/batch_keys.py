"""What a backbone reads of a batch, by the tokenizer's own keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.core
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool

from jaxprefix.edits import Edits
from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig
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
    check_batch_keys(batch)
    shape = batch["input_ids"].shape
    if len(shape) == 2:
        return dict(batch), Unfold(None)
    if len(shape) != 3:
        raise UserError(f"input_ids has the shape {tuple(shape)}; give [B, T], or [B, C, T] for C sequences a row.")
    tokens = {name: batch[name].reshape(-1, shape[-1]) for name in TOKEN_KEYS if name in batch}  # [B, C, T] -> [B C, T]
    return {**batch, **tokens}, Unfold((shape[0], shape[1]))


def check_batch_keys(batch: Mapping[str, Any]) -> None:
    """Refuses a key by its old name, naming the new one."""
    for key in batch:
        if key in BATCH_KEYS:
            raise UserError(f"the batch has the key {key!r}; the key is {BATCH_KEYS[key]!r} now.")


def read_attention_mask(batch: Mapping[str, Any]) -> Bool[Array, "*B T"]:
    """Which tokens are real: `attention_mask` `[B, T]`, bool or integers 0 and 1; all of them where it is absent.

    Raises:
      UserError: the mask holds floats (an additive mask, for one), or the batch has a key by its old name.
    """
    check_batch_keys(batch)
    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    if mask is None:
        return jnp.ones(ids.shape, bool)
    mask = jnp.asarray(mask)
    if jnp.issubdtype(mask.dtype, jnp.floating):
        raise UserError(
            f"attention_mask is {mask.dtype}; give it as bool, or as integers: 1 for a real token and 0 for padding."
        )
    return mask.astype(bool)


def check_token_types(batch: Mapping[str, Any], config: BackboneConfig) -> None:
    """Refuses token types other than 0 on a backbone that has no embeddings of them; traced ones are not looked at.

    Raises:
      UserError: some are not 0, and the backbone would ignore them.
    """
    types = batch.get("token_type_ids")
    if types is None or config.has_token_types or config.has_word_types or isinstance(types, jax.core.Tracer):
        return
    if np.any(np.asarray(types)):
        raise UserError(
            f"token_type_ids has values other than 0, and a {config.model_type} has no embeddings of token types; "
            "remove the key from the batch."
        )
