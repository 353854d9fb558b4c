"""From the logits of the next token to the token."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.generation.decoding import Decoding


def log_probabilities(logits: Float[Array, "*B V"], decoding: Decoding, step: Int[Array, ""] | int) -> Array:
    """`[..., V]`, float32 or wider: the model's log-probabilities, minus infinity where a token may not come now."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    barred = jnp.zeros(log_p.shape[-1], bool)
    if decoding.forbidden:
        barred = barred.at[jnp.array(decoding.forbidden)].set(True)
    if decoding.stops and decoding.min_new_tokens:
        stops = jnp.zeros(log_p.shape[-1], bool).at[jnp.array(decoding.stops)].set(True)
        barred = barred | (stops & (step < decoding.min_new_tokens))
    return jnp.where(barred, -jnp.inf, log_p)


def filter_logits(log_p: Float[Array, "*B V"], decoding: Decoding) -> Float[Array, "*B V"]:
    """The logits that tokens are drawn from: temperature, then `top_k`, then `top_p`, in this order."""
    logits = log_p / decoding.temperature
    if decoding.top_k is not None and decoding.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, decoding.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if decoding.top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        p = jax.nn.softmax(ordered)
        kept = jnp.cumsum(p, axis=-1) - p < decoding.top_p  # what comes before a token has not reached the share yet
        least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def sample(
    logits: Float[Array, "B V"], decoding: Decoding, keys: Any, step: Int[Array, ""] | int
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next token of each row and its log-probability. `keys` are one typed key per row, where tokens are drawn."""
    log_p = log_probabilities(logits, decoding, step)
    if decoding.draws:
        draw = lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row)  # noqa: E731
        tokens = jax.vmap(draw)(keys, filter_logits(log_p, decoding))
    else:
        tokens = jnp.argmax(log_p, axis=-1)
    return tokens.astype(jnp.int32), jnp.take_along_axis(log_p, tokens[:, None], axis=-1)[:, 0]


def is_stop(tokens: Int[Array, "*B"], decoding: Decoding) -> Array:
    """Whether each token ends its text."""
    if not decoding.stops:
        return jnp.zeros(tokens.shape, bool)
    return jnp.isin(tokens, jnp.array(decoding.stops))
