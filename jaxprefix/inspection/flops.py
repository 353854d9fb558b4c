"""Multiplications and additions of a program's dot products, beside the least that training a model can need.

Counted is the program that runs: the optimised HLO of the compiled function, after common subexpressions and dead code
are gone. The compiler's own `cost_analysis` counts the body of a loop once; here every computation is counted as often
as it is called, a loop's body as often as it runs. Dot products are found wherever they are: on their own, inside
fusions, or handed to a library (a custom call that names its dimensions as a dot does).
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax

from jaxprefix.edits import Dims
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import flatten

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+)(?: \([^)]*.*\))? (?:->.*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"^\w+\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LIBRARY = re.compile(r'custom_call_target="([^"]*(?:matmul|dot|gemm|Eigen)[^"]*)"', re.IGNORECASE)


def dot_flops(compiled: jax.stages.Compiled) -> int:
    """FLOPs (two for each multiply-add) of all dot products that one call of a compiled function runs.

    Of a conditional every branch is counted.

    Raises:
      ValueError: a loop whose number of turns the compiler does not know, or a library call that hides its sizes.
    """
    return _Program(compiled.as_text()).flops()


class _Program:
    """The text of an HLO module, split into computations."""

    def __init__(self, text: str):
        self._lines: dict[str, list[str]] = {}
        self._entry = ""
        name = None
        for line in text.splitlines():
            header = _COMPUTATION.match(line)
            if header is not None:
                name = header[1]
                self._lines[name] = []
                if line.startswith("ENTRY"):
                    self._entry = name
            elif line.startswith("}"):
                name = None
            elif name is not None:
                self._lines[name].append(line)
        if not self._entry:
            raise ValueError("this is not the text of an HLO module: it has no ENTRY computation")
        self._known: dict[str, int] = {}

    def flops(self, name: str | None = None) -> int:
        """Of one call of a computation and of all that it calls."""
        name = name or self._entry
        if name not in self._known:
            shapes: dict[str, tuple[int, ...]] = {}
            self._known[name] = sum(self._of_line(line, shapes) for line in self._lines.get(name, ()))
        return self._known[name]

    def _of_line(self, line: str, shapes: dict[str, tuple[int, ...]]) -> int:
        found = _INSTRUCTION.match(line)
        if found is None:
            return 0
        name, rest = found.groups()
        array = _ARRAY.match(rest)
        if array is not None:
            shapes[name] = _numbers(array[1])
        if " dot(" in rest:
            return _dot(rest, shapes, name)
        library = _LIBRARY.search(rest) if " custom-call(" in rest else None
        if library is not None:
            return _dot(rest, shapes, name, library[1])
        called = _CALLED.findall(rest)
        for branches in _BRANCHES.findall(rest):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        inside = sum(self.flops(other) for other in called)
        if " while(" in rest and inside:
            trips = _TRIPS.search(rest)
            if trips is None:
                raise ValueError(f"the loop {name} has no known number of turns")
            inside *= int(trips[1])
        return inside


def _dot(rest: str, shapes: Mapping[str, tuple[int, ...]], name: str, library: str = "") -> int:
    contracted = _CONTRACTED.search(rest)
    operands = re.findall(r"%([\w.\-]+)", rest[rest.index("(") :])
    if contracted is None or not operands or operands[0] not in shapes:
        raise ValueError(f"the dot product {name} {f'of the library {library} ' if library else ''}hides its sizes")
    over = math.prod(shapes[operands[0]][axis] for axis in _numbers(contracted[1]))
    return 2 * math.prod(shapes[name]) * over


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


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
