"""GPT-2 (Radford et al. 2019) and the Llama family (Touvron et al. 2023): causal decoders over the layer stack.

What sets the members of the family apart (norms, biases, rotation, windows, soft caps) is in `DecoderConfig`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.attention import dropout
from jaxprefix.attention.operation import DEFAULT
from jaxprefix.distributed.constraints import constrain, kernel_axes, look_up
from jaxprefix.edits import BUILT_RATES, NO_EDITS, Context, Dims, Edits, Rates, Tokens, check_stacked
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.errors import UserError
from jaxprefix.models.batch_keys import read_attention_mask, read_segment_ids
from jaxprefix.models.cache import Cache
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder import (
    ATTENTION_OUTPUT,
    ATTENTION_WEIGHTS,
    EDITS,
    MLP_OUTPUT,
    Encoded,
    check_positions,
    edit_keys,
)
from jaxprefix.models.encoder_config import ACTIVATIONS
from jaxprefix.models.linear import LayerNorm, Linear, RMSNorm
from jaxprefix.models.reading import KeysValues, cached_keys_and_values
from jaxprefix.models.rope import Turns, rotate, turns
from jaxprefix.models.self_attention import self_attention
from jaxprefix.models.stack import Remat, chosen_remat, run_layers, should_unroll, stacked_params


def make_norm(config: DecoderConfig, name: str) -> nn.Module:
    """The norm of this name."""
    if config.norm == "layer":
        return LayerNorm(config.norm_eps, name=name)
    return RMSNorm(config.norm_eps, config.norm_offset, name=name)


class DecoderLayer(nn.Module):
    """One pre-norm layer: `a = x + o(attention(norm(x)))`, `y = a + mlp(norm(a))`."""

    config: DecoderConfig
    dims: Dims
    dtype: Any = jnp.float32
    attention: str = DEFAULT

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        edits: tuple,
        ctx: Context,
        keys: Any = None,
        capture: bool = False,
        by: Turns | None = None,
        recall: Callable[[Array, Array], tuple[Array, Array]] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[dict[str, Array], ...] | None]:
        """The layer's output, and under `capture` what its edits show.

        `keys` are one for each random part and edit, needed when training; `by` is the rotation of this layer's kind;
        `recall` as in `attention_block`.
        """
        config, rates = self.config, ctx.rates
        hooks = LayerHooks(edits, ctx, edit_keys(keys))
        hidden_rate = config.hidden_dropout if rates.hidden is None else rates.hidden
        biased = dict.fromkeys("qkv", config.qkv_bias) | {"o": config.output_bias}

        def linear(name: str, z: Array) -> Array:
            bias = biased.get(name, config.mlp_bias)
            features = self.dims.maps[name][1]
            made = Linear(features, self.dtype, config.initializer_range, bias, kernel_axes(name, self.dims), name=name)
            return made(z, hooks)

        def drop(f: Array, place: int) -> Array:
            return dropout(f, hidden_rate, keys[place]) if ctx.training else f

        def prepare(name: str, y: Array) -> Array:
            if name == "v":
                return y
            if config.head_norms:
                y = make_norm(config, f"{name}_norm")(y)
            if by is not None:
                y = rotate(y, by)
            if name == "q" and config.query_scale is not None:  # so that scores are scaled by 1/sqrt(E) everywhere
                y = y * jnp.asarray(config.query_scale * config.head_width**0.5, y.dtype)
            return y

        weights = (ctx.attention_rate(config.attention_dropout), keys[ATTENTION_WEIGHTS]) if ctx.training else None
        a, seen = self_attention(
            *(make_norm(config, "attention_norm")(x), linear, hooks, ctx, self.dims),
            h=x,
            prepare=prepare,
            recall=recall,
            dropout=weights,
            capture=capture,
            implementation=self.attention,
        )
        if config.post_norms:
            a = make_norm(config, "attention_post_norm")(a)
        x = x + drop(a, ATTENTION_OUTPUT)
        z, activate = make_norm(config, "mlp_norm")(x), ACTIVATIONS[config.activation]
        inner = activate(linear("gate", z)) * linear("up", z) if config.gated_mlp else activate(linear("up", z))
        f = hooks.after_mlp(z, linear("down", constrain(inner, "rows", None, "tp")))
        if config.post_norms:
            f = make_norm(config, "mlp_post_norm")(f)
        y = hooks.after_block(x + hooks.after_mlp_dropout(z, drop(f, MLP_OUTPUT)))
        return constrain(y, "rows", None, None), seen


def prompt_order(mask: Bool[Array, "B T"], prompt: int) -> Int[Array, "B T2"]:
    """Where each column comes from so that a prompt, put before all columns, stands right before a row's text: behind
    its padding on the left, of which sliding windows would count the columns."""
    before = jnp.argmax(mask, axis=1)[:, None]
    column = jnp.broadcast_to(jnp.arange(prompt + mask.shape[1]), (mask.shape[0], prompt + mask.shape[1]))
    shifted = jnp.where(column < before, column + prompt, column - before)
    return jnp.where(column < before + prompt, shifted, column)


class Embeddings(nn.Module):
    """Word embeddings, perhaps with learned positions."""

    config: DecoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "B T"],
        positions: Int[Array, "B T2"],
        types: Int[Array, "B T"] | None = None,
        prompt: Float[Array, "P D"] | None = None,
        words: Float[Array, "N D"] | None = None,
        order: Int[Array, "B T2"] | None = None,
    ) -> Float[Array, "B T2 D"]:
        """Prompt and words together in the columns that `order` says; `positions` are those of both."""
        config, normal = self.config, nn.initializers.normal(self.config.initializer_range)
        table = nn.Embed(config.vocab, config.width, dtype=self.dtype, embedding_init=normal, name="word")

        def embed(ids: Array) -> Array:
            old = ids if words is None else jnp.minimum(ids, config.vocab - 1)
            rows = look_up(table, old) * jnp.asarray(config.embedding_scale, self.dtype)
            if words is None:
                return rows
            new = words.at[ids - config.vocab].get(mode="fill", fill_value=jnp.nan).astype(self.dtype)
            return jnp.where((ids >= config.vocab)[..., None], new, rows)

        h = embed(ids)
        if types is not None:
            h = h + embed(types)
        if prompt is not None:
            assert order is not None  # it comes with a prompt
            rows = jnp.broadcast_to(prompt.astype(h.dtype), (h.shape[0], *prompt.shape))
            h = jnp.take_along_axis(jnp.concatenate([rows, h], axis=1), order[:, :, None], axis=1)
        if config.rope is not None:
            return h
        last = config.positions - 1  # padding may lie beyond; nobody sees it, but a gather out of range would give NaN
        positions = jnp.minimum(positions, last)
        return h + nn.Embed(config.positions, config.width, dtype=self.dtype, embedding_init=normal, name="position")(
            positions
        )


class Decoder(nn.Module):
    """A causal decoder.

    Attributes:
      config: sizes, constants and rates.
      dtype: the compute dtype.
      unroll, remat, attention: see `Encoder`.
    """

    config: DecoderConfig
    dtype: Any = jnp.float32
    unroll: bool | None = None
    remat: Remat | None = None
    attention: str = DEFAULT

    parts: ClassVar[tuple[str, ...]] = ("embeddings", "layers", "norm")

    @property
    def dims(self) -> Dims:
        """The sizes that methods are built from."""
        return self.config.dims

    def keys_and_values(self, params: Any, ids: Int[Array, "P"]) -> KeysValues:
        """Keys and values of P tokens of one row, from position 0 on, as they enter the attention, float32."""
        return cached_keys_and_values(self, params, ids)

    @nn.compact
    def __call__(
        self,
        batch: Mapping[str, Array],
        edits: Edits = NO_EDITS,
        *,
        key: Array | None = None,
        training: bool = False,
        capture: bool = False,
        rates: Rates = BUILT_RATES,
        cache: Cache | None = None,
        layers: tuple | None = None,
    ) -> Encoded:
        """Hidden states of a batch, behind the last norm.

        Args:
          batch: `input_ids` int `[B, T]`; `attention_mask` bool `[B, T]`, True for real tokens, all when absent,
            padding on either side; `token_type_ids` int `[B, T]`, vocabulary ids whose embeddings are added, none when
            absent; `segment_ids` int `[B, T]` where several examples share a row: 0 for padding, else the number of the
            example.
          edits: what the methods do.
          key: a typed key for dropout; needed when training.
          training: whether dropout applies.
          capture: whether to return every layer's output and what the edits show.
          rates: dropout rates in place of the configured ones.
          cache: what was seen before this batch, or an empty one to be filled; the result holds it with this batch.
          layers: the leaves of each layer, each without the axis of layers; None takes them out of the stack here.
        """
        ids = batch["input_ids"]
        mask = read_attention_mask(batch)
        segment_ids = read_segment_ids(batch, mask)
        check_stacked(edits, self.dims)
        if cache is None:
            check_positions(ids.shape[1], edits.positions, self.dims)
        if training and key is None:
            raise UserError("a training pass draws dropout masks; give it a key, as in key=jax.random.key(0).")
        before = cache if cache is not None and cache.filled else None
        continued = before is not None
        prompt = 0 if edits.prompt is None or continued else edits.prompt.shape[0]
        if segment_ids is not None and (prompt or cache is not None):
            raise UserError("an embedding-level prompt and cached decoding need one example per row; set packed=False.")
        order = None
        if prompt:
            order = prompt_order(mask, prompt)
            mask = jnp.take_along_axis(jnp.pad(mask, ((0, 0), (prompt, 0)), constant_values=True), order, axis=1)

        # Positions go by the numbers of the real tokens, those that the cache holds among them.
        def placed(tokens: Tokens) -> Tokens:
            positions = jnp.maximum(tokens.numbers - 1, 0) + edits.position_offset
            if edits.row_offsets is not None:
                positions = positions + edits.row_offsets[:, None]
            return dataclasses.replace(tokens, positions=positions)

        new = seen = placed(Tokens(mask, jnp.zeros_like(mask, int), segment_ids, prompt=prompt))
        if before is not None:
            new = placed(dataclasses.replace(new, offset=before.length, before=before.mask.sum(1)))
            so_far = before.seeing(mask)
            rows = 0 if edits.prompt is None else edits.prompt.shape[0]
            seen = placed(Tokens(so_far, jnp.zeros_like(so_far, int), prompt=rows))
        ctx = Context(new, seen, rates=rates, training=training, softcap=self.config.attention_softcap)
        positions = new.positions

        embed = Embeddings(self.config, self.dtype, name="embeddings")
        types = batch.get("token_type_ids") if self.config.has_word_types else None
        h = embed(ids, positions, types, None if continued else edits.prompt, edits.words, order)
        h = constrain(h, "rows", None, None)
        count = self.config.layers
        keys = None
        if training and key is not None:
            # all of them at once: a derivation in every layer would be most of an unrolled program
            keys = jax.random.split(jax.random.fold_in(key, 0), (count, EDITS + len(edits.layers)))
            rate = self.config.embedding_dropout if rates.hidden is None else rates.hidden
            h = dropout(h, rate, jax.random.fold_in(key, 1))

        config, pattern = self.config, self.config.pattern
        ropes = {"full": config.rope, "sliding": config.sliding_rope}
        by = {
            kind: None if rope is None else turns(rope, positions, config.head_width)
            for kind, rope in ropes.items()
            if kind in pattern
        }
        layer = DecoderLayer(config, self.dims, self.dtype, self.attention, parent=None)

        def init_layers(rng: Array) -> Any:
            example = jnp.zeros((1, 1, config.width), self.dtype)
            ctx = Context.of(jnp.ones((1, 1), bool), jnp.zeros((1, 1), int))
            return jax.vmap(lambda rng: layer.init(rng, example, (), ctx)["params"])(jax.random.split(rng, count))

        def run(carry: tuple[Array, Cache | None], leaves: tuple, index: Any, place: int) -> tuple[Any, tuple | None]:
            h, cache = carry
            params, layer_edits, layer_keys = leaves
            params = params if layers is None else layers[index]
            kind = pattern[place]
            own = dataclasses.replace(ctx, window=config.window if kind == "sliding" else None)
            recall: Callable[[Array, Array], tuple[Array, Array]] | None = None
            if cache is not None:
                if continued:
                    own = dataclasses.replace(own, first_token_hidden=cache.first_token_hidden[index])
                else:
                    first_token_hidden = cache.first_token_hidden.at[index].set(
                        own.first_hidden(h).astype(cache.first_token_hidden.dtype)
                    )
                    cache = dataclasses.replace(cache, first_token_hidden=first_token_hidden)

                def put_and_recall(k: Array, v: Array) -> tuple[Array, Array]:
                    nonlocal cache
                    assert cache is not None  # else nobody calls this
                    cache = cache.put(index, k, v)
                    return cache.of(index) if continued else (k, v)

                recall = put_and_recall

            out, seen = layer.apply({"params": params}, h, layer_edits, own, layer_keys, capture, by[kind], recall)
            return (out, cache), (out, seen) if capture else None

        stacked = (stacked_params(self, init_layers), edits.layers, keys)
        (last, cache), outs = run_layers(
            run,
            (h, cache),
            stacked,
            unroll=should_unroll(self.unroll, count),
            remat=chosen_remat(self.remat, self.config.accelerated_remat),
            period=len(pattern),
        )
        if cache is not None:
            cache = dataclasses.replace(
                cache, mask=cache.seeing(mask), length=cache.length + mask.shape[1], filled=True
            )
        hidden = make_norm(config, "norm")(last)[:, prompt:]
        if not capture:
            return Encoded(hidden, None, None, cache)
        states, observed = outs
        return Encoded(hidden, jnp.concatenate([h[None], states])[:, :, prompt:], observed, cache)
