"""LoRA (Hu et al. 2022): a low-rank update of named linear maps.

At a map `y = x W + b`, with A `[r, I]`, B `[O, r]` and the scale `s`,

    y <- y + s ((dropout(x) A^T) B^T + c)

c being the bias that the inducer paper's code for GPT-2 trains and scales as well (`bias=True`); its code for RoBERTa
and the LoRA paper have none. A starts uniform in +-1/sqrt(I) (torch's `kaiming_uniform_` with slope sqrt(5)), B and c
at 0, so nothing changes at the start. `jp.merge_lora` puts a trained update into the frozen weights.
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
from jaxprefix.edits import Context, Dims, Edits, LayerEdit, edit, leaf, static
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method, make_edits
from jaxprefix.methods.layers import chosen_layers, folded_normal, he_uniform, in_layers
from jaxprefix.trees import Tree, flatten, unflatten
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural, Positive, Rate

LoRAInit = Literal["he", "he_small", "folded_normal"]
_HE_SMALL = (6 / 800001) ** 0.5  # slope 400 sqrt(5) in place of sqrt(5): bound sqrt(6 / (1 + slope^2)) / sqrt(I)


@edit
class LowRank:
    """One map's update: `s (dropout(x) A^T B^T + b)`."""

    A: Float[Array, "*L r I"]
    B: Float[Array, "*L O r"]
    b: Float[Array, "*L O"] | None = None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """The update at `x`, without `s` and dropout."""
        y = (x @ self.A.T.astype(x.dtype)) @ self.B.T.astype(x.dtype)
        return y if self.b is None else y + self.b.astype(x.dtype)


@edit
class LoRAEdit(LayerEdit):
    """Low-rank updates of the maps named by the keys of `maps`.

    Attributes:
      maps: an update for each map.
      scale: `s`.
      rate: of the dropout on the updates' inputs.
    """

    maps: dict[str, LowRank]
    scale: float = static(default=1.0)
    rate: float = static(default=0.0)

    @override
    def project(self, name: str, x: Float[Array, "*B I"], y: Float[Array, "*B O"], ctx: Context) -> Array:
        if name not in self.maps:
            return y
        key = None if ctx.key is None else jax.random.fold_in(ctx.key, sorted(self.maps).index(name))
        x = dropout(x, ctx.method_rate(self.rate), key)
        return y + self.scale * self.maps[name](x).astype(y.dtype)

    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...]:
        """One edit for each map, the scale in B and b."""
        scaled = {
            name: LowRank(
                update.A,
                self.scale * update.B,
                jnp.zeros(update.B.shape[:2]) if update.b is None else self.scale * update.b,
            )
            for name, update in self.maps.items()
        }
        return tuple(LoRAEdit({name: scaled[name]}) for name in sorted(scaled))


@register
@dataclasses.dataclass(frozen=True)
class LoRA(Method):
    """LoRA (Hu et al. 2022).

    Trained: `<map>/A` `[L, r, I]`, `<map>/B` `[L, O, r]`, with a bias `<map>/b` `[L, O]`.

    Attributes:
      maps: which linear maps of a layer: `q k v o up down`, where the MLP is gated `gate`.
      rank: r.
      alpha: the scale `s` is `alpha / rank`; None for a scale of 1.
      bias: train a bias of the update, which the scale multiplies too.
      dropout: rate of the dropout on the update's input; None takes the backbone's hidden dropout.
      init: `he` (as published), `he_small` (A a hundredfold smaller), or `folded_normal` (0.01 fmod(N(0, 1), 2) for
        A, B and b: no start from the backbone itself), the alternatives of the inducer paper's code.
      layers: indices of the layers that get one; None for all.
    """

    method_name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank updates of linear maps (Hu et al. 2022)"
    usual_rate: ClassVar[float | None] = 5e-3
    size_fields: ClassVar[tuple[str, ...]] = ("rank",)

    maps: tuple[str, ...] = ("q", "v")
    rank: Count = 8
    alpha: Positive | None = None
    bias: bool = False
    dropout: Rate | None = 0.0
    init: LoRAInit = "he"
    layers: tuple[Natural, ...] | None = None

    def __post_init__(self) -> None:
        if not self.maps or len(set(self.maps)) != len(self.maps):
            raise UserError(f"LoRA has maps = {self.maps}; name each linear map once, at least one.")

    @property
    def scale(self) -> float:
        """`s`."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @override
    def conflict(self, other: Method) -> str | None:
        shared = set(self.maps) & set(other.maps) if isinstance(other, LoRA) else set()
        return f"both own the low-rank update of {', '.join(sorted(shared))}" if shared else None

    @override
    def build(self, dims: Dims) -> nn.Module:
        chosen_layers(self, dims)
        unknown = [name for name in self.maps if name not in dims.maps]
        if unknown:
            raise UserError(f"LoRA names the map {unknown[0]!r}; a layer has {', '.join(dims.maps)}.")
        return LoRAModule(self, dims)


class LoRAModule(nn.Module):
    """The leaves of a `LoRA`."""

    method: LoRA
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, dims = self.method, self.dims
        maps = {
            name: LowRankLeaves(method, dims, *dims.maps[name], method.rank, method.init, method.bias, name=name)()
            for name in method.maps
        }
        rate = dims.hidden_dropout if method.dropout is None else method.dropout
        return Edits((LoRAEdit(maps, method.scale, rate),))


class LowRankLeaves(nn.Module):
    """`A`, `B` and perhaps `b` of one map, an entry for each layer that the method chose, spread over all."""

    method: Method  # has a field `layers`
    dims: Dims
    inputs: int
    outputs: int
    rank: Count
    start: LoRAInit
    bias: bool

    @nn.compact
    def __call__(self) -> LowRank:
        """Makes the leaves; the update of one map in all layers."""
        layers = len(chosen_layers(self.method, self.dims))
        folded = self.start == "folded_normal"
        start = folded_normal if folded else he_uniform(_HE_SMALL if self.start == "he_small" else 1.0)
        zero = folded_normal if folded else nn.initializers.zeros
        leaves = {
            "A": leaf(self, "A", start, (layers, self.rank, self.inputs), matrix=(1, 2)),
            "B": leaf(self, "B", zero, (layers, self.outputs, self.rank), matrix=(1, 2)),
        }
        if self.bias:
            leaves["b"] = leaf(self, "b", zero, (layers, self.outputs), decay=False)
        return LowRank(**in_layers(leaves, self.method, self.dims))


def merge_update(method: LoRA, params: Tree, backbone: Tree, dims: Dims) -> Tree:
    """The backbone's tree with `W + s A^T B^T` and `b + s c` in place of W and b, in the tree's own dtypes.

    Args:
      method: the LoRA that `params` belong to.
      params: its leaves.
      backbone: a tree with `layers/<map>/kernel` `[L, I, O]` and `layers/<map>/bias` `[L, O]`.
      dims: of the backbone.

    Raises:
      UserError: the update has a bias and the map has none.
    """
    (lora,) = make_edits(method, params, dims).layers
    assert isinstance(lora, LoRAEdit)  # what `LoRAModule` makes
    flat = flatten(backbone)
    for name, update in lora.maps.items():
        change = {"kernel": jnp.einsum("lri,lor->lio", update.A, update.B, precision="highest")}
        if update.b is not None:
            change["bias"] = update.b
        for kind, by in change.items():
            if f"layers/{name}/{kind}" not in flat:
                raise UserError(
                    f"the LoRA trains a bias, and the map {name} of this backbone has none to merge it into; keep the "
                    "adapter as it is, or tune with bias=False."
                )
            old = flat[f"layers/{name}/{kind}"]
            flat[f"layers/{name}/{kind}"] = (old + method.scale * by).astype(old.dtype)
    return unflatten(flat)
