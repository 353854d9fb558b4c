"""The least products that one update of a frozen model can need, from its sizes alone.

Counted are, two FLOPs for each multiply-add: the forward pass; in the backward pass the gradients of activations, each
product once more by its input, scores and weighted values by both; of virtual tokens their scores, values and
gradients. In the lowest layer nothing need flow below queries, keys and values, nor to weights of real tokens, unless
words themselves are trained.
Causal queries meet the tokens before them, those of windows the ones inside. Not counted are gradients of frozen
leaves, layers computed twice, and a method's own maps (LoRA, inducers, gates), which are small.
"""

import dataclasses
from typing import Any

import jax

from jaxprefix.edits import Dims
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import flatten


@dataclasses.dataclass(frozen=True)
class Least:
    """FLOPs over all devices.

    Attributes:
      forward: of the loss.
      backward: of the gradients that must flow.
      words: what is counted.
    """

    forward: int
    backward: int
    words: str

    @property
    def total(self) -> int:
        return self.forward + self.backward


def least_flops(model: TunedModel, trainable: Any, rows: int, tokens: int) -> Least:
    """The least of one update.

    Args:
      model: any; its head may be any or none.
      trainable: its tree, of arrays or shapes.
      rows, tokens: B and T of the global batch.
    """
    dims, edits = model.backbone.dims, jax.eval_shape(model.edits, trainable)
    prompt = 0 if edits.prompt is None else edits.prompt.shape[0]
    columns = tokens + prompt
    count, virtual = rows * columns, sum(edit.virtual_count() for edit in edits.layers)
    maps = {name: 2 * count * inputs * outputs for name, (inputs, outputs) in dims.maps.items()}
    linear, pair = sum(maps.values()), 4 * count * dims.heads * dims.head_width
    seen = sum(seen_tokens(model.backbone.config, dims, layer, columns) for layer in range(dims.layers))
    lowest = seen_tokens(model.backbone.config, dims, 0, columns)
    head = _head_flops(model, rows, tokens, dims)
    forward = round(dims.layers * linear + pair * (seen + dims.layers * virtual) + head)
    through = 2 * head if _moves(model, trainable) else head
    if not edits.layers and edits.prompt is None and edits.words is None and not _moves(model, trainable):
        return Least(forward, head, _words(model, virtual, lowest < columns))
    backward: float = dims.layers * linear + 2 * pair * (seen + dims.layers * virtual) + through
    if edits.prompt is None and edits.words is None:
        backward -= maps["q"] + maps["k"] + maps["v"] + 2 * pair * lowest + pair * virtual / 2
    return Least(forward, round(backward), _words(model, virtual, lowest < columns))


def seen_tokens(config: Any, dims: Dims, layer: int, tokens: int) -> float:
    """How many of T tokens a query of a layer sees, on average."""
    if not dims.causal:
        return float(tokens)
    sliding = isinstance(config, DecoderConfig) and config.pattern[layer % len(config.pattern)] == "sliding"
    window = min(config.window, tokens) if sliding else tokens
    return (window * (window + 1) / 2 + (tokens - window) * window) / tokens


def _moves(model: TunedModel, trainable: Any) -> bool:
    """Whether the method trains leaves of the backbone itself."""
    return any(model.method.trains(path) for path in flatten(trainable.get("backbone", {})))


def _head_flops(model: TunedModel, rows: int, tokens: int, dims: Dims) -> int:
    head, count = model.head, rows * tokens
    if head is None:
        return 0
    if head.task == "causal_language":
        return 2 * count * dims.width * dims.vocab
    if head.task == "masked_language":
        return 2 * count * dims.width * (dims.vocab + dims.width)
    pooled = 2 * rows * dims.width**2 if "pooler" in str(getattr(head, "pooling", "")) else 0
    return pooled + 2 * (count if head.task == "tagging" else rows) * dims.width * head.num_labels


def _words(model: TunedModel, virtual: int, causal: bool) -> str:
    head = "" if model.head is None else f", {type(model.head).__name__} included"
    keys = f"; every query meets {virtual} virtual tokens" if virtual else ""
    seen = "; causal queries meet the tokens before them" if causal else ""
    return f"forward and gradients of activations{head}{keys}{seen}; the method's own maps left out"
