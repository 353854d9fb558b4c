"""Which real tokens each query sees, as structure: what an implementation gets in place of a dense mask."""

import dataclasses
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int


# Not checked at construction: tree maps also fill the fields with axis numbers, shapes and shardings.
@no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskStructure:
    """Which of S keys each of T queries sees: those that every field allows.

    A *column* is a place in the row: query t stands in column `query_offset + t`, key s in `key_offset + s`. A query of
    column c sees the keys of columns c - `before` to c + `after`, so `after = 0` is a causal mask.

    Attributes:
      padding: bool [B, S], True where a key is a real token, padding on either side; None where all are.
      segment_ids: int [B, T] and [B, S], the segments of queries and keys; a query sees the keys of its own segment.
      query_offset, key_offset: the columns of the first query and of the first key; a Python int where known while the
        program is traced, else an integer scalar.
      before: how many columns before its own a query sees; None for all. Static.
      after: how many columns after its own a query sees; None for all. Static.
    """

    padding: Bool[Array, "B S"] | None = None
    segment_ids: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None
    query_offset: Any = 0
    key_offset: Any = 0
    before: int | None = dataclasses.field(default=None, metadata={"static": True})
    after: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def causal(self) -> bool:
        """Whether no query sees a later column."""
        return self.after == 0

    @property
    def first(self) -> Int[Array, "#B"]:
        """The column of each row's first real key; that of the first key in a row that has none."""
        first = jnp.zeros(1, jnp.int32) if self.padding is None else jnp.argmax(self.padding, axis=1)
        return first if _is_zero(self.key_offset) else first + self.key_offset

    def query_numbers(self, queries: int) -> Int[Array, "#B T"]:
        """The place of each query in its row, 0 at the row's first real key, as `visible_before` counts."""
        return self.query_offset + jnp.arange(queries) - self.first[:, None]

    def distances(self, queries: int, keys: int) -> Int[Array, "T S"]:
        """The column of each key minus that of each query."""
        query, key = self._columns(queries, keys)
        return key - query

    def dense(self, queries: int, keys: int) -> Bool[Array, "#B 1 #T S"] | None:
        """True where a query sees a key; None where all see all. An axis that nothing varies along has length 1: a
        causal mask without padding is [1, 1, T, S], padding alone [B, 1, 1, S]."""
        visible = []
        if self.padding is not None:
            visible.append(self.padding[:, None, None, :])
        if self.before is not None or self.after is not None:
            query, key = self._columns(queries, keys)
            near = []
            if self.after is not None:
                near.append(key <= (query if self.after == 0 else query + self.after))
            if self.before is not None:
                near.append(key > query - (self.before + 1))
            visible.append((near[0] if len(near) == 1 else near[0] & near[1])[None, None])
        if self.segment_ids is not None:
            visible.append((self.segment_ids[0][:, :, None] == self.segment_ids[1][:, None, :])[:, None])
        if not visible:
            return None
        result = visible[0]
        for other in visible[1:]:
            result = result & other
        return result

    def _columns(self, queries: int, keys: int) -> tuple[Int[Array, "T S"], Int[Array, "T S"]]:
        query = jax.lax.broadcasted_iota(jnp.int32, (queries, keys), 0) + self.query_offset
        key = jax.lax.broadcasted_iota(jnp.int32, (queries, keys), 1)
        return query, key if _is_zero(self.key_offset) else key + self.key_offset


def _is_zero(offset: Any) -> bool:
    return isinstance(offset, int) and offset == 0
