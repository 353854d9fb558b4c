"""FLOPs of dot products in an optimised program, as they stand there: dots, convolutions (the TPU's form of them),
and calls of libraries that name their dimensions as a dot does."""

import math
import re
from itertools import product

from jaxprefix.analysis.hlo import Computation, Instruction, Module

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LIBRARY = re.compile(r'custom_call_target="([^"]*(?:matmul|dot|gemm|Eigen)[^"]*)"', re.IGNORECASE)
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")


def product_flops(module: Module) -> int:
    """FLOPs (two for each multiply-add) of all dot products that one call runs.

    Raises:
      ValueError: a loop without a known number of turns, or a library call that hides its sizes.
    """
    return sum(times * _flops(instruction, computation) for instruction, computation, times, _ in module.runs())


def _flops(it: Instruction, computation: Computation) -> int:
    if it.opcode == "dot":
        return _dot(it, computation)
    if it.opcode == "convolution":
        return _convolution(it, computation)
    if it.opcode == "custom-call" and (library := _LIBRARY.search(it.attributes)):
        return _dot(it, computation, library[1])
    return _attention(it, computation) if "tpu_custom_call" in it.attributes else 0


def _attention(it: Instruction, computation: Computation) -> int:
    """The TPU's compiler replaces softmax attention by a kernel of its own where it finds it, of queries, keys and
    values; kernels of other forms count nothing."""
    dims = [computation[name].arrays[0].dims for name in it.operands if name in computation]
    if len(dims) != 3 or any(len(one) < 3 for one in dims) or not it.arrays:
        return 0
    queries, keys, values = dims
    return 2 * math.prod(queries[:-1]) * keys[-2] * (keys[-1] + values[-1])


def _dot(it: Instruction, computation: Computation, library: str = "") -> int:
    contracted = _CONTRACTED.search(it.attributes)
    if contracted is None or not it.operands or it.operands[0] not in computation:
        raise ValueError(f"the dot product {it.name} {f'of the library {library} ' if library else ''}hides its sizes")
    left = computation[it.operands[0]].arrays[0].dims
    return 2 * it.arrays[0].size * math.prod(left[int(axis)] for axis in contracted[1].split(",") if axis)


def _convolution(it: Instruction, computation: Computation) -> int:
    """Each output meets as many pairs as lie within the input; a batch of products is written with dilated inputs, of
    which almost none do."""
    labels = _LABELS.search(it.attributes)
    if labels is None or any(name not in computation for name in it.operands[:2]):
        raise ValueError(f"the convolution {it.name} hides its sizes")
    left, kernel = (computation[name].arrays[0].dims for name in it.operands[:2])
    out = it.arrays[0].dims
    sizes = {place: dict(zip(names, dims, strict=True)) for place, names, dims in _named(labels, left, kernel, out)}
    window = _window(it.attributes)
    spatial = sorted(name for name in sizes["kernel"] if name.isdigit())
    pairs = math.prod(
        _pairs(sizes["left"][name], sizes["kernel"][name], sizes["out"][name], window, index)
        for index, name in enumerate(spatial)
    )
    groups = re.search(r"batch_group_count=(\d+)", it.attributes)
    batch = sizes["left"]["b"] // (int(groups[1]) if groups else 1)
    return 2 * batch * sizes["kernel"]["i"] * sizes["out"]["f"] * pairs


def _named(labels: re.Match[str], *dims: tuple[int, ...]) -> list[tuple[str, str, tuple[int, ...]]]:
    return list(zip(("left", "kernel", "out"), labels.groups(), dims, strict=True))


def _window(attributes: str) -> dict[str, list[str]]:
    found = _WINDOW.search(attributes)
    fields = (field.split("=") for field in found[1].split() if "=" in field) if found else ()
    return {name: values.split("x") for name, values in fields}


def _pairs(left: int, kernel: int, out: int, window: dict[str, list[str]], index: int) -> int:
    """How many (output, kernel) places along one axis lie on an input."""

    def of(name: str, default: str) -> str:
        return window[name][index] if name in window else default

    stride, lhs_dilate, rhs_dilate = int(of("stride", "1")), int(of("lhs_dilate", "1")), int(of("rhs_dilate", "1"))
    before = int(of("pad", "0_0").split("_")[0])
    if left == kernel == out == 1 or (kernel == 1 and before == 0 and lhs_dilate == 1 and (out - 1) * stride < left):
        return out
    last = (left - 1) * lhs_dilate
    at = (place * stride + offset * rhs_dilate - before for place, offset in product(range(out), range(kernel)))
    return sum(0 <= position <= last and position % lhs_dilate == 0 for position in at)
