"""Decoding with a cache: one pass over the prompts, then one token at a time in a compiled loop.

Only real tokens are in the cache; the edits, prefixes among them, are made once and shared by all steps.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.errors import UserError
from jaxprefix.generation.beams import beam_search
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.sampling import is_stop, sample
from jaxprefix.models.batch_keys import read_attention_mask
from jaxprefix.models.cache import Cache
from jaxprefix.models.stack import should_unroll
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree, merge

Forward = Callable[[Tree, Any], tuple[Float[Array, "B V"], Any]]
"""From a batch and a cache to the logits behind each row's last token, and the cache with the batch in it."""


class Generated(NamedTuple):
    """New tokens.

    Attributes:
      tokens: int32 `[B, N]`, the pad id behind each row's end.
      lengths: int32 `[B]`, how many of them are the row's own, a stop token included.
      scores: float32 `[B]`, the sum of their log-probabilities; of a beam over the length to the `length_penalty`.
    """

    tokens: Int[Array, "B N"]
    lengths: Int[Array, "B"]
    scores: Float[Array, "B"]


def generate(
    model: TunedModel,
    trainable: Tree,
    frozen: Tree,
    batch: Mapping[str, Any],
    decoding: Decoding | None = None,
    key: Array | None = None,
) -> Generated:
    """Continues every row of a batch; compiled once per shape of the batch and `Decoding`.

    Args:
      model: a decoder with a `CausalLM` head.
      trainable: from `model.init`, or trained since.
      frozen: from `model.init`.
      batch: `input_ids` int `[B, T]`; `attention_mask` bool `[B, T]` with padding on the left, all real when absent;
        `token_type_ids` int `[B, T]` may be there, and new tokens then have the type of their row's last one.
      decoding: how; None for 40 greedy tokens.
      key: a typed key, needed where tokens are drawn; row i draws from `fold_in(key, i)`.

    Raises:
      UserError: no decoder, padding on the right, rows that the positions cannot serve, or what `Decoding` refuses.
    """
    decoding = Decoding() if decoding is None else decoding
    batch = _checked(model, trainable, frozen, batch, decoding, key)
    return _generate(model, decoding, trainable, frozen, batch, key)


def stream(
    model: TunedModel,
    trainable: Tree,
    frozen: Tree,
    batch: Mapping[str, Any],
    decoding: Decoding | None = None,
    key: Array | None = None,
) -> Iterator[np.ndarray]:
    """As `generate`, but gives the tokens `[B]` of each step as soon as they are known; without a beam."""
    decoding = Decoding() if decoding is None else decoding
    if decoding.beams > 1:
        raise UserError("a beam knows its tokens only at the end; set beams=1 to have them one by one.")
    batch = _checked(model, trainable, frozen, batch, decoding, key)
    state, cache = _first(model, decoding, trainable, frozen, batch, key)
    for step in range(1, decoding.max_new_tokens + 1):
        yield np.asarray(state.tokens[:, step - 1])
        if step == decoding.max_new_tokens or bool(state.finished.all()):
            return
        state, cache = _next(model, decoding, trainable, frozen, state, cache)


class State(NamedTuple):
    """What goes from step to step beside the cache.

    Attributes:
      step: how many tokens each row has.
      tokens: `[B, N]`.
      lengths, scores: as in `Generated`, so far.
      finished: whether a row has met a stop token.
      keys: one per row, or None where nothing is drawn.
      types: `[B, 1]`, the token type of new tokens, or None.
    """

    step: Int[Array, ""]
    tokens: Int[Array, "B N"]
    lengths: Int[Array, "B"]
    scores: Float[Array, "B"]
    finished: Array
    keys: Any
    types: Any


def make_forward(model: TunedModel, trainable: Tree, frozen: Tree) -> Forward:
    """The model with its edits made once, and its layers taken apart once."""
    edits, layers = model.edits(trainable), None
    if unrolled(model):
        stack = merge(frozen["backbone"], trainable.get("backbone", {}))["layers"]
        layers = unstack(stack, model.backbone.dims.layers)

    def forward(batch: Tree, cache: Cache) -> tuple[Array, Cache]:
        out = model.forward(trainable, frozen, batch, edits=edits, cache=cache, last=True, layers=layers)
        assert out.logits is not None and out.cache is not None  # there is a `CausalLM`, and a cache to fill
        return out.logits[:, 0], out.cache

    return forward


def unstack(stack: Tree, layers: int) -> tuple[Tree, ...]:
    """The leaves of each layer out of their stack, once: taken out inside a loop they would be copied at every step,
    and without the barrier XLA moves that there."""
    return tuple(
        jax.lax.optimization_barrier(jax.tree.map(lambda leaf: leaf[index], stack))  # noqa: B023
        for index in range(layers)
    )


def empty_cache(model: TunedModel, trainable: Tree, batch: Tree, decoding: Decoding) -> Cache:
    """For the prompts and all new tokens but the last, which nothing follows."""
    rows, columns = batch["input_ids"].shape
    prompt = model.edits(trainable).prompt
    columns += decoding.max_new_tokens - 1 + (0 if prompt is None else prompt.shape[0])
    return Cache.empty(model.backbone.dims, rows, columns, model.backbone.dtype, unrolled(model))


def unrolled(model: TunedModel) -> bool:
    """Whether the backbone's layers are a Python loop."""
    return should_unroll(model.backbone.unroll, model.backbone.dims.layers)


def start(forward: Forward, cache: Any, batch: Tree, decoding: Decoding, key: Array | None) -> tuple[State, Any]:
    """The prompts into the cache, and the first token of every row."""
    logits, cache = forward(batch, cache)
    rows = logits.shape[0]
    keys = None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
    tokens, scores = sample(logits, decoding, keys, 0)
    made = jnp.full((rows, decoding.max_new_tokens), decoding.pad, jnp.int32).at[:, 0].set(tokens)
    types = batch["token_type_ids"][:, -1:] if "token_type_ids" in batch else None
    ones = jnp.ones(rows, jnp.int32)
    return State(jnp.ones((), jnp.int32), made, ones, scores, is_stop(tokens, decoding), keys, types), cache


def advance(forward: Forward, state: State, cache: Any, decoding: Decoding) -> tuple[State, Any]:
    """One more token for every row that has not ended."""
    last = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, axis=1)
    batch = {"input_ids": last, **({} if state.types is None else {"token_type_ids": state.types})}
    logits, cache = forward(batch, cache)
    tokens, scores = sample(logits, decoding, state.keys, state.step)
    tokens = jnp.where(state.finished, decoding.pad, tokens)
    return state._replace(
        step=state.step + 1,
        tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, tokens[:, None], state.step, axis=1),
        lengths=state.lengths + ~state.finished,
        scores=state.scores + jnp.where(state.finished, 0, scores),
        finished=state.finished | is_stop(tokens, decoding),
    ), cache


def decode(forward: Forward, cache: Any, batch: Tree, decoding: Decoding, key: Array | None) -> Generated:
    """The whole of it: prompts, then tokens until all rows have ended or N are made."""
    state, cache = start(forward, cache, batch, decoding, key)

    def going(carry: tuple[State, Any]) -> Array:
        return (carry[0].step < decoding.max_new_tokens) & ~carry[0].finished.all()

    state, _ = jax.lax.while_loop(going, lambda carry: advance(forward, *carry, decoding), (state, cache))
    return Generated(state.tokens, state.lengths, state.scores)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(
    model: TunedModel, decoding: Decoding, trainable: Tree, frozen: Tree, batch: Tree, key: Array | None
) -> Generated:
    forward, cache = make_forward(model, trainable, frozen), empty_cache(model, trainable, batch, decoding)
    if decoding.beams > 1:
        return Generated(*beam_search(forward, cache, batch, decoding))
    return decode(forward, cache, batch, decoding, key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _first(model: TunedModel, decoding: Decoding, trainable: Tree, frozen: Tree, batch: Tree, key: Array | None) -> Any:
    cache = empty_cache(model, trainable, batch, decoding)
    return start(make_forward(model, trainable, frozen), cache, batch, decoding, key)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4, 5))
def _next(model: TunedModel, decoding: Decoding, trainable: Tree, frozen: Tree, state: State, cache: Cache) -> Any:
    return advance(make_forward(model, trainable, frozen), state, cache, decoding)


def _checked(
    model: TunedModel, trainable: Tree, frozen: Tree, batch: Mapping[str, Any], decoding: Decoding, key: Array | None
) -> Tree:
    """The columns that decoding reads; refuses what cannot be decoded."""
    if not model.backbone.config.causal or model.head is None or not model.head.writes:
        raise UserError("text is made by a decoder with a CausalLM head; take such a backbone and head.")
    if decoding.draws and key is None:
        raise UserError("tokens are drawn at random; give a key, as in key=jax.random.key(0), or set temperature=0.")
    edits, dims = jax.eval_shape(model.edits, trainable), model.backbone.dims
    decoding.check(dims.vocab + (0 if edits.words is None else edits.words.shape[0]))
    model.check_inputs(trainable, frozen, batch)
    if "segment_ids" in batch:
        raise UserError("the batch has segment_ids, and text is written behind one prompt per row; set packed=False.")
    ids = batch["input_ids"]
    mask = np.asarray(read_attention_mask(batch))
    if not mask[:, -1].all():
        raise UserError("the prompts of a batch end in different columns; put the padding on the left.")
    longest = int(mask.sum(1).max())
    needed = longest + decoding.max_new_tokens - 1 + edits.positions
    if needed > dims.positions:
        raise UserError(
            f"a prompt of {longest} tokens, {decoding.max_new_tokens} new ones and {edits.positions} positions of "
            f"virtual tokens need {needed} positions, but the backbone has {dims.positions}; shorten the prompt or "
            "lower max_new_tokens."
        )
    types = {"token_type_ids": jnp.asarray(batch["token_type_ids"])} if "token_type_ids" in batch else {}
    return {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask), **types}
