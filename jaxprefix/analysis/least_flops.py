"""The least products that one update of a tuned model can need, from its sizes alone.

Counted are, two FLOPs for each multiply-add: the forward pass; in the backward pass the gradients of activations, each
product once more by its input, scores and weighted values by both; the gradients of what is trained where these are
products: of virtual tokens, of the head's own kernel, of the backbone's kernels that move. In the lowest layer nothing
need flow below queries, keys and values, nor to weights of real tokens (2 N P D for those of virtual ones; the softmax
asks for no more, since the mean of the gradient over all weights is the output times its own gradient), unless leaves
at or below it are trained. A scan over layers treats them all alike and cannot leave this out, which costs it about
0.3 / L.

The sizes are the config's own: the maps of its layer (gated MLPs, grouped heads) and what a query sees (causal, within
windows). A prompt's rows are columns like others. Rows count as if each held one text without padding. Not counted are
gradients of frozen leaves, layers computed twice, and a method's own maps (LoRA, inducers, gates), which are small.
"""

import dataclasses
from typing import Any

import jax

from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree, flatten


@dataclasses.dataclass(frozen=True)
class Least:
    """FLOPs over all devices.

    Attributes:
      forward: of the loss.
      activations: of the gradients that flow through frozen maps to what is trained.
      trained: of the gradients of the trained leaves themselves.
      words: what is counted.
    """

    forward: int
    activations: int
    trained: int
    words: str

    @property
    def backward(self) -> int:
        """Of activations and trained leaves."""
        return self.activations + self.trained

    @property
    def total(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


def least_flops(model: TunedModel, trainable: Any, rows: int, tokens: int) -> Least:
    """The least of one update.

    Args:
      model: any; its head may be any or none.
      trainable: its tree, of arrays or shapes.
      rows: B of the global batch.
      tokens: T.
    """
    config, edits = model.backbone.config, jax.eval_shape(model.edits, trainable)
    dims, moved = config.dims, flatten(trainable.get("backbone", {}))
    prompt = 0 if edits.prompt is None else edits.prompt.shape[0]
    columns, virtual = tokens + prompt, sum(edit.virtual_count() for edit in edits.layers)
    count = rows * columns
    # forward: a layer's linear maps, scores and weighted values of one seen token, the head
    maps = {name: 2 * count * inputs * outputs for name, (inputs, outputs) in dims.maps.items()}
    linear, pair = sum(maps.values()), 4 * count * dims.heads * dims.head_width
    lowest, seen = config.seen_tokens(0, columns), sum(config.seen_tokens(i, columns) for i in range(dims.layers))
    head = _head_kernels(model, trainable, rows, rows * tokens)
    forward = dims.layers * linear + pair * (seen + dims.layers * virtual) + sum(head.values())
    words = _words(model, virtual, lowest < columns)

    # gradients of trained leaves
    trained: float = sum(head[path] for path in head if path.startswith("head/") or path in moved)
    trained += sum(dims.layers * maps[name] for name in maps if f"layers/{name}/kernel" in moved)
    below = edits.prompt is not None or edits.words is not None or any(path.startswith("embeddings/") for path in moved)
    within = bool(edits.layers) or any(path.startswith("layers/") for path in moved)
    if not below and not within:
        through = any(path.startswith("pooler/") for path in moved)
        own = sum(size for path, size in head.items() if path.startswith("head/"))
        return Least(round(forward), own if through else 0, round(trained), words)
    of_virtual = dims.layers * pair * virtual
    trained += of_virtual

    # gradients of activations
    activations: float = dims.layers * linear + 2 * pair * (seen + dims.layers * virtual) + sum(head.values())
    activations -= of_virtual
    if not below:
        activations -= maps["q"] + maps["k"] + maps["v"]
        if not any(f"layers/{name}/{leaf}" in moved for name in "qk" for leaf in ("kernel", "bias")):
            activations -= 2 * pair * lowest + pair * virtual / 2
    return Least(round(forward), round(activations), round(trained), words)


def _head_kernels(model: TunedModel, trainable: Tree, rows: int, tokens: int) -> dict[str, int]:
    """FLOPs of each product of the head, forwards, by the path of its kernel (`Head.products`)."""
    if model.head is None:
        return {}
    leaves = flatten(trainable.get("head", {})).items()
    kernels = {path: leaf.shape for path, leaf in leaves if path.endswith("kernel")}
    return model.head.products(model.backbone.config, kernels, rows, tokens)


def _words(model: TunedModel, virtual: int, causal: bool) -> str:
    head = "" if model.head is None else f", {type(model.head).__name__} included"
    keys = f"; every query meets {virtual} virtual tokens" if virtual else ""
    seen = "; causal queries meet the tokens before them" if causal else ""
    return f"forward and backward of what must flow{head}{keys}{seen}; the method's own maps left out"
