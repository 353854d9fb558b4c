"""A tiny adapter folder for tests of the command line and of folders; nothing is trained."""

from pathlib import Path

from jaxprefix.data import Files
from jaxprefix.methods import PTuningV2
from jaxprefix.tasks import Classification, SequenceClassifier
from tests.exchange.cases import backbone, drawn_adapter

LABELS = ["no", "yes"]


def classifier(source=None, seed=0, labels=LABELS, method=None):
    """An adapter of a text classifier with random leaves on a tiny BERT, or on the backbone in `source`."""
    task = Classification(Files("train.jsonl"), max_length=10)
    method = PTuningV2(length=2) if method is None else method
    return drawn_adapter(source or backbone("bert"), method, SequenceClassifier(), task, {"labels": labels}, seed)


def write_classifier(folder: Path, **options) -> str:
    """The folder of such an adapter."""
    return str(classifier(**options).save(folder))
