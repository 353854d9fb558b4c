"""What a hook may know beside its own leaves and the tensors at hand."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.edits.dims import BUILT_RATES, Rates
from jaxprefix.edits.pytree import edit, static


@edit
class Context:
    """What a hook may know beside its own leaves and the tensors at hand.

    Attributes:
      mask: tokens to be seen, True where there is one; the rows of an embedding-level prompt are among them.
      positions: position ids, with the offset that prefixes add.
      key: this edit's own key in this layer, or None when nothing is random.
      rates: dropout rates that replace the built ones.
      training: whether dropout applies.
      prompt: rows of an embedding-level prompt, which stand right before the first token of the text.
      segment_ids: where several examples share a row, the number of the example that each query and each key belongs
        to,
        0 for padding; None for one example per row.
      column: the column among the keys of the first query, where that is not S - T (cached decoding).
      leading: the layer's input at each row's first real token, where that is not among the queries (cached decoding).
      window: how many columns back a query of this layer sees, its own among them; None for all.
      softcap: what bounds this layer's scores; None for nothing.
    """

    mask: Bool[Array, "B S"]
    positions: Int[Array, "B T"]
    key: Any = None
    rates: Rates = BUILT_RATES
    training: bool = static(default=False)
    prompt: int = static(default=0)
    segment_ids: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None
    column: Int[Array, ""] | None = None
    leading: Float[Array, "B D"] | None = None
    window: int | None = static(default=None)
    softcap: float | None = static(default=None)

    @property
    def first(self) -> Int[Array, "B"]:
        """The column of each row's first real token, behind an embedding-level prompt and padding on the left."""
        return jnp.argmax(self.text, axis=1)

    def first_hidden(self, x: Float[Array, "B T D"]) -> Float[Array, "B D"] | Float[Array, "B T D"]:
        """The layer's input `x` at the first real token of each row; where several examples share a row, at that of
        each query's own example."""
        if self.leading is not None:
            return self.leading
        if self.segment_ids is None:
            return jnp.take_along_axis(x, self.first[:, None, None], axis=1)[:, 0]
        return jnp.take_along_axis(x, segment_starts(self.segment_ids[0])[:, :, None], axis=1)

    def numbers(self, queries: int) -> Int[Array, "B T"]:
        """The number of each of the T queries among the real tokens of its row or example, from 1."""
        if self.segment_ids is not None:
            return jnp.arange(1, queries + 1) - segment_starts(self.segment_ids[0])
        counts = jnp.cumsum(self.mask, axis=1)
        if self.column is None:
            return counts[:, -queries:]
        return jax.lax.dynamic_slice_in_dim(counts, self.column, queries, axis=1)

    @property
    def text(self) -> Bool[Array, "B S"]:
        """True for the real tokens of the text, without an embedding-level prompt."""
        return self.mask & (jnp.cumsum(self.mask, axis=1) > self.prompt) if self.prompt else self.mask

    def method_rate(self, rate: Any) -> Any:
        """A method's dropout rate in this call: 0 in evaluation."""
        if not self.training:
            return 0
        return rate if self.rates.method is None else self.rates.method

    def attention_rate(self, rate: Any) -> Any:
        """The rate of attention weights in this call: 0 in evaluation."""
        if not self.training:
            return 0
        return rate if self.rates.attention is None else self.rates.attention


def segment_starts(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The column in which the example of each token starts."""
    before = jnp.pad(segment_ids, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return jax.lax.cummax(jnp.where(segment_ids != before, jnp.arange(segment_ids.shape[1]), 0), axis=1)
