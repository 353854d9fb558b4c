"""What tuning with virtual tokens is measured against: the head alone, and everything."""

import dataclasses

import flax.linen as nn

from jaxprefix.edits import NO_EDITS, Dims, Edits, Method


class NoEdits(nn.Module):
    """The backbone as it is."""

    def __call__(self) -> Edits:
        return NO_EDITS


@dataclasses.dataclass(frozen=True)
class HeadOnly(Method):
    """A linear probe: the backbone is frozen and unchanged, only the head is trained."""

    def build(self, dims: Dims) -> nn.Module:
        return NoEdits()


@dataclasses.dataclass(frozen=True)
class FullFineTuning(Method):
    """Every leaf of the backbone is trained: all of them move to `trainable`, in float32."""

    def build(self, dims: Dims) -> nn.Module:
        return NoEdits()

    def trains(self, path: str) -> bool:
        return True
