"""Bottleneck adapters, parallel and sequential (Houlsby et al. 2019; He et al. 2022).

With `adapter(x) = s (Up(dropout(relu(Down(LN(x))))))`, LN only with `norm=True`,

    parallel     f <- f + adapter(z)      beside the MLP: z its input, f its output
    sequential   f <- f + adapter(f)      behind the attention's output projection, the MLP, or the whole layer

The scale multiplies the bias of Up as well. Placements and settings of the inducer paper's code: beside GPT-2's MLP
with a layer norm of its own, before the residual dropout, scale 1, weights N(0, 0.02) (its loader draws them anew);
beside RoBERTa's MLP without one, after the residual dropout, scale 2, "LoRA" initialisation; and, as its adapter
baseline, sequential behind the attention's output projection.
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.attention import dropout
from jaxprefix.contract import required
from jaxprefix.edits import Context, Dims, Edits, LayerEdit, edit, leaf, static
from jaxprefix.methods.base import Method
from jaxprefix.methods.layers import chosen_layers, he_uniform, in_layers
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural, Rate

AdapterInit = Literal["normal", "lora"]
_NORM_EPSILON = 1e-5  # torch's default, which the published adapters keep


@edit
class BottleneckEdit(LayerEdit):
    """A bottleneck adapter of one layer.

    Attributes:
      down, down_bias, up, up_bias: the two matrices.
      norm_scale, norm_bias: of the layer norm before them, or None.
      place: `attention`, `mlp` or `block` behind which it stands; `parallel`: beside the MLP.
      after_dropout: of a parallel one, whether it is added after the MLP's residual dropout.
      scale: `s`.
      rate: of the dropout on the hidden layer.
    """

    down: Float[Array, "*L D r"]
    down_bias: Float[Array, "*L r"]
    up: Float[Array, "*L r D"]
    up_bias: Float[Array, "*L D"]
    norm_scale: Float[Array, "*L D"] | None = None
    norm_bias: Float[Array, "*L D"] | None = None
    place: str = static(default="parallel")
    after_dropout: bool = static(default=False)
    scale: float = static(default=1.0)
    rate: float = static(default=0.0)

    def adapter(self, x: Float[Array, "B T D"], ctx: Context) -> Float[Array, "B T D"]:
        """`s (Up(dropout(relu(Down(LN(x))))))`."""
        with jax.named_scope("adapter"):
            dtype = x.dtype
            if self.norm_scale is not None:
                assert self.norm_bias is not None  # a norm has both
                h = x.astype(jnp.promote_types(dtype, jnp.float32))
                h = h - h.mean(-1, keepdims=True)
                h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + _NORM_EPSILON)
                x = (h * self.norm_scale + self.norm_bias).astype(dtype)
            u = jax.nn.relu(x @ self.down.astype(dtype) + self.down_bias.astype(dtype))
            u = dropout(u, ctx.method_rate(self.rate), ctx.key)
            return self.scale * (u @ self.up.astype(dtype) + self.up_bias.astype(dtype))

    @override
    def project(self, name: str, x: Float[Array, "*B I"], y: Float[Array, "*B O"], ctx: Context) -> Array:
        return y + self.adapter(y, ctx) if self.place == "attention" and name == "o" else y

    @override
    def after_mlp(self, z: Float[Array, "B T D"], f: Float[Array, "B T D"], ctx: Context) -> Float[Array, "B T D"]:
        if self.place == "mlp":
            return f + self.adapter(f, ctx)
        return f + self.adapter(z, ctx) if self.place == "parallel" and not self.after_dropout else f

    @override
    def after_mlp_dropout(
        self, z: Float[Array, "B T D"], f: Float[Array, "B T D"], ctx: Context
    ) -> Float[Array, "B T D"]:
        return f + self.adapter(z, ctx) if self.place == "parallel" and self.after_dropout else f

    @override
    def after_block(self, h: Float[Array, "B T D"], ctx: Context) -> Float[Array, "B T D"]:
        return h + self.adapter(h, ctx) if self.place == "block" else h

    @override
    def needs_layer(self) -> bool:
        return self.place != "attention"

    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...]:
        """The scale in the second matrix and its bias."""
        up, up_bias = self.scale * self.up, self.scale * self.up_bias
        return (dataclasses.replace(self, up=up, up_bias=up_bias, scale=1.0, rate=0.0),)


@dataclasses.dataclass(frozen=True)
class _Bottleneck(Method):
    """What both kinds of adapters share; see `ParallelAdapter`."""

    width: Count = 16
    norm: bool = False
    scale: float = 1.0
    dropout: Rate | None = 0.0
    init: AdapterInit = "lora"
    layers: tuple[Natural, ...] | None = None

    def build(self, dims: Dims) -> nn.Module:
        chosen_layers(self, dims)
        return BottleneckModule(self, dims)

    @required
    def placement(self) -> dict[str, Any]:
        """The fields `place` and `after_dropout` of the layer edit."""
        raise NotImplementedError


@register
@dataclasses.dataclass(frozen=True)
class ParallelAdapter(_Bottleneck):
    """A bottleneck adapter beside the MLP (He et al. 2022).

    Trained: `down` `[L, D, r]`, `down_bias`, `up` `[L, r, D]`, `up_bias`, with a norm `norm_scale` and `norm_bias`.

    Attributes:
      width: r.
      norm: a trained layer norm (epsilon 1e-5) of its own before it.
      scale: `s`.
      dropout: rate on the hidden layer; None takes the backbone's hidden dropout.
      init: `lora`: Down uniform in +-1/sqrt(D), Up and the biases 0, so nothing changes at the start; `normal`: both
        N(0, 0.02), biases 0.
      layers: indices of the layers that get one; None for all.
      after_dropout: add it after the residual dropout of the MLP (the inducer paper's RoBERTa), not before.
    """

    method_name: ClassVar[str] = "parallel_adapter"
    summary: ClassVar[str] = "a bottleneck adapter beside the MLP (He et al. 2022)"
    usual_rate: ClassVar[float | None] = 5e-3
    size_fields: ClassVar[tuple[str, ...]] = ("width",)

    after_dropout: bool = False

    @override
    def placement(self) -> dict[str, Any]:
        return {"place": "parallel", "after_dropout": self.after_dropout}


@register
@dataclasses.dataclass(frozen=True)
class SequentialAdapter(_Bottleneck):
    """A bottleneck adapter behind a sublayer, before its residual dropout, or behind the whole layer.

    Attributes:
      width, norm, scale, dropout, init, layers: as `ParallelAdapter` has them.
      place: behind the `attention`'s output projection, the `mlp`, or the whole `block`.
    """

    method_name: ClassVar[str] = "sequential_adapter"
    summary: ClassVar[str] = "a bottleneck adapter behind a sublayer (Houlsby et al. 2019)"
    usual_rate: ClassVar[float | None] = 5e-3
    size_fields: ClassVar[tuple[str, ...]] = ("width",)

    place: Literal["attention", "mlp", "block"] = "mlp"

    @override
    def placement(self) -> dict[str, Any]:
        return {"place": self.place, "after_dropout": False}

    @override
    def reads_output(self, name: str) -> bool:
        return self.place == "attention" and name == "o"


class BottleneckModule(nn.Module):
    """The leaves of an adapter."""

    method: _Bottleneck
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, dims = self.method, self.dims
        layers, d, r = len(chosen_layers(method, dims)), dims.width, method.width
        normal, zeros, ones = nn.initializers.normal(0.02), nn.initializers.zeros, nn.initializers.ones
        if method.init == "lora":

            def down_init(key: Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> Array:
                return jnp.swapaxes(he_uniform()(key, (shape[0], shape[2], shape[1]), dtype), 1, 2)

        starts = (down_init, zeros) if method.init == "lora" else (normal, normal)
        shapes = {"down": (starts[0], (d, r)), "down_bias": (zeros, (r,)), "up": (starts[1], (r, d))}
        shapes |= {"up_bias": (zeros, (d,))}
        if method.norm:
            shapes |= {"norm_scale": (ones, (d,)), "norm_bias": (zeros, (d,))}
        leaves = {  # the two matrices, and vectors
            name: leaf(
                self, name, init, (layers, *shape), decay=len(shape) == 2, matrix=(1, 2) if len(shape) == 2 else None
            )
            for name, (init, shape) in shapes.items()
        }
        bottleneck = BottleneckEdit(
            **in_layers(leaves, method, dims),
            **method.placement(),
            scale=method.scale,
            rate=dims.hidden_dropout if method.dropout is None else method.dropout,
        )
        return Edits((bottleneck,))
