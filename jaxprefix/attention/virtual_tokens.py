"""Virtual tokens: keys and values that no word stands for, each with scales and a mass."""

import dataclasses
from collections.abc import Sequence
from typing import no_type_check

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.errors import UserError
from jaxprefix.old_names import answer_old_names

ALWAYS = 2**30  # a number that no query reaches


# Not checked at construction: tree maps also fill the fields with axis numbers, shapes and shardings, and a layer
# stack with one more leading axis. `kernel_attention` checks shapes where they matter.
@answer_old_names
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VirtualTokens:
    """P virtual tokens of one attention, shared by all rows (no leading axis) or per row (leading axis B).

    A virtual token weighs `mass * exp(scale * key_scale * (q . key))` in the softmax and contributes
    `value_scale * value`. Each field is shared or per row on its own: a gate per row does not copy shared keys.

    Attributes:
      keys: [P, K, E] or [B, P, K, E].
      values: [P, K, E2] or [B, P, K, E2].
      key_scale: [P] or [B, P], or [B, T, P] for one of each query; multiplies the keys (which is to multiply the
        scores); None is 1.
      value_scale: likewise, multiplies the values; None is 1.
      mass: [P] or [B, P], not negative; None is 1. Mass 0 is exactly no token, yet its gradient is alive.
      visible_before: int [P] or [B, P], the first query that no longer sees the token, where it leaves a sliding
        window: its number among the row's columns, 0 at the row's first real token; None for tokens that every query
        sees.
    """

    keys: Float[Array, "*B P K E"]
    values: Float[Array, "*B P K E2"]
    key_scale: Float[Array, "*B P"] | None = None
    value_scale: Float[Array, "*B P"] | None = None
    mass: Float[Array, "*B P"] | None = None
    visible_before: Int[Array, "*B P"] | None = None

    @staticmethod
    def concatenate(parts: "Sequence[VirtualTokens]") -> "VirtualTokens":
        """One set of virtual tokens after another, along P; at least one part.

        A field of the result has a row axis only if that field has one in some part, and a scale or mass is
        written out only if some part has it, so shared keys stay shared beside another part's gates.
        """
        parts = tuple(parts)
        if not parts:
            raise UserError("there are no virtual tokens to concatenate; pass at least one set.")
        if len(parts) == 1:
            return parts[0]
        rows = {part.rows for part in parts if part.rows is not None}
        if len(rows) > 1:
            raise UserError(
                f"virtual tokens to be concatenated disagree on the number of rows {sorted(rows)}; "
                "give each set one row per example, or share it."
            )
        return VirtualTokens(
            keys=_concatenate([part.keys for part in parts], inner=3),
            values=_concatenate([part.values for part in parts], inner=3),
            key_scale=_written_out([part.key_scale for part in parts], parts),
            value_scale=_written_out([part.value_scale for part in parts], parts),
            mass=_written_out([part.mass for part in parts], parts),
            visible_before=_written_out([part.visible_before for part in parts], parts, ALWAYS),
        )

    @property
    def length(self) -> int:
        """P, the number of virtual tokens."""
        return self.keys.shape[-3]

    @property
    def rows(self) -> int | None:
        """B if any field is per row, else None."""
        for leaf, inner in self._fields():
            if leaf is not None and leaf.ndim > inner:
                return leaf.shape[0]
        return None

    def _fields(self):
        return (
            (self.keys, 3),
            (self.values, 3),
            (self.key_scale, 1),
            (self.value_scale, 1),
            (self.mass, 1),
            (self.visible_before, 1),
        )


def _written_out(leaves: list, parts: tuple[VirtualTokens, ...], default: int = 1) -> Array | None:
    """A field of all parts along P, the default where a part has none; None if no part has it."""
    if all(leaf is None for leaf in leaves):
        return None
    dtype = jnp.result_type(*(leaf for leaf in leaves if leaf is not None))
    found = [
        jnp.full((part.length,), default, dtype) if leaf is None else leaf
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    return _concatenate(found, inner=1)


def _concatenate(leaves: list, inner: int) -> Array:
    """Along P, which is the first of the `inner` axes; shared leaves are repeated per row only beside per-row ones."""
    lead = max((leaf.shape[: leaf.ndim - inner] for leaf in leaves), key=len)  # none, the rows, or rows and queries

    def spread(leaf: Array) -> Array:
        own = leaf.shape[: leaf.ndim - inner]
        if len(own) == 1 < len(lead):  # of each row, beside one of each query
            leaf = jnp.expand_dims(leaf, 1)
        return jnp.broadcast_to(leaf, lead + leaf.shape[leaf.ndim - inner :])

    leaves = [spread(leaf) for leaf in leaves]
    return jnp.concatenate(leaves, axis=-inner)
