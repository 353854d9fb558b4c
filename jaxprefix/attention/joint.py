"""The joint form in plain XLA: one maximum and one sum over real and virtual tokens, one division, no concatenation.

Inside, arrays are heads-first, [K, B, G, T, ...] with G = H // K query heads per key/value head. Batched products with
tokens before heads are 1.5 to 3 times slower on CPU; with heads before rows, a prefix shared by all rows is one
product of all their queries with [P, E] per head, so that it is neither copied nor transposed around.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxprefix.attention.dropout import VIRTUAL_COLUMN, inverse_keep, keep, row_words
from jaxprefix.attention.virtual_tokens import VirtualTokens

MASKED = -1e30  # the score of a token that is not seen
FLOOR = MASKED / 2  # no maximum is below this, so that exp(MASKED - maximum) is exactly 0
OVERSHOOT = 30.0  # how far a massless token's score may exceed the maximum in the exponent


def attend(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S K E"],
    v: Float[Array, "B S K E2"],
    *,
    virtual: VirtualTokens | None,
    visible: Bool[Array, "#B 1 #T S"] | None,
    bias: Float[Array, "#B #H #T #S"] | None,
    scale: float,
    dropout: tuple[Any, Any] | None,
) -> tuple[Float[Array, "B T H E2"], Float[Array, "B H T"]]:
    """See `kernel_attention`; shapes are checked there, and `visible` is all masks together."""
    (b, t, h, _), kv_heads = q.shape, k.shape[2]
    acc = jnp.promote_types(q.dtype, jnp.float32)
    queries = _heads_first(q, kv_heads)
    if dropout is not None:
        dropout = dropout[0], tuple(_arrange(words, kv_heads) for words in row_words(dropout[1], (b, h, t)))

    scores = _with_keys(queries, k, acc) * scale
    if bias is not None:
        scores = scores + _arrange(bias, kv_heads).astype(acc)
    if visible is not None:
        scores = jnp.where(_arrange(visible, kv_heads), scores, MASKED)
    maximum = jnp.max(scores, axis=-1, keepdims=True, initial=FLOOR)

    if virtual is not None:
        virtual_scores = _with_keys(queries, virtual.keys, acc) * scale
        if virtual.key_scale is not None:
            virtual_scores = virtual_scores * _per_token(virtual.key_scale, acc)
        present = virtual_scores
        if virtual.mass is not None:
            present = jnp.where(_per_token(virtual.mass, acc) > 0, virtual_scores, MASKED)
        maximum = jnp.maximum(maximum, jnp.max(present, axis=-1, keepdims=True))

    maximum = jax.lax.stop_gradient(maximum)
    weights = jnp.exp(scores - maximum)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = _drop(weights, dropout, 0)
    sums = _with_values(weights.astype(v.dtype), v, acc)

    if virtual is not None:
        exponent = virtual_scores - maximum
        if virtual.mass is None:
            virtual_weights = jnp.exp(exponent)
        else:
            virtual_weights = jnp.exp(jnp.minimum(exponent, OVERSHOOT)) * _per_token(virtual.mass, acc)
        total = total + jnp.sum(virtual_weights, axis=-1, keepdims=True)
        virtual_weights = _drop(virtual_weights, dropout, VIRTUAL_COLUMN)
        if virtual.value_scale is not None:
            virtual_weights = virtual_weights * _per_token(virtual.value_scale, acc)
        sums = sums + _with_values(virtual_weights.astype(v.dtype), virtual.values, acc)

    # A query that sees nothing has total 0: its output is 0, and so is what flows back through it.
    some = total > 0
    total = jnp.where(some, total, 1)
    o = sums * jnp.where(some, 1 / total, 0)
    lse = jnp.where(some, maximum + jnp.log(total), FLOOR)
    return _tokens_first(o.astype(v.dtype)), lse[..., 0].transpose(1, 0, 2, 3).reshape(b, h, t)


def _heads_first(x: Float[Array, "B T H E"], kv_heads: int) -> Float[Array, "K B G T E"]:
    b, t, h, e = x.shape
    return x.reshape(b, t, kv_heads, h // kv_heads, e).transpose(2, 0, 3, 1, 4)


def _tokens_first(x: Float[Array, "K B G T E"]) -> Float[Array, "B T H E"]:
    kv_heads, b, groups, t, e = x.shape
    return x.transpose(1, 3, 0, 2, 4).reshape(b, t, kv_heads * groups, e)


def _arrange(x: Array, kv_heads: int) -> Array:
    """[B or 1, H or 1, ...] to [K or 1, B or 1, G or 1, ...]."""
    kv_heads = kv_heads if x.shape[1] > 1 else 1
    return jnp.moveaxis(x.reshape(x.shape[0], kv_heads, x.shape[1] // kv_heads, *x.shape[2:]), 0, 1)


def _per_token(x: Float[Array, "*B P"], dtype: Any) -> Float[Array, "#B 1 1 P"]:
    """A scale or mass of virtual tokens, ready to meet scores [K, B, G, T, P]."""
    return x.astype(dtype).reshape(-1 if x.ndim == 2 else 1, 1, 1, x.shape[-1])


def _with_keys(x: Float[Array, "K B G T E"], keys: Float[Array, "*B S K E"], acc: Any) -> Float[Array, "K B G T S"]:
    return _product("x,yx", x, keys, acc)


def _with_values(x: Float[Array, "K B G T S"], values: Float[Array, "*B S K E"], acc: Any) -> Float[Array, "K B G T E"]:
    return _product("x,xy", x, values, acc)


def _product(inner: str, x: Array, y: Array, acc: Any) -> Array:
    """`x` with keys or values of its own row (four axes) or of all rows (three), accumulated in `acc`."""
    y = jnp.moveaxis(y.astype(x.dtype), -2, 0)
    batch = "kb" if y.ndim == 4 else "k"
    left, right = inner.split(",")
    # All queries that meet the same matrix lie on one axis n. As two axes, rows and queries, they would be contracted
    # together in the gradient of y, and for that XLA transposes both large operands.
    flat = x.reshape(*y.shape[:-2], -1, x.shape[-1])
    equation = f"{batch}n{left},{batch}{right}->{batch}ny"
    return jnp.einsum(equation, flat, y, preferred_element_type=acc).reshape(*x.shape[:-1], -1)


def _drop(
    weights: Float[Array, "K B G T S"], dropout: tuple[Any, Any] | None, first_column: int
) -> Float[Array, "K B G T S"]:
    if dropout is None:
        return weights
    rate, words = dropout
    kept = keep(words, rate, weights.shape[-1], first_column)
    return jnp.where(kept, weights * inverse_keep(rate, weights.dtype), jnp.zeros((), weights.dtype))
