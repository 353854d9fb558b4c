"""How tokens attend: one operation over real and virtual tokens, its reference, its implementations, its dropout."""

from jaxprefix.attention.dropout import dropout
from jaxprefix.attention.operation import kernel_attention
from jaxprefix.attention.virtual_tokens import VirtualTokens

__all__ = ["VirtualTokens", "dropout", "kernel_attention"]
