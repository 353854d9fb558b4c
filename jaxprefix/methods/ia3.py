"""(IA)3 (Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning").

Learned vectors scale activations, element by element. With the keys K, values V and the MLP's units of a layer,

    softmax(Q (l_k * K)^T / sqrt(E)) (l_v * V)        and        W_down (l_ff * act(W_up x))

(their section 3.3), all vectors starting at 1. So `l_k` and `l_v` scale the outputs of the maps k and v, biases
included and before any rotation, and `l_ff` scales the input of the map down; `outputs` and `inputs` name other maps.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.edits import Dims, Edits, LayerEdit, edit, leaf
from jaxprefix.edits.context import Context
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.methods.layers import chosen_layers, in_layers
from jaxprefix.typed_json import register
from jaxprefix.values import Natural


@edit
class IA3Edit(LayerEdit):
    """Scales of outputs and inputs of linear maps, by the maps' names.

    Attributes:
      outputs, inputs: `l - 1`, so that zeros change nothing.
    """

    outputs: dict[str, Float[Array, "*L O"]]
    inputs: dict[str, Float[Array, "*L I"]]

    @override
    def before_project(self, name: str, x: Float[Array, "*B I"], ctx: Context) -> Array:
        return x * (1 + self.inputs[name]) if name in self.inputs else x

    @override
    def project(self, name: str, x: Float[Array, "*B I"], y: Float[Array, "*B O"], ctx: Context) -> Array:
        return y * (1 + self.outputs[name]) if name in self.outputs else y

    def canonical(self, dims: Dims) -> tuple[LayerEdit, ...]:
        """One edit for each vector."""
        outputs = tuple(IA3Edit({name: self.outputs[name]}, {}) for name in sorted(self.outputs))
        return outputs + tuple(IA3Edit({}, {name: self.inputs[name]}) for name in sorted(self.inputs))


@register
@dataclasses.dataclass(frozen=True)
class IA3(Method):
    """(IA)3 (Liu et al. 2022).

    Trained: `outputs/<map>` `[L, O]` and `inputs/<map>` `[L, I]`, the scales `l`.

    Attributes:
      outputs: the linear maps of a layer whose outputs are scaled, of `q k v o up down` and, where the MLP is gated,
        `gate`.
      inputs: those whose inputs are scaled.
      layers: indices of the layers that have scales; None for all.
    """

    method_name: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "scales of keys, values and the MLP's units (Liu et al. 2022)"
    usual_rate: ClassVar[float | None] = 3e-3  # as published

    outputs: tuple[str, ...] = ("k", "v")
    inputs: tuple[str, ...] = ("down",)
    layers: tuple[Natural, ...] | None = None

    def __post_init__(self) -> None:
        if not self.outputs and not self.inputs:
            raise UserError("IA3 scales no map; name at least one in outputs or inputs.")
        for field in ("outputs", "inputs"):
            names = getattr(self, field)
            if len(set(names)) != len(names):
                raise UserError(f"IA3 has {field} = {names}; name each linear map once.")

    @override
    def reads_output(self, name: str) -> bool:
        return name in self.outputs

    @override
    def conflict(self, other: Method) -> str | None:
        if not isinstance(other, IA3):
            return None
        shared = sorted({*self.outputs} & {*other.outputs} | {*self.inputs} & {*other.inputs})
        return f"both scale {', '.join(shared)}" if shared else None

    @override
    def build(self, dims: Dims) -> nn.Module:
        chosen_layers(self, dims)
        unknown = [name for name in (*self.outputs, *self.inputs) if name not in dims.maps]
        if unknown:
            raise UserError(f"IA3 names the map {unknown[0]!r}; a layer has {', '.join(dims.maps)}.")
        return IA3Module(self, dims)


class IA3Module(nn.Module):
    """The leaves of an `IA3`."""

    method: IA3
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, maps = self.method, self.dims.maps
        widths = {"outputs": {name: maps[name][1] for name in method.outputs}}
        widths["inputs"] = {name: maps[name][0] for name in method.inputs}
        made = {kind: Scales(method, self.dims, width, name=kind)() for kind, width in widths.items()}
        changes = jax.tree.map(lambda scale: scale - 1, made)
        return Edits((IA3Edit(**in_layers(changes, method, self.dims)),))


class Scales(nn.Module):
    """A scale of each map, `[L, width]` over the layers that the method chose."""

    method: IA3
    dims: Dims
    widths: dict[str, int]

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        """The scales by the names of their maps."""
        layers = len(chosen_layers(self.method, self.dims))
        ones = nn.initializers.ones
        return {name: leaf(self, name, ones, (layers, width), decay=False) for name, width in self.widths.items()}
