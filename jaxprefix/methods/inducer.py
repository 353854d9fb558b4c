"""Inducer-tuning (Chen et al., EMNLP 2022): one private virtual token for every query and head.

With the head's query `q_i` (after LoRA, if there is any), its attention output `o_i` over what it sees, and the
log-normaliser `lse_i` of that attention, the inducer has

    key     kappa_i = q_i + tanh(q_i A_k + a_k) B_k + b_k               `key_mode="mlp"`
    weight  p_i = exp(s_i) / (exp(s_i) + sum_j exp(s_ij)) = sigmoid(s_i - lse_i),    s_i = q_i . kappa_i / sqrt(E)
    value   nu_i = o_i + g(q_i)
    output  (1 - p_i) o_i + p_i nu_i = o_i + p_i g(q_i)

so that ordinary attention stays as it is and a weighted MLP of the query is added. With `value_extension`, as in every
published configuration, the MLP's second matrix maps past the output projection, summed over heads h:

    y_i = concat_h(o_i^h) W_O + b_O + sum_h p_i^h tanh(q_i^h A_v^h + a_v^h) B_v^h + b_v            (b_v has no weight)

Without it `o_i^h` becomes `o_i^h + p_i^h (tanh(q_i^h A_v^h + a_v^h) B_v^h + b_v^h)`.

The formulas are those of the authors' code, against whose attention module they were checked numerically; the paper's
own notation was not at hand. Where composed with a prefix, its virtual tokens are among what the query sees.
"""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.attention import dropout
from jaxprefix.edits import Context, Dims, Edits, LayerEdit, edit, static
from jaxprefix.errors import UserError
from jaxprefix.methods.head_mlp import HeadMLP, HeadMLPLeaves
from jaxprefix.methods.layers import chosen_layers
from jaxprefix.methods.multi_head_adapter import MultiHeadAdapter
from jaxprefix.typed_json import register
from jaxprefix.values import Rate

KeyMode = Literal["mlp", "identity", "adaptive"]


@edit
class InducerEdit(LayerEdit):
    """One private virtual token for every query and head of a layer.

    Attributes:
      value: the value's MLP.
      key: the key's MLP; None where the key is the query itself.
      real: value gating: the MLP of the real tokens' keys that is added to their values.
      key_mode, extension, renormalise, legacy_mask, rate: see `Inducer`; `rate` is that of the weights' dropout.
    """

    follows_attention: ClassVar[bool] = True

    value: HeadMLP
    key: HeadMLP | None = None
    real: HeadMLP | None = None
    key_mode: KeyMode = static(default="mlp")
    extension: bool = static(default=True)
    renormalise: bool = static(default=False)
    legacy_mask: bool = static(default=False)
    rate: float = static(default=0.0)

    def logit(self, q: Float[Array, "B T H E"], ctx: Context) -> Float[Array, "B T H"]:
        """`s_i`, float32 or wider."""
        wide = jnp.promote_types(q.dtype, jnp.float32)
        x = q.astype(wide)
        s = jnp.sum(x * x, axis=-1)
        if self.key is not None:
            u = self.key.hidden(x)
            # q . (u B + b), without the vector in between
            s += jnp.einsum("bthr,bthr->bth", u, jnp.einsum("bthe,hre->bthr", x, self.key.B.astype(wide)))
            s += jnp.einsum("bthe,he->bth", x, self.key.b.astype(wide))
        if self.key_mode == "adaptive":  # the row's index among its tokens, from 1; padding on the left does not count
            s *= jnp.sqrt(ctx.queries.numbers[:, :, None].astype(wide))
        s *= ctx.score_scale(q.shape[-1])
        return s if ctx.softcap is None else ctx.softcap * jnp.tanh(s / ctx.softcap)

    def weight(
        self, q: Float[Array, "B T H E"], k: Float[Array, "B S K E"], lse: Float[Array, "B H T"], ctx: Context
    ) -> Float[Array, "B T H"]:
        """`p_i`, float32 or wider, before dropout."""
        if self.legacy_mask:
            lse = unmasked_normaliser(q, k, ctx.score_scale(q.shape[-1]))
        return jax.nn.sigmoid(self.logit(q, ctx) - lse.transpose(0, 2, 1))

    def replace_values(
        self, k: Float[Array, "B S K E"], v: Float[Array, "B S K E"], ctx: Context
    ) -> Float[Array, "B S K E2"]:
        """Value gating needs the attention's average of the real tokens' hidden layers (and of 1, for a bias per
        head)."""
        if self.real is None:
            return v
        hidden = self.real.hidden(k).astype(v.dtype)
        ones = () if self.extension else (jnp.ones((*hidden.shape[:-1], 1), v.dtype),)
        return jnp.concatenate([v, hidden, *ones], axis=-1)

    @override
    def after_attention(
        self,
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        v: Float[Array, "B S K E2"],
        o: Float[Array, "B T H E3"],
        lse: Float[Array, "B H T"],
        ctx: Context,
    ) -> tuple[Float[Array, "B T H E2"], Float[Array, "B T D"] | None]:
        with jax.named_scope("inducer"):
            p = self.weight(q, k, lse, ctx)
            width = v.shape[-1]
            o, averages = o[..., :width], o[..., width:]
            rest = (1 - p[..., None]).astype(o.dtype)
            dropped = dropout(p, ctx.attention_rate(self.rate), ctx.key) if self.real is None else p
            u = self.value.hidden(q) * dropped[..., None].astype(q.dtype)
            if self.renormalise:
                o = rest * o
            if self.extension:
                extra = self.value.over_heads(u) + self.value.b.astype(o.dtype)
                if self.real is not None:
                    extra += self.real.over_heads(rest * averages) + self.real.b.astype(o.dtype)
                return o, extra
            o = o + self.value.per_head(u) + dropped[..., None].astype(o.dtype) * self.value.b.astype(o.dtype)
            if self.real is not None:
                share = averages[..., -1:] * self.real.b.astype(o.dtype)
                o = o + rest * (self.real.per_head(averages[..., :-1]) + share)
            return o, None

    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...] | None:
        """A key that is the query has an MLP of zeros. The gating ablation takes a share of the attention's output
        whatever its leaves are, so it has no form."""
        if self.renormalise:
            return None
        key, mode = self.key, self.key_mode
        if mode == "identity" and self.real is None:
            layers, heads, width = self.value.A.shape[:3]
            shapes = {"A": (width, 1), "a": (1,), "B": (1, width), "b": (width,)}
            key = HeadMLP(**{name: jnp.zeros((layers, heads, *shape)) for name, shape in shapes.items()})
            mode = "mlp"
        return (dataclasses.replace(self, key=key, key_mode=mode, rate=0.0),)

    def observe(
        self,
        x: Float[Array, "B T D"],
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        lse: Float[Array, "B H T"],
        ctx: Context,
    ) -> dict[str, Array]:
        """`weight` `[B, H, T]`: p of every query and head."""
        return {"weight": self.weight(q, k, lse, ctx).transpose(0, 2, 1)}


def unmasked_normaliser(q: Float[Array, "B T H E"], k: Float[Array, "B S K E"], scale: float) -> Float[Array, "B H T"]:
    """The log-normaliser over every column of a bidirectional attention, padding included."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    groups = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1]).astype(wide)
    scores = jnp.einsum("btkge,bske->bkgts", groups, k.astype(wide)) * scale
    return jax.nn.logsumexp(scores, axis=-1).reshape(q.shape[0], -1, q.shape[1])


@register
@dataclasses.dataclass(frozen=True)
class Inducer(MultiHeadAdapter):
    """Inducer-tuning (Chen et al. 2022).

    Trained beside `value`: `key/A` `[L, H, E, r_k]`, `key/a`, `key/B` `[L, H, r_k, E]`, `key/b` with `key_mode="mlp"`,
    and `real/A`, `real/a`, `real/B`, `real/b` with value gating.

    Attributes:
      key_mode: `mlp`; `identity`: the key is the query (`prefix_length` 1 of the published code); `adaptive`: that,
        and the logit times the root of the query's number in its row, from 1 (`prefix_length` 0).
      key_rank: r_k, the width of each head's key MLP.
      gating_ablation: also multiply the attention output by `1 - p`: a virtual value without its residual.
      value_gating: give the real tokens' values a residual too, `(1 - p_i) sum_j W_ij g'(k_j)`. The published code is
        broken without the extension; this is the meaning that it intends. There is no key MLP and no dropout of p then.
      legacy_mask: let padding take part in the softmax of p (not in the attention), as the published code for RoBERTa
        does; results then depend on how much padding there is. Encoders only.
      dropout: rate of the dropout on p in training, drawn apart from that of the attention weights; None takes the
        backbone's rate for attention weights, as published.
    """

    method_name: ClassVar[str] = "inducer"
    summary: ClassVar[str] = "a private virtual token for every query and head (Chen et al. 2022)"
    usual_rate: ClassVar[float | None] = 5e-3
    size_fields: ClassVar[tuple[str, ...]] = ("value_rank", "key_rank")

    key_mode: KeyMode = "mlp"
    key_rank: int = 5
    gating_ablation: bool = False
    value_gating: bool = False
    legacy_mask: bool = False
    dropout: Rate | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.key_mode == "mlp" and self.key_rank < 1:
            raise UserError(
                f"Inducer has key_rank = {self.key_rank}; it must be at least 1, or take key_mode='identity'."
            )
        if self.value_gating and self.key_mode == "mlp":
            raise UserError("Inducer(value_gating=True) has no key MLP; set key_mode='identity' or 'adaptive'.")
        if self.value_gating and self.gating_ablation:
            raise UserError("Inducer with both value_gating and gating_ablation is not defined; choose one of them.")
        if self.gating_ablation and self.layers is not None:
            raise UserError(
                "Inducer(gating_ablation=True) changes the attention of every layer; leave out layers, or the ablation."
            )

    @override
    def build(self, dims: Dims) -> nn.Module:
        chosen_layers(self, dims)
        if self.legacy_mask and dims.causal:
            raise UserError("Inducer(legacy_mask=True) is for encoders; set legacy_mask=False on a causal model.")
        return InducerModule(self, dims)


class InducerModule(nn.Module):
    """The leaves of an `Inducer`."""

    method: Inducer
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, dims = self.method, self.dims

        def mlp(name: str, rank: int) -> HeadMLP:
            return HeadMLPLeaves(method, dims, rank, name, name=name)()

        inducer = InducerEdit(
            value=mlp("value", method.value_rank),
            key=mlp("key", method.key_rank) if method.key_mode == "mlp" else None,
            real=mlp("real", method.value_rank) if method.value_gating else None,
            key_mode=method.key_mode,
            extension=method.value_extension,
            renormalise=method.gating_ablation,
            legacy_mask=method.legacy_mask,
            rate=dims.attention_dropout if method.dropout is None else method.dropout,
        )
        return Edits((inducer,))
