"""The joint form in plain XLA: one maximum and one sum over real and virtual tokens, one division, no concatenation.

Batched products run heads-first: with tokens before heads they are 1.5 to 3 times slower on CPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxprefix.attention.dropout import VIRTUAL_COLUMN, inverse_keep, keep_mask
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
    (b, t, h, _), (s, kv_heads), e2 = q.shape, k.shape[1:3], v.shape[3]
    acc = jnp.promote_types(q.dtype, jnp.float32)

    def product(equation: str, x: Array, y: Array) -> Array:
        return jnp.einsum(equation, x, y, preferred_element_type=acc)

    # Query heads of one key/value head lie side by side as more queries: N = (H // K) * T.
    queries = q.transpose(0, 2, 1, 3).reshape(b, kv_heads, -1, q.shape[-1])
    scores = product("bkne,bkse->bkns", queries, k.transpose(0, 2, 1, 3)).reshape(b, h, t, s) * scale
    if bias is not None:
        scores = scores + bias.astype(acc)
    if visible is not None:
        scores = jnp.where(visible, scores, MASKED)
    maximum = jnp.max(scores, axis=-1, initial=FLOOR)

    if virtual is not None:
        rows = "b" if virtual.keys.ndim == 4 else ""
        virtual_scores = product(f"bkne,{rows}pke->bknp", queries, virtual.keys.astype(q.dtype))
        virtual_scores = virtual_scores.reshape(b, h, t, virtual.length) * scale
        if virtual.key_scale is not None:
            virtual_scores = virtual_scores * _per_token(virtual.key_scale, acc)
        present = virtual_scores
        if virtual.mass is not None:
            present = jnp.where(_per_token(virtual.mass, acc) > 0, virtual_scores, MASKED)
        maximum = jnp.maximum(maximum, jnp.max(present, axis=-1))

    maximum = jax.lax.stop_gradient(maximum)[..., None]
    weights = jnp.exp(scores - maximum)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if dropout is not None:
        weights = _drop(weights, dropout, 0)
    sums = product("bkns,bkse->bkne", weights.astype(v.dtype).reshape(b, kv_heads, -1, s), v.transpose(0, 2, 1, 3))

    if virtual is not None:
        exponent = virtual_scores - maximum
        if virtual.mass is not None:
            exponent = jnp.minimum(exponent, OVERSHOOT)
        virtual_weights = jnp.exp(exponent)
        if virtual.mass is not None:
            virtual_weights = virtual_weights * _per_token(virtual.mass, acc)
        total = total + jnp.sum(virtual_weights, axis=-1, keepdims=True)
        if dropout is not None:
            virtual_weights = _drop(virtual_weights, dropout, VIRTUAL_COLUMN)
        if virtual.value_scale is not None:
            virtual_weights = virtual_weights * _per_token(virtual.value_scale, acc)
        rows = "b" if virtual.values.ndim == 4 else ""
        virtual_weights = virtual_weights.astype(v.dtype).reshape(b, kv_heads, -1, virtual.length)
        sums = sums + product(f"bknp,{rows}pke->bkne", virtual_weights, virtual.values.astype(v.dtype))

    # A query that sees nothing has total 0; the guarded value keeps its gradients finite.
    some = total > 0
    safe = jnp.where(some, total, 1)
    o = (sums.reshape(b, h, t, e2) / safe).astype(v.dtype).transpose(0, 2, 1, 3)
    lse = jnp.where(some, maximum + jnp.log(safe), FLOOR)[..., 0]
    return o, lse


def _per_token(x: Array, dtype: Any) -> Float[Array, "#B 1 1 P"]:
    """A scale or mass [P] or [B, P], ready to meet scores [B, H, T, P]."""
    return x.astype(dtype).reshape(-1 if x.ndim == 2 else 1, 1, 1, x.shape[-1])


def _drop(weights: Float[Array, "B H T S"], dropout: tuple[Any, Any], first_column: int) -> Float[Array, "B H T S"]:
    rate, key = dropout
    keep = keep_mask(key, rate, weights.shape, first_column)
    return jnp.where(keep, weights * inverse_keep(rate, weights.dtype), jnp.zeros((), weights.dtype))
