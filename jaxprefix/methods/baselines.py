"""What tuning with virtual tokens is measured against: the head alone, the biases, and everything."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from typing_extensions import override

from jaxprefix.edits import NO_EDITS, Dims, Edits
from jaxprefix.methods.base import Method
from jaxprefix.typed_json import register


class NoEdits(nn.Module):
    """The backbone as it is."""

    def __call__(self) -> Edits:
        """No edits, and no leaves."""
        return NO_EDITS


@register
@dataclasses.dataclass(frozen=True)
class HeadOnly(Method):
    """A linear probe: the backbone is frozen and unchanged, only the head is trained."""

    method_name: ClassVar[str] = "head_only"
    summary: ClassVar[str] = "a linear probe: the head alone"
    usual_rate: ClassVar[float | None] = 1e-2

    @override
    def build(self, dims: Dims) -> nn.Module:
        return NoEdits()

    @override
    def conflict(self, other: Method) -> str | None:
        return "a linear probe trains nothing but the head"


@register
@dataclasses.dataclass(frozen=True)
class BitFit(Method):
    """BitFit (Ben Zaken et al. 2022): every bias of the layers and of the embeddings' or the last norm is trained,
    nothing else; they move to `trainable`.

    The bias of the key projection is among them, as published. It shifts all scores of real tokens of a query alike,
    so without rotation it has a gradient only where virtual tokens are seen as well. Backbones without any bias (most
    of the Llama family) are refused.
    """

    method_name: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "every bias, nothing else (Ben Zaken et al. 2022)"
    usual_rate: ClassVar[float | None] = 5e-3

    moves: ClassVar[str] = "biases"

    @override
    def build(self, dims: Dims) -> nn.Module:
        return NoEdits()

    @override
    def trains(self, path: str) -> bool:
        return path.startswith(("layers/", "embeddings/", "norm/")) and path.endswith("/bias")


@register
@dataclasses.dataclass(frozen=True)
class FullFineTuning(Method):
    """Every leaf of the backbone is trained: all of them move to `trainable`, in float32."""

    method_name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every leaf of the backbone"
    usual_rate: ClassVar[float | None] = 3e-4

    @override
    def build(self, dims: Dims) -> nn.Module:
        return NoEdits()

    @override
    def trains(self, path: str) -> bool:
        return True

    @override
    def conflict(self, other: Method) -> str | None:
        return "both own the backbone's biases" if isinstance(other, BitFit) else None
