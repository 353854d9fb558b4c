"""Kernel-mix (Chen et al. 2022, Findings of NAACL): low-rank updates of every head, and small ones that heads share.

With a head's low-rank map `m(z) = (dropout(z) A^T) B^T + b` and LoRA updates without bias or scale,

    q^h <- q^h + m_q^h(x) + LoRA_q(x)           x: the layer's input
    v^h <- v^h + m_v^h(k^h) + LoRA_v(x)         k^h: the head's keys
    y   <- y + sum_h m_o^h(o^h) + LoRA_o(o)     o^h: the head's output; one bias for all heads

(the code "XKA" of the published configurations), all leaves starting as 0.01 fmod(N(0, 1), 2).
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.attention import dropout
from jaxprefix.edits import Context, Dims, Edits, LayerEdit, edit, leaf, static
from jaxprefix.methods.base import Method
from jaxprefix.methods.layers import chosen_layers, folded_normal, in_layers
from jaxprefix.methods.lora import LoRAEdit, LowRankLeaves
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural, Rate


@edit
class HeadMaps(LayerEdit):
    """Low-rank maps of every head: on the queries from the layer's input, on the values from the keys, and after the
    output projection from the heads' outputs.

    Attributes:
      q_A, q_B, q_b: from the input, which all heads share.
      v_A, v_B, v_b: from a head's keys.
      o_A, o_B, o_b: from a head's output to the model's width.
      rate: of the dropout on the maps' inputs.
    """

    q_A: Float[Array, "*L H r D"]
    q_B: Float[Array, "*L H E r"]
    q_b: Float[Array, "*L H E"]
    v_A: Float[Array, "*L K s E"]
    v_B: Float[Array, "*L K E s"]
    v_b: Float[Array, "*L K E"]
    o_A: Float[Array, "*L H s E"]
    o_B: Float[Array, "*L D H s"]
    o_b: Float[Array, "*L D"]
    rate: float = static(default=0.0)

    def _dropped(self, z: Array, ctx: Context, site: int) -> Array:
        key = None if ctx.key is None else jax.random.fold_in(ctx.key, site)
        return dropout(z, ctx.method_rate(self.rate), key)

    @override
    def project(self, name: str, x: Float[Array, "*B I"], y: Float[Array, "*B O"], ctx: Context) -> Array:
        if name != "q":
            return y
        x = self._dropped(x, ctx, 0)
        u = jnp.einsum("...d,hrd->...hr", x, self.q_A.astype(x.dtype))
        q = jnp.einsum("...hr,her->...he", u, self.q_B.astype(x.dtype)) + self.q_b.astype(x.dtype)
        return y + q.reshape(y.shape)

    @override
    def replace_values(
        self, k: Float[Array, "B S K E"], v: Float[Array, "B S K E"], ctx: Context
    ) -> Float[Array, "B S K E2"]:
        k = self._dropped(k, ctx, 1)
        u = jnp.einsum("bske,kre->bskr", k, self.v_A.astype(k.dtype))
        return v + jnp.einsum("bskr,ker->bske", u, self.v_B.astype(k.dtype)) + self.v_b.astype(k.dtype)

    @override
    def after_attention(
        self,
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        v: Float[Array, "B S K E2"],
        o: Float[Array, "B T H E2"],
        lse: Float[Array, "B H T"],
        ctx: Context,
    ) -> tuple[Float[Array, "B T H E2"], Float[Array, "B T D"] | None]:
        z = self._dropped(o, ctx, 2)
        u = jnp.einsum("bthe,hre->bthr", z, self.o_A.astype(z.dtype))
        return o, jnp.einsum("bthr,dhr->btd", u, self.o_B.astype(z.dtype)) + self.o_b.astype(z.dtype)

    @override
    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...]:
        return (dataclasses.replace(self, rate=0.0),)


@register
@dataclasses.dataclass(frozen=True)
class KernelMix(Method):
    """Kernel-mix.

    Trained: under `heads` the maps of every head, under `shared_q`, `shared_v`, `shared_o` the LoRA updates. The
    defaults are the published ranks for GPT-2 (1.615 % there).

    Attributes:
      query_rank: r of the heads' maps on the queries.
      rank: r of those on values and outputs.
      shared_query_rank: r of the shared update of the queries.
      shared_rank: r of those of values and outputs.
      dropout: rate on every map's input; None takes the backbone's hidden dropout.
      layers: indices of the layers that get one; None for all.
    """

    method_name: ClassVar[str] = "kernel_mix"
    summary: ClassVar[str] = "low-rank updates of every head, and shared ones (Chen et al. 2022)"
    usual_rate: ClassVar[float | None] = 5e-3
    size_fields: ClassVar[tuple[str, ...]] = ("query_rank", "rank", "shared_query_rank", "shared_rank")

    query_rank: Count = 3
    rank: Count = 8
    shared_query_rank: Count = 12
    shared_rank: Count = 8
    dropout: Rate | None = 0.1
    layers: tuple[Natural, ...] | None = None

    @override
    def build(self, dims: Dims) -> nn.Module:
        chosen_layers(self, dims)
        return KernelMixModule(self, dims)


class KernelMixModule(nn.Module):
    """The leaves of a `KernelMix`."""

    method: KernelMix
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, dims = self.method, self.dims
        rate = dims.hidden_dropout if method.dropout is None else method.dropout
        ranks = {"q": method.shared_query_rank, "v": method.shared_rank, "o": method.shared_rank}
        shared = {
            name: LowRankLeaves(method, dims, *dims.maps[name], rank, "folded_normal", False, name=f"shared_{name}")()
            for name, rank in ranks.items()
        }
        return Edits((HeadMapLeaves(method, dims, rate, name="heads")(), LoRAEdit(shared, 1.0, rate)))


class HeadMapLeaves(nn.Module):
    """The leaves of `HeadMaps`."""

    method: KernelMix
    dims: Dims
    rate: float

    @nn.compact
    def __call__(self) -> HeadMaps:
        """Makes the leaves; the maps of all layers."""
        method, dims = self.method, self.dims
        h, k, d, e, r, s = dims.heads, dims.kv_heads, dims.width, dims.head_width, method.query_rank, method.rank
        shapes = {
            "q_A": (h, r, d), "q_B": (h, e, r), "q_b": (h, e),
            "v_A": (k, s, e), "v_B": (k, e, s), "v_b": (k, e),
            "o_A": (h, s, e), "o_B": (d, h, s), "o_b": (d,),
        }  # fmt: skip
        layers = len(chosen_layers(method, dims))
        matrices = {name: (1, 3) if name == "o_B" else (2, 3) for name in shapes if name[2:] in ("A", "B")}
        leaves = {
            name: leaf(self, name, folded_normal, (layers, *shape), decay=True, matrix=matrices.get(name))
            for name, shape in shapes.items()
        }
        return HeadMaps(**in_layers(leaves, method, dims), rate=self.rate)
