"""Beam search, with the rules of Hugging Face's `generate` at its defaults, so that both find the same texts.

Of each row n running beams are kept, and n finished ones. At each step the 2 n best continuations (more with several
stop tokens) are looked at: those among the first n that have just ended may enter the finished ones, by their sum of
log-probabilities over `length^length_penalty`; the best that go on are the new running beams. A row is closed when its
best running beam, scored at its present length, is not above its worst finished one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.sampling import is_stop, log_probabilities
from jaxprefix.models.cache import Cache
from jaxprefix.trees import Tree

NEVER = -1e9  # added to the score of what may not be chosen


class Beams(NamedTuple):
    """The state of the search, `n` being the width.

    Attributes:
      step: tokens that every running beam has.
      running: tokens `[B, n, N]`.
      scores: their sums of log-probabilities `[B, n]`.
      done, done_scores, done_lengths: the finished ones, best first, their scores with the length penalty.
      is_done: whether a place of `done` is taken.
      open: whether a row can still improve.
      going: whether any continuation is left that has not ended.
    """

    step: Int[Array, ""]
    running: Int[Array, "B n N"]
    scores: Float[Array, "B n"]
    done: Int[Array, "B n N"]
    done_scores: Float[Array, "B n"]
    done_lengths: Int[Array, "B n"]
    is_done: Bool[Array, "B n"]
    open: Bool[Array, "B"]
    going: Bool[Array, ""]


def beam_search(
    forward: Callable[[Tree, Cache], tuple[Array, Cache]], cache: Cache, batch: Tree, decoding: Decoding
) -> tuple[Int[Array, "B N"], Int[Array, "B"], Float[Array, "B"]]:
    """The best text of every row: tokens, lengths, scores. `forward` is as in `loop.py`."""
    logits, cache = forward(batch, cache)
    rows, n = logits.shape[0], decoding.beams
    blank = jnp.full((rows, n, decoding.max_new_tokens), decoding.pad, jnp.int32)
    first_alone = jnp.where(jnp.arange(n) == 0, 0.0, NEVER)  # all beams are equal before the first token
    beams = Beams(
        step=jnp.zeros((), jnp.int32),
        running=blank,
        scores=jnp.broadcast_to(first_alone, (rows, n)),
        done=blank,
        done_scores=jnp.full((rows, n), NEVER),
        done_lengths=jnp.zeros((rows, n), jnp.int32),
        is_done=jnp.zeros((rows, n), bool),
        open=jnp.ones(rows, bool),
        going=jnp.ones((), bool),
    )
    cache = cache.of_rows(jnp.repeat(jnp.arange(rows), n))
    types = jnp.repeat(batch["token_type_ids"][:, -1:], n, axis=0) if "token_type_ids" in batch else None
    beams, origin = _select(beams, jnp.repeat(logits[:, None], n, axis=1), decoding)

    def body(carry: tuple[Beams, Array, Cache]) -> tuple[Beams, Array, Cache]:
        beams, origin, cache = carry
        cache = cache.of_rows((jnp.arange(rows)[:, None] * n + origin).reshape(-1))
        last = jax.lax.dynamic_slice_in_dim(beams.running, beams.step - 1, 1, axis=2).reshape(rows * n, 1)
        column = {"input_ids": last, **({} if types is None else {"token_type_ids": types})}
        logits, cache = forward(column, cache)
        return *_select(beams, logits.reshape(rows, n, -1), decoding), cache

    def going(carry: tuple[Beams, Array, Cache]) -> Array:
        beams = carry[0]
        return (beams.step < decoding.max_new_tokens) & beams.going & beams.open.any()

    beams, _, _ = jax.lax.while_loop(going, body, (beams, origin, cache))
    return beams.done[:, 0], beams.done_lengths[:, 0], beams.done_scores[:, 0]


def _select(beams: Beams, logits: Float[Array, "B n V"], decoding: Decoding) -> tuple[Beams, Int[Array, "B n"]]:
    """One step of the search, and which running beam each new one continues."""
    rows, n, vocab = logits.shape
    total = beams.scores[:, :, None] + log_probabilities(logits, decoding, beams.step)
    kept = min(max(2, 1 + len(decoding.stops)) * n, n * vocab)
    best, index = jax.lax.top_k(total.reshape(rows, -1), kept)
    origin, tokens = index // vocab, (index % vocab).astype(jnp.int32)
    texts = jnp.take_along_axis(beams.running, origin[:, :, None], axis=1)
    texts = jax.lax.dynamic_update_slice_in_dim(texts, tokens[:, :, None], beams.step, axis=2)
    length = beams.step + 1
    ended = is_stop(tokens, decoding) | (length == decoding.max_new_tokens)

    _, onward = jax.lax.top_k(best + NEVER * ended, n)
    take = lambda x: jnp.take_along_axis(x, onward if x.ndim == 2 else onward[:, :, None], axis=1)  # noqa: E731

    finishing = ended & (jnp.arange(kept) < n) & beams.open[:, None]
    scores = jnp.where(finishing, best / length.astype(best.dtype) ** decoding.length_penalty, NEVER)
    merged = jnp.concatenate([beams.done_scores, scores], axis=1)
    done_scores, order = jax.lax.top_k(merged, n)

    def among(old: Array, new: Array) -> Array:
        both = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(both, order if both.ndim == 2 else order[:, :, None], axis=1)

    running_scores = take(best + NEVER * ended)
    is_done = among(beams.is_done, finishing)
    possible = running_scores[:, :1] / length.astype(best.dtype) ** decoding.length_penalty
    worst = jnp.where(is_done, done_scores.min(axis=1, keepdims=True), NEVER)
    return Beams(
        step=length,
        running=take(texts),
        scores=running_scores,
        done=among(beams.done, texts),
        done_scores=done_scores,
        done_lengths=among(beams.done_lengths, jnp.broadcast_to(length, ended.shape)),
        is_done=is_done,
        open=beams.open & (possible > worst).any(axis=1),
        going=~ended.all(),
    ), take(origin)
