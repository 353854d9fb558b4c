"""The text of an optimised HLO module: its instructions, and how often each runs in one call.

Compilers for CPU and GPU say how often a loop turns; the TPU's does not, and is left with loops of its own (pipelined
gathers), so turns are found by running a loop's counters alone.
"""

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INDEX = re.compile(r"index=(\d+)")
_DIRECTION = re.compile(r"direction=(\w+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
MOST_TURNS = 1_000_000
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
COUNTED = ("dot", "convolution", "custom-call", *COLLECTIVES)
"""What is worth knowing how often it runs."""


@dataclasses.dataclass(frozen=True)
class Array:
    """The type of an array in the program of one device."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Scalars in it."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Without what its layout pads."""
        return math.ceil(self.size * BYTES.get(self.dtype, 4))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: unique in its module.
      opcode: `fusion`, `convolution`, `all-gather-start`, ...
      arrays: of its result, those of a tuple side by side.
      inside: the text between its parentheses: operands, or a constant's value.
      attributes: the text behind them.
      root: whether it is its computation's result.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    inside: str
    attributes: str
    root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions that it takes."""
        return tuple(_OPERAND.findall(self.inside))

    @property
    def op_name(self) -> str:
        """Where in the traced function it comes from."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    def called(self) -> list[str]:
        """Names of the computations that it runs, conditions of loops left out."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += [branch.strip().lstrip("%") for branch in branches.split(",")]
        return names


Computation = dict[str, Instruction]


class Module:
    """An HLO module by computations.

    Args:
      text: from `compiled.as_text()`.

    Raises:
      ValueError: it has no entry computation.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation | None = None
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header is not None:
                current = self.computations.setdefault(header[2], {})
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := _parsed(line)) is not None:
                current[found.name] = found
        if not self.entry:
            raise ValueError("this is not the text of an HLO module: it has no ENTRY computation")

    def runs(self) -> Iterator[tuple[Instruction, Computation, int, bool]]:
        """Every instruction that one call runs, with its computation, how often it runs, and whether it is part of a
        fusion. Of a conditional every branch counts.

        Raises:
          ValueError: a loop with `COUNTED` in it whose number of turns cannot be known.
        """
        yield from self._runs(self.entry, 1, False)

    def _runs(self, name: str, times: int, fused: bool) -> Iterator[tuple[Instruction, Computation, int, bool]]:
        computation = self.computations.get(name, {})
        for instruction in computation.values():
            yield instruction, computation, times, fused
            inside = instruction.called()
            if instruction.opcode == "while":
                yield from self._runs(inside[0], times * self._turns(instruction, computation, inside[0]), fused)
            else:
                for other in inside:
                    yield from self._runs(other, times, fused or instruction.opcode == "fusion")

    def _turns(self, loop: Instruction, computation: Computation, body: str) -> int:
        """As `turns`; a loop of unknown length in which nothing counts is one turn."""
        try:
            return self.turns(loop, computation)
        except ValueError:
            if self._counts(body):
                raise
            return 1

    def _counts(self, name: str) -> bool:
        return any(
            it.opcode.removesuffix("-start") in COUNTED or any(map(self._counts, it.called()))
            for it in self.computations.get(name, {}).values()
        )

    def turns(self, loop: Instruction, computation: Computation) -> int:
        """How often a loop's body runs.

        Raises:
          ValueError: it depends on data.
        """
        known = _TRIPS.search(loop.attributes)
        if known:
            return int(known[1])
        condition = _CONDITION.search(loop.attributes)
        body = self.computations.get(loop.called()[0], {})
        test = self.computations.get(condition[1] if condition else "", {})
        state = self._value(computation, loop.operands[0], None)
        for turn in range(MOST_TURNS):
            going_on = self._value(test, _root(test), [state])
            if going_on is None:
                break
            if not going_on:
                return turn
            state = self._value(body, _root(body), [state])
        raise ValueError(f"the loop {loop.name} has no known number of turns")

    def _value(self, computation: Computation, name: str, parameters: list[Any] | None) -> Any:
        """The value of a scalar, or those of a tuple as a list; None where it depends on data."""
        known: dict[str, Any] = {}

        def value(name: str) -> Any:
            if name not in known:
                instruction = computation.get(name)
                known[name] = None if instruction is None else computed(instruction)
            return known[name]

        def computed(it: Instruction) -> Any:
            if it.opcode == "parameter":
                index = int(it.inside)
                return parameters[index] if parameters is not None and index < len(parameters) else None
            if it.opcode == "get-tuple-element":
                return element(it)
            if it.opcode == "tuple":
                return [value(operand) for operand in it.operands]
            if len(it.arrays) != 1 or it.arrays[0].dims:
                return None
            if it.opcode == "constant":
                return _constant(it.inside)
            if it.opcode in ("fusion", "call"):
                inner = self.computations.get(it.called()[0], {})
                return self._value(inner, _root(inner), [value(operand) for operand in it.operands])
            return _scalar(it, [value(operand) for operand in it.operands])

        def element(it: Instruction) -> Any:
            index, source = int(_find(_INDEX, it.attributes)), computation.get(it.operands[0])
            if source is not None and source.opcode == "while":
                body = self.computations.get(source.called()[0], {})
                last = body.get(_root(body))
                kept = body.get(last.operands[index]) if last is not None and index < len(last.operands) else None
                passed = kept is not None and kept.opcode == "get-tuple-element" and f"index={index}" in kept.attributes
                whole = value(source.operands[0]) if passed else None
            else:
                whole = value(it.operands[0])
            return whole[index] if isinstance(whole, list) and index < len(whole) else None

        return value(name)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "minimum": min,
    "maximum": max,
    "and": operator.and_,
    "or": operator.or_,
}
_COMPARE = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
_SAME = ("copy", "convert", "bitcast", "reshape", "copy-start", "copy-done", "optimization-barrier")


def _find(pattern: re.Pattern[str], attributes: str) -> str:
    """What the group of a pattern holds in the attributes of an instruction that always has it."""
    found = pattern.search(attributes)
    assert found is not None, attributes
    return found[1]


def _scalar(it: Instruction, values: list[Any]) -> Any:
    if any(value is None for value in values) or not values:
        return None
    if it.opcode in _BINARY and len(values) == 2:
        return _BINARY[it.opcode](*values)
    if it.opcode == "compare":
        return _COMPARE[_find(_DIRECTION, it.attributes)](*values)
    if it.opcode == "select":
        return values[1] if values[0] else values[2]
    if it.opcode == "not":
        return not values[0]
    return values[0] if it.opcode in _SAME else None


def _constant(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        return None


def _root(computation: Computation) -> str:
    return next((it.name for it in computation.values() if it.root), "")


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for found in re.compile(r'[()]|"(?:[^"\\]|\\.)*"').finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return found.start()
    return len(text)


def _parsed(line: str) -> Instruction | None:
    found = _NAMED.match(line)
    if found is None:
        return None
    rest = found[3]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = _OPCODE.match(rest, end) if end > 0 else None
    if opcode is None:
        return None
    close = _closing(rest, opcode.end() - 1)
    arrays = tuple(
        Array(dtype, tuple(int(size) for size in dims.split(",") if size)) for dtype, dims in _ARRAY.findall(rest[:end])
    )
    return Instruction(found[2], opcode[1], arrays, rest[opcode.end() : close], rest[close + 1 :], bool(found[1]))
