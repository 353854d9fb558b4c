"""Which implementation each attention of a model takes, and why it gives way where it does."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax

from jaxprefix.attention import Choice, recorded_choices
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree


def attention_calls(model: TunedModel, trainable: Tree, frozen: Tree, batch: Mapping[str, Any]) -> dict[str, Counter]:
    """How often an implementation is taken in one forward pass, for training and for evaluation.

    The passes are traced and not computed, layer by layer, so that each of the layers counts.

    Args:
      model: the tuned model.
      trainable: its trained leaves, arrays or shapes.
      frozen: its frozen ones, likewise.
      batch: what it reads, likewise; the shapes decide.

    Returns:
      For `training` and for `evaluation`, the calls by their `Choice`, in the order in which the model makes them.
    """
    # a scan traces its body once for all layers, and so does rematerialisation
    model = dataclasses.replace(model, backbone=model.backbone.clone(unroll=True, remat="none"))
    found = {}
    for name, training in (("training", True), ("evaluation", False)):

        def forward(trainable: Tree, frozen: Tree, batch: Any, key: Any, training: bool = training) -> Any:
            return model.forward(trainable, frozen, batch, key=key if training else None, training=training)

        with recorded_choices() as choices:
            jax.eval_shape(forward, trainable, frozen, dict(batch), jax.random.key(0))
        found[name] = Counter(choices)
    return found


def attention_lines(calls: Mapping[str, Counter]) -> list[str]:
    """A line for each group of equal calls, or `PASS: line` where training and evaluation differ."""
    lines = {name: [_line(choice, count) for choice, count in counted.items()] for name, counted in calls.items()}
    first, *others = lines.values()
    if all(other == first for other in others):
        return first
    return [f"{name}: {line}" for name, group in lines.items() for line in group]


def _line(choice: Choice, count: int) -> str:
    taken = f"{choice.name}, {count} {'call' if count == 1 else 'calls'}"
    return taken if choice.reason is None else f"{taken}, in the place of {choice.asked}: {choice.reason}"
