"""From what: where the rows come from, what is asked of them, and the padded batches that a step consumes."""

from jaxprefix.data.batches import Batches, batches_per_epoch, evaluation_batches, restore_order
from jaxprefix.data.examples import Examples, Vocabulary
from jaxprefix.data.prepare import encode_texts, prepare
from jaxprefix.data.sources import given_splits, open_split
from jaxprefix.data.tasks import (
    CausalLanguage,
    Classification,
    ConditionalGeneration,
    Files,
    MaskedLanguage,
    Source,
    Tagging,
    Task,
    Tfds,
    Unlabelled,
)

__all__ = [
    "Batches",
    "CausalLanguage",
    "Classification",
    "ConditionalGeneration",
    "Examples",
    "Files",
    "MaskedLanguage",
    "Source",
    "Tagging",
    "Task",
    "Tfds",
    "Unlabelled",
    "Vocabulary",
    "batches_per_epoch",
    "encode_texts",
    "evaluation_batches",
    "given_splits",
    "open_split",
    "prepare",
    "restore_order",
]
