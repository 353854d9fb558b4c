"""P-Tuning v2 (Liu et al. 2022): deep prompts, one set of virtual keys and values for every layer.

In layer `i` the real tokens attend to `[P_ik ; k]` with values `[P_iv ; v]`. The published code learns the table
`[P, 2 L D]` itself (N(0, 0.02), since transformers re-initialises it), applies the model's hidden dropout to it for
each row, shifts the positions of real tokens by P, and trains a linear classifier with it; for one task it puts an
MLP of width 512 before the table.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from typing_extensions import override

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods.prefix import DirectPrefix, PrefixMethod, ReparameterisedPrefix
from jaxprefix.typed_json import register
from jaxprefix.values import Count, NonNegative


@register
@dataclasses.dataclass(frozen=True)
class PTuningV2(PrefixMethod):
    """P-Tuning v2 (Liu et al. 2022).

    Attributes:
      init_std: standard deviation of the initial keys and values; None takes the backbone's `initializer_range`
        (0.02), 0 starts from zeros.
      mlp_width: width of the reparameterising MLP; None, the default there, learns keys and values directly.
    """

    method_name: ClassVar[str] = "p_tuning_v2"
    summary: ClassVar[str] = "virtual keys and values in every layer (Liu et al. 2022)"
    usual_rate: ClassVar[float | None] = 2e-2
    size_fields: ClassVar[tuple[str, ...]] = ("length",)

    init_std: NonNegative | None = None
    mlp_width: Count | None = None

    @override
    def build(self, dims: Dims) -> nn.Module:
        self.layer_lengths(dims)
        if self.mlp_width is None:
            return DirectPrefix(self, dims, dims.initializer_range if self.init_std is None else self.init_std)
        if self.init_std is not None:
            raise UserError("PTuningV2 has both init_std and mlp_width; init_std belongs to the form without an MLP.")
        return ReparameterisedPrefix(self, dims, self.mlp_width, torch_init=False)
