"""What the tests of the exchange share: the committed fixtures, and our own tiny adapters on their backbones."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.exchange.converted import NO_ROWS, read_base
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import Classification, Tagging, TokenClassifier
from jaxprefix.training.config import Run
from tests import tiny

FIXTURES = Path(__file__).with_name("fixtures")
LABELS = ("no", "maybe", "yes")
TYPES = ("regression", "single_label_classification", "multi_label_classification")
NAMES = [
    f"{kind}-{task}{mlp}"
    for kind in ("bert", "roberta")
    for task in ("classification", "tagging")
    for mlp in ("", "-mlp")
]


def kind_of(name):
    return name.split("-")[0]


def backbone(name):
    return str(FIXTURES / kind_of(name))


def batch(name):
    """The inputs of `expected(name)`."""
    stored = np.load(FIXTURES / "expected.npz")
    names = {"input_ids": "input_ids", "attention_mask": "mask", "token_type_ids": "segments"}  # as they were stored
    return {key: stored[f"{kind_of(name)}/{old}"] for key, old in names.items()}


def expected(name):
    """The logits that live PEFT gave."""
    return np.load(FIXTURES / "expected.npz")[name]


def logits(adapter, inputs):
    inputs = {key: jnp.asarray(value) for key, value in inputs.items()}
    return np.asarray(adapter.model.apply(adapter.trainable, adapter.frozen, inputs).logits)


def files(name):
    """Tensors and settings of a fixture."""
    from safetensors.numpy import load_file

    folder = FIXTURES / name
    return load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_text())


def own_adapter(name, method, head, seed=0, source=None):
    """An adapter of ours with random leaves, on the backbone of a fixture or in `source`."""
    task = (Tagging if isinstance(head, TokenClassifier) else Classification)(NO_ROWS, max_length=10)
    return drawn_adapter(source or backbone(name), method, head, task, {"labels": list(LABELS)}, seed)


def drawn_adapter(source, method, head, task, facts, seed=0):
    """An adapter with random leaves for a task with these facts, on the backbone in `source`."""
    base = read_base(source)
    run = Run(task, backbone=base.identity["source"], method=method, head=head)
    model = TunedModel(base.module, method, run.resolve_head(task.count(facts)))
    return Adapter(model, *tiny.drawn(model, base.tree, seed), base, run, facts, {})
