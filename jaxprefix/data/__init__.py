"""Where the rows come from, and the padded batches that a step consumes."""

from jaxprefix.data.batches import Batches, batches_per_epoch, evaluation_batches, one_batch, restore_order
from jaxprefix.data.examples import Examples, Vocabulary
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Files, InMemory, Source, Tfds

__all__ = [
    "Batches",
    "Examples",
    "Files",
    "InMemory",
    "Rows",
    "Source",
    "Tfds",
    "Vocabulary",
    "batches_per_epoch",
    "evaluation_batches",
    "one_batch",
    "restore_order",
]
