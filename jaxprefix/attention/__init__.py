"""How tokens attend: one operation over real and virtual tokens, its masks as structure, its implementations."""

from jaxprefix.attention.biases import Bias, DistanceBias, ScoreBias
from jaxprefix.attention.dropout import dropout
from jaxprefix.attention.implementations import Choice, recorded_choices
from jaxprefix.attention.masks import MaskStructure
from jaxprefix.attention.operation import kernel_attention
from jaxprefix.attention.virtual_tokens import VirtualTokens

__all__ = [
    "Bias",
    "Choice",
    "DistanceBias",
    "MaskStructure",
    "ScoreBias",
    "VirtualTokens",
    "dropout",
    "kernel_attention",
    "recorded_choices",
]
