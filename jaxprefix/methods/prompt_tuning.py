"""Prompt tuning (Lester et al. 2021): virtual tokens at the embeddings alone, carried through the frozen layers.

P trained vectors stand before the words' embeddings; they get positions (0 to P - 1, the text follows) and token type 0
as words do, attend and are attended to, and their rows are taken off before the head, so that the first token of the
text is the first row a head sees. This is the form of Hugging Face PEFT. The prompt baseline of the P-Tuning v2 code
differs in that it sends the text through the embedding layer twice.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from typing_extensions import override

from jaxprefix.edits import Dims, Edits, leaf
from jaxprefix.methods.base import Method
from jaxprefix.typed_json import register
from jaxprefix.values import Count, NonNegative


@register
@dataclasses.dataclass(frozen=True)
class PromptTuning(Method):
    """Prompt tuning. Trained: `prompt` `[P, D]`.

    A head that pools the first token of an encoder (`pooling="first"`, `"pooler"`) takes the first real token of the
    text, not the first virtual one as Hugging Face PEFT's sequence classifiers do.

    Attributes:
      length: P.
      init_std: standard deviation of the initial vectors; None takes the backbone's `initializer_range` (0.02).
    """

    method_name: ClassVar[str] = "prompt_tuning"
    summary: ClassVar[str] = "virtual tokens at the embeddings alone (Lester et al. 2021)"
    usual_rate: ClassVar[float | None] = 2e-2
    size_fields: ClassVar[tuple[str, ...]] = ("length",)

    length: Count = 16
    init_std: NonNegative | None = None

    @classmethod
    def of_size(cls, size: int, like: Method | None = None) -> "PromptTuning":
        """With the initial scale of `like`, where that has one."""
        return cls(length=size, init_std=getattr(like, "init_std", None))

    @override
    def build(self, dims: Dims) -> nn.Module:
        return PromptModule(self, dims)


class PromptModule(nn.Module):
    """The leaf of a `PromptTuning`."""

    method: PromptTuning
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        std = self.dims.initializer_range if self.method.init_std is None else self.method.init_std
        shape = (self.method.length, self.dims.width)
        return Edits(prompt=leaf(self, "prompt", nn.initializers.normal(std), shape))
