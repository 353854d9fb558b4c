"""From hidden states to logits: what every head is, and those of language models. Other heads stand beside their tasks,
in `jaxprefix/tasks`."""

from jaxprefix.models.heads.base import (
    IGNORED,
    REAL,
    Canonical,
    Head,
    Unit,
    affine,
    cross_entropy,
    example_weights,
    label_targets,
    read_target,
    register_head,
)
from jaxprefix.models.heads.language import CausalLM, MaskedLM
from jaxprefix.models.heads.linear import LabelHead, LinearHead, Place, PooledHead, Pooling, pool

__all__ = [
    "IGNORED",
    "REAL",
    "Canonical",
    "CausalLM",
    "Head",
    "LabelHead",
    "LinearHead",
    "MaskedLM",
    "Place",
    "PooledHead",
    "Pooling",
    "Unit",
    "affine",
    "cross_entropy",
    "example_weights",
    "label_targets",
    "pool",
    "read_target",
    "register_head",
]
