"""Adaptive Prefix Tuning, APT (Zhang et al., ACL 2023): P-Tuning v2 with a gate on every virtual token.

For layer i, with the layer's input `h_{i-1}` and the prefix `P_ik, P_iv` of P-Tuning v2,

    alpha_i = sigmoid(h_{i-1}[first token] W_i)             one weight per row and virtual token, W_i [D, P]
    P^_ik = lambda_i alpha_i P_ik,   P^_iv = lambda_i alpha_i P_iv        lambda_i a trained number per layer

and attention over `[P^ ; real tokens]`. The gate scales keys and values themselves, before the softmax, and is shared
by both and by all heads; a closed gate is therefore not an absent token (its score is 0, and it takes its share).

What is known of the paper: that a gate multiplies the prefix, that it is built on P-Tuning v2 with its prefix lengths,
and that P-Tuning v2 with 1.5 times the length has as many parameters (which fixes one `D x P` matrix per layer) was
read in print; sigmoid, first token, no bias, and a plain scalar lambda are recalled, and so an option of each exists
where it makes sense (`gate_source`, `gate_bias`). The paper gives no initialisation: N(0, 0.02) for W and 1 for lambda
are inferred from its code base, and `gate_std`, `gate_scale` change them.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.edits import Dims, Edits, leaf
from jaxprefix.errors import UserError
from jaxprefix.methods.p_tuning_v2 import PTuningV2
from jaxprefix.methods.prefix import spread
from jaxprefix.methods.prefix_edits import GatedPrefix, GateSource
from jaxprefix.typed_json import register
from jaxprefix.values import NonNegative


@register
@dataclasses.dataclass(frozen=True)
class AdaptivePrefix(PTuningV2):
    """Adaptive Prefix Tuning (Zhang et al. 2023).

    Trained beside P-Tuning v2's leaves, under `gate`: `kernel` `[N, D]` (a column of `W` for each of the N virtual
    tokens of all layers), `bias` `[N]`, `scale` `[L]` (lambda). With P everywhere that is 3 L P D + L parameters.

    Attributes:
      token_gate: whether there is an alpha (False: the ablation "w/o alpha").
      layer_scale: whether there is a lambda (False: "w/o lambda").
      gate_source: what alpha reads: the `first` real token (as published), the masked `mean` (encoders only), or
        `none`, a free vector in place of the hidden state (the ablation "w/o h").
      gate_bias: give alpha a bias, 0 at the start.
      gate_std: standard deviation of `W`, or of the free vector; None takes the backbone's `initializer_range` (0.02).
      gate_scale: lambda at the start.

    `gate_std=0, gate_scale=2` is the parity start: exactly P-Tuning v2 at step 0.
    """

    method_name: ClassVar[str] = "adaptive_prefix"
    summary: ClassVar[str] = "P-Tuning v2 with gates of tokens and layers (Zhang et al. 2023)"
    usual_rate: ClassVar[float | None] = 2e-2
    size_fields: ClassVar[tuple[str, ...]] = ("length",)

    token_gate: bool = True
    layer_scale: bool = True
    gate_source: GateSource = "first"
    gate_bias: bool = False
    gate_std: NonNegative | None = None
    gate_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.token_gate and (self.gate_source != "first" or self.gate_bias):
            raise UserError(
                "AdaptivePrefix(token_gate=False) has no gate that gate_source or gate_bias could belong to; "
                "remove those."
            )
        if not (self.token_gate or self.layer_scale):
            raise UserError("AdaptivePrefix without token_gate and layer_scale is P-Tuning v2; take PTuningV2.")
        if not self.layer_scale and self.gate_scale != 1:
            raise UserError("AdaptivePrefix(layer_scale=False) has no scale to start from; remove gate_scale.")
        if self.layer_scale and self.gate_scale == 0:
            raise UserError(
                "AdaptivePrefix(gate_scale=0) would give prefix and gate no gradient at the start; take another value, "
                "or no_op_start=True to start from the backbone."
            )

    @override
    def build(self, dims: Dims) -> nn.Module:
        if dims.causal and self.gate_source == "mean":
            raise UserError(
                "AdaptivePrefix(gate_source='mean') reads tokens that a causal model has not seen yet; "
                "take gate_source='first'."
            )
        return GatedModule(self, dims, super().build(dims))

    @override
    def make_edits(
        self, keys: Float[Array, "N K E"], values: Float[Array, "N K E"], mass: Float[Array, "N"] | None, dims: Dims
    ) -> Edits:
        prefix = GatedPrefix(**self.prefix_fields(keys, values, mass, dims), source=self.gate_source)
        return Edits((prefix,), position_offset=self.offset(dims))


class GatedModule(nn.Module):
    """The prefix's module with the gate's leaves beside its own."""

    method: AdaptivePrefix
    dims: Dims
    prefix: nn.Module

    @override
    def setup(self) -> None:
        nn.share_scope(self, self.prefix)  # the prefix's leaves lie where P-Tuning v2 has them
        method, dims = self.method, self.dims
        lengths = method.layer_lengths(dims)
        std = dims.initializer_range if method.gate_std is None else method.gate_std
        self.gate = GateLeaves(method, sum(lengths), sum(n > 0 for n in lengths), dims.width, std)

    def __call__(self) -> Edits:
        """The prefix's edits with the gates in them."""
        edits = self.prefix()
        lengths = self.method.layer_lengths(self.dims)
        kernel, bias, scale = self.gate()
        per_layer = tuple(int(n > 0) for n in lengths)
        gated = dataclasses.replace(
            edits.layers[0],
            gate_kernel=None if kernel is None else spread(kernel, lengths),
            gate_bias=None if bias is None else spread(bias, lengths),
            gate_scale=None if scale is None else spread(scale, per_layer)[:, 0],
        )
        return dataclasses.replace(edits, layers=(gated,))


class GateLeaves(nn.Module):
    """`kernel` `[N, D]`, `bias` `[N]`, `scale` of every layer that has virtual tokens; those that the method wants."""

    method: AdaptivePrefix
    tokens: int
    layers: int
    width: int
    std: float

    @nn.compact
    def __call__(self) -> tuple[Array | None, Array | None, Array | None]:
        """Kernel, bias and scale; None for those that the method has not."""
        method, normal, kernel, bias, scale = self.method, nn.initializers.normal(self.std), None, None, None
        if method.token_gate and method.gate_source != "none":
            kernel = leaf(self, "kernel", normal, (self.tokens, self.width), group="gate")
        if method.token_gate and (method.gate_bias or method.gate_source == "none"):
            bias_init = normal if method.gate_source == "none" else nn.initializers.zeros
            bias = leaf(self, "bias", bias_init, (self.tokens,), group="gate", decay=False)
        if method.layer_scale:
            start = nn.initializers.constant(method.gate_scale)
            scale = leaf(self, "scale", start, (self.layers,), group="gate", decay=False)
        return kernel, bias, scale
