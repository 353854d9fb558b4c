"""The oracle: virtual tokens are copied per row, scaled, concatenated before the real ones; slow and obvious."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxprefix.attention.biases import Bias, dense_bias
from jaxprefix.attention.dropout import VIRTUAL_COLUMN, inverse_keep, keep_mask
from jaxprefix.attention.masks import MaskStructure
from jaxprefix.attention.virtual_tokens import VirtualTokens


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
    (rows, t, h, _), s = q.shape, k.shape[1]
    visible, bias = masks.dense(t, s), dense_bias(bias, q, k, masks)
    acc = jnp.promote_types(q.dtype, jnp.float32)
    p = 0 if virtual is None else virtual.length
    keys, values, mass = k.astype(acc), v.astype(acc), jnp.ones((rows, p + s), acc)
    if virtual is not None:
        keys = jnp.concatenate([_scaled(virtual.keys, virtual.key_scale, rows, acc), keys], axis=1)
        values = jnp.concatenate([_scaled(virtual.values, virtual.value_scale, rows, acc), values], axis=1)
        if virtual.mass is not None:
            mass = mass.at[:, :p].set(virtual.mass.astype(acc))
    # a key scale of each query changes the scores, its value scale the weights that meet the values
    own = jnp.ones((2, rows, t, p + s), acc)
    if virtual is not None:
        for index, by in enumerate((virtual.key_scale, virtual.value_scale)):
            own = own if by is None or by.ndim < 3 else own.at[index, :, :, :p].set(by.astype(acc))
    keys, values = (jnp.repeat(x, h // k.shape[2], axis=2) for x in (keys, values))
    mass = jnp.broadcast_to(mass[:, None, None, :], (rows, h, t, p + s))

    scores = scale * jnp.einsum("bthe,bshe->bhts", q.astype(acc), keys) * own[0, :, None]
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores.at[..., p:].add(bias.astype(acc))
    seen = jnp.ones((rows, h, t, p + s), bool)
    if visible is not None:
        seen = seen.at[..., p:].set(visible)
    if virtual is not None and virtual.visible_before is not None:
        visible_before = virtual.visible_before.reshape(-1, 1, 1, p)
        seen = seen.at[..., :p].set(masks.query_numbers(t)[:, None, :, None] < visible_before)
    seen = seen & (scores > -5e29)

    # exp(-inf) and its gradient are avoided by replacing what is not seen before the exponential.
    scores = jnp.where(seen, scores, 0)
    maximum = jnp.max(jnp.where(seen & (mass > 0), scores, -jnp.inf), axis=-1, keepdims=True)
    maximum = jax.lax.stop_gradient(jnp.where(jnp.isfinite(maximum), maximum, 0))
    weights = jnp.where(seen, mass * jnp.exp(jnp.minimum(scores - maximum, 30.0)), 0)
    total = weights.sum(-1, keepdims=True)
    some = total > 0
    probabilities = jnp.where(some, weights / jnp.where(some, total, 1), 0)
    if dropout is not None:
        rate, key = dropout
        keep = jnp.concatenate(
            [keep_mask(key, rate, (rows, h, t, p), VIRTUAL_COLUMN), keep_mask(key, rate, (rows, h, t, s))], axis=-1
        )
        probabilities = jnp.where(keep, probabilities * inverse_keep(rate, acc), 0)
    o = jnp.einsum("bhts,bshe->bthe", probabilities * own[1, :, None], values).astype(v.dtype)
    lse = jnp.where(some, maximum + jnp.log(jnp.where(some, total, 1)), -5e29)[..., 0]
    return o, lse


def _scaled(x: Array, by: Array | None, rows: int, dtype: Any) -> Float[Array, "B P K E"]:
    """`by * x`, one copy per row."""
    x = jnp.broadcast_to(x.astype(dtype), (rows, *x.shape[-3:]))
    if by is None or by.ndim == 3:
        return x
    return x * jnp.broadcast_to(by.astype(dtype), (rows, by.shape[-1]))[:, :, None, None]
