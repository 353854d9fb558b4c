"""New words: rows of the vocabulary that a frozen model has not, trained alone.

The published inducer experiments with GPT-2 (Chen et al. 2022) add 16 markers to the vocabulary (`<subject>`,
`<question>`, `<eos_qa>` and so on) and train their rows beside the method, tied with the head as all rows are; the
frozen rows stay as they are.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from typing_extensions import override

from jaxprefix.edits import Dims, Edits, leaf
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.typed_json import register
from jaxprefix.values import Count, NonNegative


@register
@dataclasses.dataclass(frozen=True)
class NewTokens(Method):
    """New rows of a decoder's vocabulary, ids V to V + N - 1. Trained: `words` `[N, D]`.

    They are looked up as they are (a factor that a backbone puts on its own rows does not apply) and are columns of
    the logits as well, also where the backbone's own head is not tied to its rows. It stands in sums of methods, as in
    `Inducer() + NewTokens(16)`; the rows of several follow one another.

    Attributes:
      count: N.
      init_std: standard deviation of the initial rows; None takes the backbone's `initializer_range` (0.02), which is
        what the published code does.
    """

    method_name: ClassVar[str] = "new_tokens"
    summary: ClassVar[str] = "trained rows of the vocabulary that the model has not"

    count: Count = 16
    init_std: NonNegative | None = None

    @override
    def build(self, dims: Dims) -> nn.Module:
        if not dims.causal:
            raise UserError("NewTokens are rows of a decoder's vocabulary, and this backbone is an encoder; drop them.")
        return NewTokensModule(self, dims)


class NewTokensModule(nn.Module):
    """The leaf of a `NewTokens`."""

    method: NewTokens
    dims: Dims

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        std = self.dims.initializer_range if self.method.init_std is None else self.method.init_std
        shape = (self.method.count, self.dims.width)
        return Edits(words=leaf(self, "words", nn.initializers.normal(std), shape))
