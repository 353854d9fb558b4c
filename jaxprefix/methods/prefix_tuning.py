"""Prefix-tuning (Li & Liang 2021): virtual keys and values made by an MLP while training, and kept without it.

`P_theta[i] = MLP_theta(P'_theta[i])` (their section 4.3) with the embedding `P'` `[P, D]` and
`MLP(e) = W2 tanh(W1 e + b1) + b2`, as in the published code, whose embedding has the model's width (the paper gives it
the MLP's width); both agree on the MLP's width, 512 for table-to-text and 800 for summarisation. After training only
the keys and values are kept: `collapse`.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from typing_extensions import override

from jaxprefix.edits import Dims
from jaxprefix.methods.base import make_edits
from jaxprefix.methods.p_tuning_v2 import PTuningV2
from jaxprefix.methods.prefix import PrefixMethod, ReparameterisedPrefix
from jaxprefix.methods.prefix_edits import Prefix
from jaxprefix.trees import Tree
from jaxprefix.typed_json import register
from jaxprefix.values import Count


@register
@dataclasses.dataclass(frozen=True)
class PrefixTuning(PrefixMethod):
    """Prefix-tuning (Li & Liang 2021).

    Attributes:
      dropout: rate of the dropout on the prefix, 0 in the published code.
      mlp_width: width of the reparameterising MLP (`mid_dim`).
    """

    method_name: ClassVar[str] = "prefix_tuning"
    summary: ClassVar[str] = "virtual keys and values made by an MLP (Li and Liang 2021)"
    usual_rate: ClassVar[float | None] = 5e-3
    size_fields: ClassVar[tuple[str, ...]] = ("mlp_width",)

    dropout: float | None = 0.0
    mlp_width: Count = 512

    @override
    def build(self, dims: Dims) -> nn.Module:
        self.layer_lengths(dims)
        return ReparameterisedPrefix(self, dims, self.mlp_width, torch_init=True)


def collapse(method: PrefixTuning | PTuningV2, params: Tree, dims: Dims) -> tuple[PTuningV2, dict[str, Array]]:
    """A reparameterised prefix as plain keys and values: the same function without its MLP.

    Args:
      method: the method that `params` belong to.
      params: its trained leaves (`trainable["method"]`).
      dims: of the backbone.

    Returns:
      The direct method and its leaves `keys`, `values` `[N, K, E]` (and `mass` `[N]` after a no-op start).
    """
    common = {field.name: getattr(method, field.name) for field in dataclasses.fields(PrefixMethod)}
    direct = PTuningV2(**common)
    (prefix,) = make_edits(method, params, dims).layers
    assert isinstance(prefix, Prefix)  # what a prefix method makes
    lengths = method.layer_lengths(dims)
    leaves = {"keys": prefix.keys, "values": prefix.values}
    if method.no_op_start and prefix.mass is not None:
        leaves["mass"] = prefix.mass
    flat = {
        name: jnp.concatenate([leaf[layer, :length] for layer, length in enumerate(lengths)])
        for name, leaf in leaves.items()
    }
    return direct, flat
