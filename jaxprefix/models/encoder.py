"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019): post-norm bidirectional encoders over the layer stack."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.attention import dropout
from jaxprefix.attention.operation import DEFAULT
from jaxprefix.distributed.constraints import beyond_if_negative, constrain, kernel_axes, look_up
from jaxprefix.edits import BUILT_RATES, NO_EDITS, Context, Dims, Edits, Rates, Tokens, check_stacked
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.errors import UserError
from jaxprefix.models.batch_keys import read_attention_mask
from jaxprefix.models.cache import Cache
from jaxprefix.models.encoder_config import ACTIVATIONS, EncoderConfig
from jaxprefix.models.linear import LayerNorm, Linear
from jaxprefix.models.reading import KeysValues, projected_keys_and_values
from jaxprefix.models.self_attention import self_attention
from jaxprefix.models.stack import Remat, chosen_remat, run_layers, should_unroll, stacked_params

# What is random in a layer: places in the layer's row of keys. Each edit has one more, from EDITS on.
ATTENTION_WEIGHTS, ATTENTION_OUTPUT, MLP_OUTPUT, EDITS = range(4)


def edit_keys(keys: Any) -> Any:
    """The keys of the edits, which stand behind those of a layer's own random parts; None when nothing is random."""
    return None if keys is None else keys[EDITS:]


class Encoded(NamedTuple):
    """What an encoder returns.

    Attributes:
      hidden: the last layer's output `[B, T, D]`.
      captured: under `capture=True` every hidden state `[L + 1, B, T, D]`, the embeddings' output first; else None.
      observed: under `capture=True` what each layer edit shows (`LayerEdit.observe`), leaves `[L, ...]`; else None.
        The rows of an embedding-level prompt are in it, and nowhere else.
      cache: a decoder's, where it was given one.
    """

    hidden: Array
    captured: Array | None
    observed: tuple[dict[str, Array], ...] | None = None
    cache: Cache | None = None


class Embeddings(nn.Module):
    """The normed sum of word, position and token type embeddings."""

    config: EncoderConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "B T"],
        positions: Int[Array, "B T2"],
        token_type_ids: Int[Array, "B T2"],
        prompt: Float[Array, "P D"] | None = None,
    ) -> Float[Array, "B T2 D"]:
        """Prompt and words together; `positions` and `token_type_ids` are those of both."""
        config = self.config

        def embed(name: str, rows: int, index: Array) -> Array:
            init = nn.initializers.normal(config.initializer_range)
            return nn.Embed(rows, config.width, dtype=self.dtype, embedding_init=init, name=name)(index)

        h = look_up(lambda ids: embed("word", config.vocab, ids), ids)
        if prompt is not None:
            rows = jnp.broadcast_to(prompt.astype(h.dtype), (h.shape[0], *prompt.shape))
            h = jnp.concatenate([rows, h], axis=1)
        h = h + embed("position", config.positions, positions)
        types = embed("token_type", config.token_types, beyond_if_negative(token_type_ids))
        return LayerNorm(config.norm_eps, name="norm")(h + types)


class EncoderLayer(nn.Module):
    """One post-norm layer: `a = norm(x + o(attention(x)))`, `y = norm(a + down(act(up(a))))`."""

    config: EncoderConfig
    dims: Dims
    dtype: Any = jnp.float32
    attention: str = DEFAULT

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], edits: tuple, ctx: Context, keys: Any = None, capture: bool = False
    ) -> tuple[Float[Array, "B T D"], tuple[dict[str, Array], ...] | None]:
        """The layer's output, and under `capture` what its edits show.

        `keys` are one for each random part and edit, needed when training.
        """
        config, rates = self.config, ctx.rates
        hooks = LayerHooks(edits, ctx, edit_keys(keys))
        hidden_rate = config.hidden_dropout if rates.hidden is None else rates.hidden

        def linear(name: str, z: Array) -> Array:
            features = config.mlp_width if name == "up" else config.width
            axes = kernel_axes(name, self.dims)
            return Linear(features, self.dtype, config.initializer_range, axes=axes, name=name)(z, hooks)

        def drop(f: Array, place: int) -> Array:
            return dropout(f, hidden_rate, keys[place]) if ctx.training else f

        weights = (ctx.attention_rate(config.attention_dropout), keys[ATTENTION_WEIGHTS]) if ctx.training else None
        a, seen = self_attention(
            *(x, linear, hooks, ctx, self.dims), dropout=weights, capture=capture, implementation=self.attention
        )
        x = LayerNorm(config.norm_eps, name="attention_norm")(x + drop(a, ATTENTION_OUTPUT))
        inner = constrain(ACTIVATIONS[config.activation](linear("up", x)), "rows", None, "tp")
        f = linear("down", inner)
        f = hooks.after_mlp_dropout(x, drop(hooks.after_mlp(x, f), MLP_OUTPUT))
        y = hooks.after_block(LayerNorm(config.norm_eps, name="mlp_norm")(x + f))
        return constrain(y, "rows", None, None), seen


class Encoder(nn.Module):
    """A BERT or RoBERTa encoder.

    Attributes:
      config: sizes and rates.
      dtype: the compute dtype.
      unroll: a Python loop over layers (fast on CPU) instead of a scan (small program); None decides by the backend.
      remat: what the backward pass keeps of a layer (`none`, `dots`, `full`); None decides by the backend.
      attention: how attention is computed: `xla`, or `reference`, slow and by explicit concatenation.
    """

    config: EncoderConfig
    dtype: Any = jnp.float32
    unroll: bool | None = None
    remat: Remat | None = None
    attention: str = DEFAULT

    parts: ClassVar[tuple[str, ...]] = ("embeddings", "layers")  # of its tree, without those of heads

    @property
    def dims(self) -> Dims:
        """The sizes that methods are built from."""
        return self.config.dims

    def keys_and_values(self, params: Any, ids: Int[Array, "P"]) -> KeysValues:
        """Keys and values of P tokens of one row, from position 0 on, as they enter the attention, float32."""
        return projected_keys_and_values(self, params, ids)

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
    ) -> Encoded:
        """Hidden states of a batch.

        Args:
          batch: `input_ids` int `[B, T]`; `attention_mask` bool `[B, T]`, True for real tokens, all when absent;
            `token_type_ids` int `[B, T]`, zeros when absent.
          edits: what the methods do.
          key: a typed key for dropout; needed when training.
          training: whether dropout applies.
          capture: whether to return every layer's hidden state and what the edits show.
          rates: dropout rates in place of the configured ones.
        """
        ids = batch["input_ids"]
        mask, token_type_ids = read_attention_mask(batch), batch.get("token_type_ids", jnp.zeros_like(ids))
        check_stacked(edits, self.dims)
        check_positions(ids.shape[1], edits.positions, self.dims)
        if training and key is None:
            raise UserError("a training pass draws dropout masks; give it a key, as in key=jax.random.key(0).")

        prompt = 0 if edits.prompt is None else edits.prompt.shape[0]
        if prompt:
            mask = jnp.pad(mask, ((0, 0), (prompt, 0)), constant_values=True)
            token_type_ids = jnp.pad(token_type_ids, ((0, 0), (prompt, 0)))
        positions = token_positions(self.config, mask, edits.position_offset, prompt)
        if edits.row_offsets is not None:
            positions = shifted_by_row(self.config, positions, mask, edits.row_offsets)
        h = Embeddings(self.config, self.dtype, name="embeddings")(ids, positions, token_type_ids, edits.prompt)
        h = constrain(h, "rows", None, None)
        count = self.config.layers
        keys = None
        if training and key is not None:
            # all of them at once: a derivation in every layer would be most of an unrolled program
            keys = jax.random.split(jax.random.fold_in(key, 0), (count, EDITS + len(edits.layers)))
            rate = self.config.hidden_dropout if rates.hidden is None else rates.hidden
            h = dropout(h, rate, jax.random.fold_in(key, 1))

        tokens = Tokens(mask, positions, prompt=prompt)
        ctx = Context(tokens, tokens, rates=rates, training=training)
        layer = EncoderLayer(self.config, self.dims, self.dtype, self.attention, parent=None)

        def init_layers(rng: Array) -> Any:
            example = jnp.zeros((1, 1, self.config.width), self.dtype)
            ctx = Context.of(jnp.ones((1, 1), bool), jnp.zeros((1, 1), int))
            return jax.vmap(lambda rng: layer.init(rng, example, (), ctx)["params"])(jax.random.split(rng, count))

        def run(h: Array, leaves: tuple, *_: Any) -> tuple[Array, tuple | None]:
            params, layer_edits, layer_keys = leaves
            out, seen = layer.apply({"params": params}, h, layer_edits, ctx, layer_keys, capture)
            return out, (out, seen) if capture else None

        params = stacked_params(self, init_layers)
        unroll, remat = should_unroll(self.unroll, count), chosen_remat(self.remat, self.config.accelerated_remat)
        last, outs = run_layers(run, h, (params, edits.layers, keys), unroll=unroll, remat=remat)
        if not capture:
            return Encoded(last[:, prompt:], None)
        states, observed = outs
        return Encoded(last[:, prompt:], jnp.concatenate([h[None], states])[:, :, prompt:], observed)


def check_positions(tokens: int, offset: int, dims: Dims) -> None:
    """Refuses rows that the position table cannot serve; a gather beyond it would be clamped silently."""
    if tokens + offset > dims.positions:
        raise UserError(
            f"{tokens} tokens and {offset} positions of virtual tokens need {tokens + offset} positions, but the "
            f"backbone has {dims.positions}; shorten the texts (max_length) or the prefix, or turn the position offset "
            "off."
        )


def token_positions(config: EncoderConfig, mask: Bool[Array, "B T"], offset: int, prompt: int = 0) -> Int[Array, "B T"]:
    """Position ids: BERT counts columns, without those of padding between a prompt of so many rows and the text;
    RoBERTa counts real tokens from `padding_id + 1` and leaves pads there."""
    if config.model_type == "bert":
        columns, padding = jnp.arange(mask.shape[1]), jnp.argmax(mask[:, prompt:], axis=1)[:, None]
        return jnp.where(columns < prompt, columns, jnp.maximum(columns - padding, prompt)) + offset
    return jnp.where(mask, config.padding_id + offset + jnp.cumsum(mask, axis=1), config.padding_id)


def shifted_by_row(
    config: EncoderConfig, positions: Int[Array, "B T"], mask: Bool[Array, "B T"], offsets: Int[Array, "B"]
) -> Int[Array, "B T"]:
    """Position ids with another offset in each row; RoBERTa's pads stay where they are.

    A row's padding may lie beyond the table, since only its real tokens are held to it. Nobody sees padding, but a
    gather out of range would give NaN.
    """
    offsets = offsets[:, None] if config.model_type == "bert" else jnp.where(mask, offsets[:, None], 0)
    return jnp.minimum(positions + offsets, config.positions - 1)
