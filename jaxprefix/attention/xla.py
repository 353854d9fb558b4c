"""The joint form in plain XLA: one maximum and one sum over real and virtual tokens, one division, no concatenation.

Inside, arrays are heads-first, [K, B, N, ...]: the N = (H // K) * T queries of one key/value head lie side by side.
Batched products with tokens before heads are 1.5 to 3 times slower on CPU; with heads before rows, a prefix shared by
all rows is one product of all their queries with [P, E] per head, so that it is neither copied nor transposed around.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.attention.biases import Bias, dense_bias
from jaxprefix.attention.dropout import VIRTUAL_COLUMN, inverse_keep, keep, row_words
from jaxprefix.attention.masks import MaskStructure
from jaxprefix.attention.virtual_tokens import VirtualTokens

MASKED = -1e30  # the score of a token that is not seen
FLOOR = MASKED / 2  # no maximum is below this, so that exp(MASKED - maximum) is exactly 0
TINY = 1e-18  # a sum of weights below this is nothing; its inverse square is still finite in float32
OVERSHOOT = 30.0  # how far a massless token's score may exceed the maximum in the exponent


def supports(masks: MaskStructure, shapes: Any) -> str | None:
    """Why this form cannot compute a call: it can compute each."""
    return None


def attend(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S K E"],
    v: Float[Array, "B S K E2"],
    *,
    masks: MaskStructure,
    virtual: VirtualTokens | None,
    bias: Bias | None,
    scale: float,
    softcap: float | None,
    dropout: tuple[Any, Any] | None,
) -> tuple[Float[Array, "B T H E2"], Float[Array, "B H T"]]:
    """See `kernel_attention`, which checks shapes."""
    (b, t, h, _), (s, kv_heads) = q.shape, k.shape[1:3]
    visible, bias = masks.dense(t, s), dense_bias(bias, q, k, masks)
    acc = jnp.promote_types(q.dtype, jnp.float32)
    queries = _heads_first(q, kv_heads)
    if dropout is not None:
        dropout = dropout[0], tuple(_arrange(words, h, kv_heads) for words in row_words(dropout[1], (b, h, t)))

    scores = _capped(_with_keys(queries, k, acc) * scale, softcap)
    if bias is not None:
        scores = scores + _arrange(bias, h, kv_heads).astype(acc)
    if visible is not None:
        scores = jnp.where(_arrange(visible, h, kv_heads), scores, MASKED)
    maximum = jnp.max(scores, axis=-1, keepdims=True, initial=FLOOR)

    numbers = None
    if virtual is not None:
        if virtual.visible_before is not None:
            numbers = jnp.tile(masks.query_numbers(t), (1, h // kv_heads))
        present = _virtual_scores(queries, virtual, scale, softcap, numbers, acc)
        if virtual.mass is not None:
            present = jnp.where(_per_token(virtual.mass, queries, acc) > 0, present, MASKED)
        maximum = jnp.maximum(maximum, jnp.max(present, axis=-1, keepdims=True))

    maximum = jax.lax.stop_gradient(maximum)
    weights = jnp.exp(scores - maximum)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = _drop(weights, dropout, 0)
    sums = _with_values(weights.astype(v.dtype), v, acc)

    if virtual is not None:
        virtual_sums, virtual_total = _of_virtual_tokens(
            queries, virtual, maximum, dropout, numbers, scale, softcap, acc
        )
        sums, total = sums + virtual_sums, total + virtual_total

    # A query that sees nothing has weights 0 and total 0. The maximum ends its gradient; a select in its place would
    # keep XLA from fusing the forward pass on CPU (1.3 times slower).
    total = jnp.maximum(total, TINY)
    o = sums / total
    lse = maximum + jnp.log(total)
    return _tokens_first(o.astype(v.dtype), t), lse[..., 0].transpose(1, 0, 2).reshape(b, h, t)


@functools.partial(jax.checkpoint, static_argnums=(5, 6, 7))
def _of_virtual_tokens(
    queries: Float[Array, "K B N E"],
    virtual: VirtualTokens,
    maximum: Float[Array, "K B N 1"],
    dropout: tuple[Any, Any] | None,
    numbers: Int[Array, "#B N"] | None,
    scale: float,
    softcap: float | None,
    acc: Any,
) -> tuple[Float[Array, "K B N E2"], Float[Array, "K B N 1"]]:
    """What virtual tokens add to the weighted sum of values and to the sum of weights.

    The backward pass computes their scores again: kept, they would be three arrays `[K, B, N, P]` of every layer (the
    scores for the gradient of a gate, the weights for that of the scores, the scaled weights for that of the values).
    """
    weights = _virtual_scores(queries, virtual, scale, softcap, numbers, acc) - maximum
    if virtual.mass is not None:
        # Ordinary tokens are not above the maximum; a query that sees nothing has none, and no token to gain.
        weights = jnp.where(maximum > FLOOR, jnp.minimum(weights, OVERSHOOT), MASKED)
    weights = jnp.exp(weights)
    if virtual.mass is not None:
        weights = weights * _per_token(virtual.mass, queries, acc)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = _drop(weights, dropout, VIRTUAL_COLUMN)
    if virtual.value_scale is not None:
        weights = weights * _per_token(virtual.value_scale, queries, acc)
    return _with_values(weights.astype(virtual.values.dtype), virtual.values, acc), total


def _virtual_scores(
    queries: Float[Array, "K B N E"],
    virtual: VirtualTokens,
    scale: float,
    softcap: float | None,
    numbers: Int[Array, "#B N"] | None,
    acc: Any,
) -> Float[Array, "K B N P"]:
    scores = _with_keys(queries, virtual.keys, acc) * scale
    if virtual.key_scale is not None:
        scores = scores * _per_token(virtual.key_scale, queries, acc)
    scores = _capped(scores, softcap)
    if virtual.visible_before is None or numbers is None:
        return scores
    visible_before = virtual.visible_before.reshape(-1, 1, virtual.length)  # [P] or [B, P] to [1 or B, 1, P]
    return jnp.where(numbers[:, :, None] < visible_before, scores, MASKED)


def _capped(scores: Float[Array, "*S"], softcap: float | None) -> Float[Array, "*S"]:
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def _heads_first(x: Float[Array, "B T H E"], kv_heads: int) -> Float[Array, "K B N E"]:
    b, t, h, e = x.shape
    if h == kv_heads:  # the general form would do, but XLA on CPU copies twice around the axis of length 1
        return x.transpose(2, 0, 1, 3)
    return x.reshape(b, t, kv_heads, h // kv_heads, e).transpose(2, 0, 3, 1, 4).reshape(kv_heads, b, -1, e)


def _tokens_first(x: Float[Array, "K B N E"], t: int) -> Float[Array, "B T H E"]:
    kv_heads, b, n, e = x.shape
    if n == t:
        return x.transpose(1, 2, 0, 3)
    return x.reshape(kv_heads, b, n // t, t, e).transpose(1, 3, 0, 2, 4).reshape(b, t, -1, e)


def _arrange(x: Array, h: int, kv_heads: int) -> Array:
    """[B or 1, H or 1, T or 1, ...] to [K or 1, B or 1, N or 1, ...]."""
    b, heads, t, *rest = x.shape
    if (heads, t) == (1, 1) or heads == h == kv_heads:
        return jnp.moveaxis(x, 0, 1)
    k = 1 if heads == 1 else kv_heads
    grouped = jnp.broadcast_to(x.reshape(b, k, heads // k, t, *rest), (b, k, h // kv_heads, t, *rest))
    return jnp.moveaxis(grouped.reshape(b, k, -1, *rest), 0, 1)


def _per_token(x: Float[Array, "*B P"], queries: Float[Array, "K B N E"], dtype: Any) -> Float[Array, "#B #N P"]:
    """A scale or mass of virtual tokens, ready to meet scores [K, B, N, P]."""
    if x.ndim == 3:  # of each query: the queries of all heads of a group lie one head after another
        return jnp.tile(x.astype(dtype), (1, queries.shape[2] // x.shape[1], 1))
    return x.astype(dtype).reshape(-1 if x.ndim == 2 else 1, 1, x.shape[-1])


def _with_keys(x: Float[Array, "K B N E"], keys: Float[Array, "*B S K E"], acc: Any) -> Float[Array, "K B N S"]:
    return _product("x,yx", x, keys, acc)


def _with_values(x: Float[Array, "K B N S"], values: Float[Array, "*B S K E"], acc: Any) -> Float[Array, "K B N E"]:
    return _product("x,xy", x, values, acc)


def _product(inner: str, x: Float[Array, "K B N I"], y: Array, acc: Any) -> Float[Array, "K B N O"]:
    """`x` with keys or values of its own row (four axes) or of all rows (three), accumulated in `acc`."""
    y = jnp.moveaxis(y.astype(x.dtype), -2, 0)
    batch = "kb" if y.ndim == 4 else "k"
    left, right = inner.split(",")
    # All queries that meet the same matrix lie on one axis. As two axes, rows and queries, they would be contracted
    # together in the gradient of y, and for that XLA transposes both large operands.
    flat = x.reshape(*y.shape[:-2], -1, x.shape[-1])
    equation = f"{batch}n{left},{batch}{right}->{batch}ny"
    return jnp.einsum(equation, flat, y, preferred_element_type=acc).reshape(*x.shape[:-1], -1)


def _drop(
    weights: Float[Array, "K B N S"], dropout: tuple[Any, Any] | None, first_column: int
) -> Float[Array, "K B N S"]:
    if dropout is None:
        return weights
    rate, words = dropout
    kept = keep(words, rate, weights.shape[-1], first_column)
    return jnp.where(kept, weights * inverse_keep(rate, weights.dtype), jnp.zeros((), weights.dtype))
