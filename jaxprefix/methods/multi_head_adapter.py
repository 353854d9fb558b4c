"""The multi-head adapter: an MLP of every head's query, added without a kernel weight (Chen et al. 2022, ablation).

    y_i = concat_h(o_i^h) W_O + b_O + sum_h tanh(q_i^h A^h + a^h) B^h + b         with `value_extension`
    o_i^h + tanh(q_i^h A^h + a^h) B^h + b^h in place of o_i^h                      without

It is inducer-tuning with p = 1.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.edits import Context, Dims, Edits, LayerEdit, edit, static
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.methods.head_mlp import HeadMLP, HeadMLPLeaves
from jaxprefix.methods.layers import chosen_layers
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural


@edit
class MultiHeadAdapterEdit(LayerEdit):
    """The inducer's value with weight 1.

    Attributes:
      value: the MLP.
      extension: see `MultiHeadAdapter`.
    """

    value: HeadMLP
    extension: bool = static(default=True)

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
        u = self.value.hidden(q)
        if self.extension:
            return o, self.value.over_heads(u) + self.value.b.astype(o.dtype)
        return o + self.value.per_head(u) + self.value.b.astype(o.dtype), None

    @override
    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...]:
        return (self,)


@register
@dataclasses.dataclass(frozen=True)
class MultiHeadAdapter(Method):
    """A parallel adapter of every head's query: inducer-tuning without its kernel weight (an ablation of the paper).

    Trained: `value/A` `[L, H, E, r]`, `value/a`, `value/B`, `value/b`.

    Attributes:
      value_rank: r, the width of each head's MLP (`prefix_dim` of the published code).
      value_extension: map past the output projection to the model's width, with one bias for all heads.
      head_share: one second matrix for all heads; needs the extension.
      zero_init_up: start the second matrix and its bias at 0, so that training starts from the backbone itself; else
        all four start as in the published code, 0.01 fmod(N(0, 1), 2).
      layers: indices of the layers that get one; None for all.
    """

    method_name: ClassVar[str] = "multi_head_adapter"
    summary: ClassVar[str] = "the inducer without its kernel weight, an ablation (Chen et al. 2022)"
    size_fields: ClassVar[tuple[str, ...]] = ("value_rank",)

    value_rank: Count = 12
    value_extension: bool = True
    head_share: bool = False
    zero_init_up: bool = False
    layers: tuple[Natural, ...] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.head_share and not self.value_extension:
            raise UserError(
                f"{name}(head_share=True, value_extension=False) has no matrix that heads could share; "
                "set value_extension=True."
            )

    @override
    def build(self, dims: Dims) -> nn.Module:
        chosen_layers(self, dims)
        return MultiHeadAdapterModule(self, dims)


class MultiHeadAdapterModule(nn.Module):
    """The leaves of a `MultiHeadAdapter`."""

    method: MultiHeadAdapter
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method = self.method
        value = HeadMLPLeaves(method, self.dims, method.value_rank, "value", name="value")()
        return Edits((MultiHeadAdapterEdit(value, method.value_extension),))
