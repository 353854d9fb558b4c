"""The edits of prefix methods: virtual keys and values for every query of a layer, plain and gated."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int
from typing_extensions import override

from jaxprefix.attention import VirtualTokens, dropout
from jaxprefix.attention.dropout import statically_off
from jaxprefix.edits import Context, Dims, LayerEdit, edit, static
from jaxprefix.errors import UserError

DropoutUnit = Literal["element", "token"]


@edit
class Prefix(LayerEdit):
    """The same P virtual keys and values for every query of a layer.

    Attributes:
      keys, values: as they enter the attention; no projection, bias or norm is applied to them.
      mass: `>= 0`, the weight of each virtual token is `mass * exp(score)`; None for 1.
      rate, unit: dropout of the prefix in training: each number of each row on its own (`element`: the masks are
        drawn for each row, so the prefix is copied per row), or whole virtual tokens of a row (`token`: a scale of 0
        or `1 / (1 - rate)` on key and value; the prefix stays shared).
      subject_to_window: see `PrefixMethod`.
    """

    keys: Float[Array, "*L P K E"]
    values: Float[Array, "*L P K E"]
    mass: Float[Array, "*L P"] | None = None
    rate: float = static(default=0.0)
    unit: DropoutUnit = static(default="element")
    subject_to_window: bool = static(default=False)

    @override
    def virtual_count(self) -> int:
        return self.keys.shape[-3]

    @override
    def virtual_tokens(self, x: Float[Array, "B T D"], ctx: Context) -> VirtualTokens:
        keys, values, scale = self.keys.astype(x.dtype), self.values.astype(x.dtype), self.gate(x, ctx)
        rate, rows = ctx.method_rate(self.rate), x.shape[0]
        if not statically_off(rate):
            if self.unit == "token":
                kept = dropout(jnp.ones((rows, keys.shape[0]), jnp.float32), rate, ctx.key)
                if scale is not None and scale.ndim == 3:
                    kept = kept[:, None]
                scale = kept if scale is None else kept * scale
            else:
                both = jnp.broadcast_to(jnp.stack([keys, values]), (rows, 2, *keys.shape))
                both = dropout(both, rate, ctx.key)
                keys, values = both[:, 0], both[:, 1]
        return VirtualTokens(
            keys, values, key_scale=scale, value_scale=scale, mass=self.mass, visible_before=self.visible_before(ctx)
        )

    def visible_before(self, ctx: Context) -> Int[Array, "P"] | None:
        """The first query that no longer sees each virtual token, counted from its row's first real token; None where
        all see all."""
        if not self.subject_to_window or ctx.window_before is None:
            return None
        if ctx.queries.segment_ids is not None:
            raise UserError("a prefix that leaves the window needs one example per row; set packed=False.")
        count = self.keys.shape[0]  # as if they stood right before the first real token
        return ctx.window_before + 1 - count + jnp.arange(count)

    def gate(self, x: Float[Array, "B T D"], ctx: Context) -> Float[Array, "*B P"] | None:
        """A scale of each virtual token's key and value, float32, shared by all rows or per row; None for 1."""
        return None

    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...] | None:
        """A gated prefix whose gates are 1. One that leaves the window has none: padded, its columns would change."""
        return GatedPrefix(self.keys, self.values, self.mass, subject_to_window=self.subject_to_window).canonical(dims)

    def observe(
        self,
        x: Float[Array, "B T D"],
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        lse: Float[Array, "B H T"],
        ctx: Context,
    ) -> dict[str, Array]:
        """`share` `[B, H, T]`: how much of each query's attention this prefix takes, dropout off."""
        gate = self.gate(x, ctx)
        groups = q.reshape(*q.shape[:2], self.keys.shape[-2], -1, q.shape[-1])
        scores = jnp.einsum("btkge,pke->bkgtp", groups, self.keys.astype(q.dtype), preferred_element_type=lse.dtype)
        scores = scores.reshape(*lse.shape, -1) * ctx.score_scale(q.shape[-1])
        if gate is not None:
            scores = scores * (gate if gate.ndim == 1 else gate.reshape(gate.shape[0], 1, -1, gate.shape[-1]))
        if ctx.softcap is not None:
            scores = ctx.softcap * jnp.tanh(scores / ctx.softcap)
        weights = (1.0 if self.mass is None else self.mass) * jnp.exp(scores - lse[..., None])
        visible_before = self.visible_before(ctx)
        if visible_before is not None:
            weights = jnp.where(ctx.places[:, None, :, None] < visible_before, weights, 0)  # [B, 1, T, P]
        return {"share": weights.sum(-1)}


GateSource = Literal["first", "mean", "none"]


@edit
class GatedPrefix(Prefix):
    """A prefix whose keys and values are scaled by `lambda * alpha`; it stays shared by all rows, the scale does not.

    Attributes:
      gate_kernel: `W`, one column for each virtual token; None where nothing is read from the hidden state.
      gate_bias: added before the sigmoid; without a kernel it is the free vector of the ablation "w/o h". None for 0.
      gate_scale: `lambda`; None for 1.
      source: the hidden state that the gate reads: the row's `first` real token, or the masked `mean` over them.
    """

    gate_kernel: Float[Array, "*L P D"] | None = None
    gate_bias: Float[Array, "*L P"] | None = None
    gate_scale: Float[Array, "*L"] | None = None
    source: GateSource = static(default="first")

    def alpha(self, x: Float[Array, "B T D"], ctx: Context) -> Float[Array, "*B P"] | None:
        """The token gates, float32, per row (per query where several examples share a row); None for 1."""
        with jax.named_scope("gate"):
            if self.gate_kernel is None:
                return None if self.gate_bias is None else jax.nn.sigmoid(self.gate_bias)
            wide = jnp.promote_types(x.dtype, jnp.float32)
            if self.source == "mean":
                weight = ctx.queries.text[..., None].astype(wide)
                h = (x.astype(wide) * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
            else:
                h = ctx.first_hidden(x).astype(wide)
            z = jnp.einsum("...d,pd->...p", h, self.gate_kernel, preferred_element_type=wide)
            return jax.nn.sigmoid(z if self.gate_bias is None else z + self.gate_bias)

    @override
    def gate(self, x: Float[Array, "B T D"], ctx: Context) -> Float[Array, "*B P"] | None:
        alpha = self.alpha(x, ctx)
        if self.gate_scale is None:
            return alpha
        return jnp.broadcast_to(self.gate_scale, self.keys.shape[:1]) if alpha is None else self.gate_scale * alpha

    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...] | None:
        """With all leaves: mass 1 where there is none, and where there is no alpha, twice the sigmoid of 0."""
        if self.subject_to_window:
            return None
        layers, tokens = self.keys.shape[:2]
        no_alpha = self.gate_kernel is None and self.gate_bias is None
        scale = jnp.ones(layers) if self.gate_scale is None else self.gate_scale
        gated = GatedPrefix(
            self.keys,
            self.values,
            jnp.ones((layers, tokens)) if self.mass is None else self.mass,
            gate_kernel=jnp.zeros((layers, tokens, dims.width)) if self.gate_kernel is None else self.gate_kernel,
            gate_bias=jnp.zeros((layers, tokens)) if self.gate_bias is None else self.gate_bias,
            gate_scale=2 * scale if no_alpha else scale,
            source="first" if self.gate_kernel is None else self.source,
        )
        return (gated,)

    def observe(
        self,
        x: Float[Array, "B T D"],
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        lse: Float[Array, "B H T"],
        ctx: Context,
    ) -> dict[str, Array]:
        """`alpha` `[B, P]` and `gate` = lambda alpha `[B, P]` beside the prefix's `share`."""
        shape, alpha, gate = (x.shape[0], self.keys.shape[0]), self.alpha(x, ctx), self.gate(x, ctx)
        if gate is not None and gate.ndim == 3:  # of each query's own example
            shape = gate.shape
        made = {"alpha": alpha, "gate": gate}
        seen = {name: jnp.broadcast_to(1.0 if leaf is None else leaf, shape) for name, leaf in made.items()}
        return {**super().observe(x, q, k, lse, ctx), **seen}
