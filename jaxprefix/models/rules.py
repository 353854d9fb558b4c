"""How a backbone's frozen leaves lie over a mesh: a table of rules for each kind, the first that matches a path holds.

Kernels are divided over both fsdp and tp, so that a chip holds 1 / (fsdp * tp) of the model: over tp by heads or MLP
units (Shoeybi et al. 2019, "Megatron-LM": columns of q, k, v, gate, up; rows of o, down), over fsdp along the other
axis, gathered layer by layer where it is used. The axis of layers is never divided: a scan takes its slices.
"""

import re
from collections.abc import Mapping
from typing import Any

from jax.sharding import PartitionSpec as P

from jaxprefix.distributed.constraints import divided, heads_along
from jaxprefix.errors import UserError
from jaxprefix.models.backbones import Module
from jaxprefix.models.encoder import Encoder

Rules = tuple[tuple[str, P], ...]

_STACK: Rules = (
    (r"layers/(q|k|v|gate|up)/kernel", P(None, "fsdp", "tp")),
    (r"layers/(q|k|v|gate|up)/(bias|kernel_scale)", P(None, "tp")),
    (r"layers/(o|down)/kernel", P(None, "tp", "fsdp")),
    (r"layers/(o|down)/kernel_scale", P(None, "fsdp")),
    (r"layers/(o|down)/bias", P()),
    (r"(layers/)?(\w+_)?norm/(scale|bias)", P()),
)
_TABLES: Rules = (
    (r"embeddings/word/embedding", P("tp", "fsdp")),
    (r"embeddings/(position|token_type)/embedding", P()),
)
ENCODER_RULES: Rules = (
    *_TABLES,
    (r"embeddings/norm/(scale|bias)", P()),
    *_STACK,
    (r"(pooler|mlm/dense)/kernel", P("fsdp", "tp")),
    (r"mlm/decoder/kernel", P("fsdp", "tp")),
    (r"(pooler|mlm/dense)/bias|mlm/norm/(scale|bias)|mlm/bias", P()),
)
DECODER_RULES: Rules = (*_TABLES, *_STACK, (r"lm_head/kernel", P("fsdp", "tp")))


def frozen_spec(module: Module, path: str, shape: tuple[int, ...], mesh: Any) -> P:
    """How a leaf of a backbone is divided.

    Args:
      module: the encoder or decoder that it belongs to.
      path: its keys joined by "/".
      shape: its global shape.
      mesh: with `shape` a mapping from axes to sizes.

    Returns:
      The rule's spec, less the axes that its sizes do not divide by; queries, keys and values are divided by whole
      heads, or not at all.

    Raises:
      UserError: no rule matches.
    """
    rules = ENCODER_RULES if isinstance(module, Encoder) else DECODER_RULES
    spec = next((spec for pattern, spec in rules if re.fullmatch(pattern, path)), None)
    if spec is None:
        raise UserError(
            f"no sharding rule of {type(module).__name__} matches the leaf {path}; add one for it to the rules in "
            "jaxprefix/models/rules.py."
        )
    names = [*spec, *[None] * (len(shape) - len(spec))]
    found = re.fullmatch(r"layers/([qkvo])/(?:kernel|bias|kernel_scale)", path)
    if found is not None and divided(heads_along(found[1], module.dims), "tp", mesh) is None:
        names = [None if name == "tp" else name for name in names]
    return P(*(divided(size, name, mesh) for size, name in zip(shape, names, strict=True)))


def specs(module: Module, leaves: Mapping[str, Any], mesh: Any) -> dict[str, P]:
    """`frozen_spec` of leaves by path."""
    return {path: frozen_spec(module, path, tuple(leaf.shape), mesh) for path, leaf in leaves.items()}
