"""Pre-norm bidirectional encoders with rotary positions, a gated MLP and no biases: a family in one file.

It is registered from outside; docs/adding_a_backbone.md goes through it step by step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxprefix as jp
from jaxprefix.attention import dropout
from jaxprefix.distributed.constraints import constrain, kernel_axes, look_up
from jaxprefix.edits import BUILT_RATES, NO_EDITS, Context, Dims, Edits, Rates, check_stacked
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.models.encoder import Encoded, check_positions
from jaxprefix.models.leaves import COLUMNS, ROWS, WORD, Leaf, linear, norm
from jaxprefix.models.linear import Linear, RMSNorm
from jaxprefix.models.rope import Rope, rotate, turns
from jaxprefix.models.self_attention import self_attention
from jaxprefix.models.stack import chosen_remat, run_layers, should_unroll, stacked_params

KEYS = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "positions": "max_position_embeddings",
    "rope_theta": "rope_theta",
}


@dataclasses.dataclass(frozen=True)
class PreNormConfig(jp.BackboneConfig):
    """Sizes and constants."""

    model_type: str
    vocab: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    positions: int
    rope_theta: float = 10000.0
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02

    model_types: ClassVar[tuple[str, ...]] = ("prenorm",)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "PreNormConfig":
        if config.get("hidden_act", "gelu") != "gelu":
            raise jp.UserError(f"config.json has hidden_act = {config['hidden_act']!r}; a prenorm computes gelu alone.")
        return cls("prenorm", **{field: config[key] for field, key in KEYS.items()})

    def to_hf(self, parts: frozenset[str] = frozenset()) -> dict[str, Any]:
        return {"model_type": "prenorm", **{key: getattr(self, field) for field, key in KEYS.items()}}

    @property
    def dims(self) -> Dims:
        return Dims(
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.heads,
            width=self.width,
            head_width=self.width // self.heads,
            mlp_width=self.mlp_width,
            vocab=self.vocab,
            positions=self.positions,
            initializer_range=self.initializer_range,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            gated_mlp=True,
        )

    @property
    def prefix(self) -> str:
        return "prenorm."

    @property
    def anchor(self) -> str:
        return "tok_embeddings.weight"

    @property
    def layer_ropes(self) -> tuple[Rope, ...]:
        return (Rope(self.rope_theta),) * self.layers

    def leaves(self, prefix: str = "") -> list[Leaf]:
        width, inner, layer = self.width, self.mlp_width, f"{prefix}layers.{{layer}}."
        found = [
            Leaf(WORD, (f"{prefix}{self.anchor}",), (self.vocab, width), axes=ROWS),
            *norm("norm", {"scale": (f"{prefix}final_norm.weight",)}, width, stacked=False),
            *norm("layers/attention_norm", {"scale": (f"{layer}attn_norm.weight",)}, width),
            *norm("layers/mlp_norm", {"scale": (f"{layer}mlp_norm.weight",)}, width),
        ]
        for index, name in enumerate("qkv"):  # one tensor holds the three, and torch stores [out, in]
            part = (index * width, (index + 1) * width)
            found.append(
                Leaf(
                    *(f"layers/{name}/kernel", (f"{layer}attn.Wqkv.weight",), (width, width)),
                    stacked=True,
                    transposed=True,
                    part=part,
                    whole=3 * width,
                    axes=COLUMNS,
                    heads=self.heads,
                )
            )
        return [
            *found,
            *linear("layers/o", f"{layer}attn.Wo", width, width, ROWS, bias=False, heads=self.heads),
            *linear("layers/gate", f"{layer}mlp.Wgate", width, inner, COLUMNS, bias=False),
            *linear("layers/up", f"{layer}mlp.Wup", width, inner, COLUMNS, bias=False),
            *linear("layers/down", f"{layer}mlp.Wdown", inner, width, ROWS, bias=False),
        ]


class PreNormLayer(nn.Module):
    """`a = x + o(attention(norm(x)))`, `y = a + down(gelu(gate(norm(a))) * up(norm(a)))`."""

    config: PreNormConfig
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x, edits, ctx, keys=None, capture=False, by=None):
        config, dims = self.config, self.config.dims
        hooks = LayerHooks(edits, ctx, None if keys is None else keys[3:])

        def project(name, z):
            size, axes = dims.maps[name][1], kernel_axes(name, dims)
            return Linear(size, self.dtype, config.initializer_range, False, axes, name=name)(z, hooks)

        def drop(f, site):
            rate = config.hidden_dropout if ctx.rates.hidden is None else ctx.rates.hidden
            return dropout(f, rate, keys[site]) if ctx.training else f

        weights = (ctx.attention_rate(config.attention_dropout), keys[0]) if ctx.training else None
        a, seen = self_attention(
            *(RMSNorm(1e-6, name="attention_norm")(x), project, hooks, ctx, dims),
            h=x,
            prepare=lambda name, y: y if name == "v" or by is None else rotate(y, by),
            dropout=weights,
            capture=capture,
            implementation=self.attention,
        )
        x = x + drop(a, 1)
        z = RMSNorm(1e-6, name="mlp_norm")(x)
        inner = constrain(jax.nn.gelu(project("gate", z), approximate=False) * project("up", z), "rows", None, "tp")
        f = hooks.after_mlp_dropout(z, drop(hooks.after_mlp(z, project("down", inner)), 2))
        return constrain(hooks.after_block(x + f), "rows", None, None), seen


class PreNorm(nn.Module):
    """The encoder; its fields are those of `jp.Encoder`."""

    config: PreNormConfig
    dtype: Any = jnp.float32
    unroll: bool | None = None
    remat: str | None = None
    attention: str = "xla"

    parts: ClassVar[tuple[str, ...]] = ("embeddings", "layers", "norm")

    @property
    def dims(self) -> Dims:
        return self.config.dims

    def keys_and_values(self, params, ids):
        raise jp.UserError("a prenorm does not read texts as starts; set start=None.")

    @nn.compact
    def __call__(
        self,
        batch,
        edits: Edits = NO_EDITS,
        *,
        key=None,
        training: bool = False,
        capture: bool = False,
        rates: Rates = BUILT_RATES,
    ) -> Encoded:
        config, count, ids = self.config, self.config.layers, batch["input_ids"]
        check_stacked(edits, self.dims)
        check_positions(ids.shape[1], edits.positions, self.dims)
        if edits.prompt is not None:
            raise jp.UserError("a prenorm has no place for an embedding-level prompt; take another method.")
        mask = batch.get("attention_mask", jnp.ones(ids.shape, bool))
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]) + edits.position_offset, ids.shape)
        if edits.row_offsets is not None:
            positions = positions + edits.row_offsets[:, None]

        embed = _Words(config, self.dtype, name="embeddings")
        h = constrain(embed(ids), "rows", None, None)
        keys = None
        if training:
            keys = jax.random.split(jax.random.fold_in(key, 0), (count, 3 + len(edits.layers)))
            h = dropout(h, config.hidden_dropout if rates.hidden is None else rates.hidden, jax.random.fold_in(key, 1))
        by = turns(Rope(config.rope_theta), positions, config.dims.head_width)
        layer = PreNormLayer(config, self.dtype, self.attention, parent=None)

        def init_layers(rng):
            example, ctx = (
                jnp.zeros((1, 1, config.width), self.dtype),
                Context.of(jnp.ones((1, 1), bool), jnp.zeros((1, 1), int)),
            )
            return jax.vmap(lambda rng: layer.init(rng, example, (), ctx)["params"])(jax.random.split(rng, count))

        def run(h, leaves, *_):
            params, layer_edits, layer_keys = leaves
            ctx = Context.of(mask, positions, rates=rates, training=training)
            out, seen = layer.apply({"params": params}, h, layer_edits, ctx, layer_keys, capture, by)
            return out, (out, seen) if capture else None

        stacked = (stacked_params(self, init_layers), edits.layers, keys)
        unroll, remat = should_unroll(self.unroll, count), chosen_remat(self.remat, config.accelerated_remat)
        last, outs = run_layers(run, h, stacked, unroll=unroll, remat=remat)
        hidden = RMSNorm(1e-6, name="norm")(last)
        return Encoded(hidden, jnp.concatenate([h[None], outs[0]]), outs[1]) if capture else Encoded(hidden, None)


class _Words(nn.Module):
    """The word table."""

    config: PreNormConfig
    dtype: Any

    @nn.compact
    def __call__(self, ids):
        normal = nn.initializers.normal(self.config.initializer_range)
        table = nn.Embed(self.config.vocab, self.config.width, dtype=self.dtype, embedding_init=normal, name="word")
        return look_up(table, ids)


jp.register_backbone(PreNormConfig, PreNorm)
