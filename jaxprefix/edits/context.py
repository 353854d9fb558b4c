"""What a hook may know beside its own leaves and the tensors at hand."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.attention import MaskStructure
from jaxprefix.edits.dims import BUILT_RATES, Rates
from jaxprefix.edits.pytree import edit, static
from jaxprefix.old_names import answer_old_names


@edit
class Tokens:
    """One side of an attention: the N tokens that its queries are of, or its keys.

    Attributes:
      mask: True where there is a real token; the rows of an embedding-level prompt are among them.
      positions: position ids, with the offset that prefixes add.
      segment_ids: where several examples share a row, the number of the example that each token belongs to, 0 for
        padding; None for one example per row.
      offset: the column of the first of them, in which columns of queries and keys are counted alike: a Python int, or
        an integer scalar (cached decoding).
      before: how many real tokens of each row stand before them; None for none.
      prompt: rows of an embedding-level prompt among them, which stand right before the first token of the text.
    """

    mask: Bool[Array, "B N"]
    positions: Int[Array, "B N"]
    segment_ids: Int[Array, "B N"] | None = None
    offset: Any = 0
    before: Int[Array, "B"] | None = None
    prompt: int = static(default=0)

    @property
    def text(self) -> Bool[Array, "B N"]:
        """True for the real tokens of the text, without an embedding-level prompt."""
        return self.mask & (jnp.cumsum(self.mask, axis=1) > self.prompt) if self.prompt else self.mask

    @property
    def first(self) -> Int[Array, "B"]:
        """The index among them of each row's first token of the text, behind a prompt and padding on the left."""
        return jnp.argmax(self.text, axis=1)

    @property
    def numbers(self) -> Int[Array, "B N"]:
        """The number of each among the real tokens of its row or example, from 1."""
        if self.segment_ids is not None:
            return jnp.arange(1, self.mask.shape[1] + 1) - segment_starts(self.segment_ids)
        counts = jnp.cumsum(self.mask, axis=1)
        return counts if self.before is None else counts + self.before[:, None]


@answer_old_names
@edit
class Context:
    """What a hook may know beside its own leaves and the tensors at hand.

    Attributes:
      queries: the tokens whose hidden states the layer computes, T of them.
      keys: the tokens that they attend to, S of them: the same ones in a pass over whole rows, all tokens so far in
        cached decoding, the other stack's in cross-attention.
      site: where the hooks are called: `self` in a model of one stack, else a stack (`encoder`, `decoder`) or `cross`.
      key: this edit's own key in this layer, or None when nothing is random.
      rates: dropout rates that replace the built ones.
      training: whether dropout applies.
      first_token_hidden: the layer's input at each row's first real token, where that is not among the queries (cached
        decoding).
      window: how many columns back a query of this layer sees, its own among them; or a pair of how many before and
        after its own, None for all on that side; None for all.
      softcap: what bounds this layer's scores; None for nothing.
      scale: what multiplies this layer's scores; None for 1/sqrt(E).
    """

    queries: Tokens
    keys: Tokens
    site: str = static(default="self")
    key: Any = None
    rates: Rates = BUILT_RATES
    training: bool = static(default=False)
    first_token_hidden: Float[Array, "B D"] | None = None
    window: int | tuple[int | None, int | None] | None = static(default=None)
    softcap: float | None = static(default=None)
    scale: float | None = static(default=None)

    @classmethod
    def of(cls, mask: Bool[Array, "B T"], positions: Int[Array, "B T"], **others: Any) -> "Context":
        """The context of rows that attend to themselves; `others` are fields by name."""
        tokens = Tokens(mask, positions)
        return cls(tokens, tokens, **others)

    def first_hidden(self, x: Float[Array, "B T D"]) -> Float[Array, "B D"] | Float[Array, "B T D"]:
        """The layer's input `x` at the first real token of each row; where several examples share a row, at that of
        each query's own example."""
        if self.first_token_hidden is not None:
            return self.first_token_hidden
        if self.queries.segment_ids is None:
            return jnp.take_along_axis(x, self.queries.first[:, None, None], axis=1)[:, 0]
        return jnp.take_along_axis(x, segment_starts(self.queries.segment_ids)[:, :, None], axis=1)

    @property
    def places(self) -> Int[Array, "B T"]:
        """The place of each query in its row, 0 at the row's first real key: padding on the left does not count."""
        masks = MaskStructure(self.keys.mask, query_offset=self.queries.offset, key_offset=self.keys.offset)
        return masks.query_numbers(self.queries.mask.shape[1])

    @property
    def window_before(self) -> int | None:
        """How many columns before its own a query of this layer sees; None for all."""
        if isinstance(self.window, tuple):
            return self.window[0]
        return None if self.window is None else self.window - 1

    def score_scale(self, head_width: int) -> float:
        """What multiplies the scores of heads of this width, those of virtual tokens too."""
        return head_width**-0.5 if self.scale is None else self.scale

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
