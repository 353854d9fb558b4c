"""What is asked of the rows: the kinds of task, published formats, their encoding and metrics."""

from jaxprefix.tasks.kinds import (
    CausalLanguage,
    Classification,
    ConditionalGeneration,
    MaskedLanguage,
    Tagging,
    Task,
    Unlabelled,
)
from jaxprefix.tasks.prepare import encode_texts, prepare

__all__ = [
    "CausalLanguage",
    "Classification",
    "ConditionalGeneration",
    "MaskedLanguage",
    "Tagging",
    "Task",
    "Unlabelled",
    "encode_texts",
    "prepare",
]
