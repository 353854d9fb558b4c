"""Multiplications and additions of a program's dot products, beside the least that training a model can need.

Counted is the program that runs: the optimised HLO of the compiled function, after common subexpressions and dead code
are gone. The compiler's own `cost_analysis` counts the body of a loop once; here every computation is counted as often
as it is called, a loop's body as often as it runs. Dot products are found wherever they are: on their own, inside
fusions, or handed to a library (a custom call that names its dimensions as a dot does).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxprefix.analysis.hlo import Module
from jaxprefix.analysis.products import product_flops
from jaxprefix.edits import Dims
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import flatten


def dot_flops(compiled: jax.stages.Compiled) -> int:
    """FLOPs (two for each multiply-add) of all dot products that one call of a compiled function runs.

    Of a conditional every branch is counted.

    Raises:
      ValueError: a loop whose number of turns the compiler does not know, or a library call that hides its sizes.
    """
    return product_flops(Module(compiled.as_text()))


@dataclasses.dataclass(frozen=True)
class Minimum:
    """The least FLOPs of dot products of one update.

    Attributes:
      forward: the loss.
      activations: gradients that flow through the frozen maps to what is trained.
      trained: gradients of the trained leaves themselves.
    """

    forward: int
    activations: int
    trained: int

    @property
    def total(self) -> int:
        return self.forward + self.activations + self.trained


def minimum_flops(model: TunedModel, trainable: Mapping[str, Any], batch: int, tokens: int) -> Minimum:
    """The least that one update of a model with a shared prefix and a classification or tagging head needs.

    Forwards, with N = B T rows, a layer costs 2 N (4 D D + 2 D F) for its linear maps and 4 N (T + P) D for scores and
    weighted values. Backwards, the gradient by an input of a product costs what the product costs, and scores and
    weighted values have two inputs each, of which the virtual tokens' are `trained`. In the lowest layer nothing need
    flow further down than the virtual tokens: not through the maps to q, k and v, nor to the weights of real tokens
    (2 N P D for those of virtual ones; the softmax asks for no more, since the mean of the gradient over all weights
    is the output times its own gradient). A scan over layers treats them all alike and cannot leave this out, which
    costs it about 0.3 / L.

    Args:
      model: with `PTuningV2` or another method whose prefix needs no products of its own, or one that trains nothing
        below the head.
      trainable: from `model.init`; its prefix and its head are read off.
      batch, tokens: B and T.
    """
    dims = model.backbone.dims
    prefix = next((leaf for leaf in jax.tree.leaves(model.edits(dict(trainable)).layers) if leaf.ndim == 4), None)
    virtual = 0 if prefix is None else prefix.shape[1]
    rows = batch * tokens
    linear = 2 * rows * (4 * dims.width**2 + 2 * dims.width * dims.mlp_width)
    attention = 4 * rows * (tokens + virtual) * dims.width
    head = _head_flops(model, trainable, batch, tokens, dims)
    forward = dims.layers * (linear + attention) + head
    if virtual == 0:
        return Minimum(forward, 0, head)
    by_virtual = 4 * rows * virtual * dims.width
    first = linear - 2 * rows * 3 * dims.width**2 + by_virtual // 2
    activations = first + (dims.layers - 1) * (linear + 2 * attention - by_virtual) + head
    return Minimum(forward, activations, dims.layers * by_virtual + head)


def _head_flops(model: TunedModel, trainable: Mapping[str, Any], batch: int, tokens: int, dims: Dims) -> int:
    kernel = flatten(dict(trainable)).get("head/classifier/kernel")
    if model.head is None or kernel is None:
        raise ValueError("the model needs a classification or tagging head")
    rows = batch * tokens if model.head.task == "tagging" else batch
    return 2 * rows * dims.width * kernel.shape[-1]
