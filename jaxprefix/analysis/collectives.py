"""What the chips of a mesh send each other in one step: which collectives there are, over which axes of the mesh, and
whether they carry gradients, frozen weights or activations.

Whose an array is follows from its sizes: those of the trainable and of the frozen leaves, whole, a layer's, or a
chip's share of them, are known; what else is reduced or moved are activations. That a gradient is meant follows from
where the compiler says the operation comes from (`transpose(...)` is the backward pass), and from the axes: a sum over
data or fsdp is one over rows.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxprefix.analysis.hlo import COLLECTIVES, Array, Computation, Instruction, Module
from jaxprefix.trees import flatten

What = Literal["gradients", "frozen gradients", "weights", "state", "activations", "numbers"]
ROW_AXES = {"data", "fsdp"}
MOST_TOGETHER = 4
NETWORK = "network all-reduce"
"""What joins slices: not an instruction of its own, but sends and receives of a runtime on the hosts."""

_LISTS = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_ORDER = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{} ]*\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array that one collective moves.

    Attributes:
      kind: one of `hlo.COLLECTIVES`, or `NETWORK`.
      what: whose the array is.
      axes: of the mesh, over which it goes; none where its groups are no axes' product.
      group: devices that take part together.
      array: what one device puts in.
      times: how often in a step.
      op_name: where it comes from.
      hidden: whether the program goes on meanwhile.
    """

    kind: str
    what: What
    axes: tuple[str, ...]
    group: int
    array: Array
    times: int
    op_name: str
    hidden: bool

    @property
    def elements(self) -> int:
        """Scalars that a device puts in, in a step."""
        return self.array.size * self.times

    @property
    def payload(self) -> int:
        """Bytes that a device puts in, in a step."""
        return self.array.nbytes * self.times

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step where the devices of a group pass parts around a ring."""
        others = (self.group - 1) / self.group
        factor = {
            "all-reduce": 2 * others,
            NETWORK: 2 * others,
            "all-gather": self.group - 1,
            "collective-permute": 1.0,
        }
        return self.payload * factor.get(self.kind, others)


class Owners:
    """Whose an array in the program of one device may be, by its sizes.

    Args:
      trainable, frozen: trees of arrays or shapes with shardings.
      sizes: of the mesh's axes.
      layers: L.
      rows: of the batch on one device, of one part of it where it is differentiated in parts.
      tokens: T, virtual tokens of an embedding-level prompt included.
    """

    def __init__(self, trainable: Any, frozen: Any, sizes: Mapping[str, int], layers: int, rows: int, tokens: int):
        self._trainable, self._frozen = (
            {tuple(sorted(dims)) for leaf in flatten(tree).values() for dims in _forms(leaf, sizes, layers)}
            for tree in (trainable, frozen)
        )
        self._sizes = {math.prod(dims) for dims in self._frozen}
        self._lengths = {tokens, rows * tokens, 2 * tokens} - {1}
        self._rows, self._layers = rows, layers

    def of(self, kind: str, axes: Sequence[str], array: Array, op_name: str, times: int = 1) -> What:
        """What a collective over these axes carries, which runs so many times in a step."""
        dims = tuple(sorted(size for size in array.dims if size != 1))
        backward, over_rows = "transpose(" in op_name, bool(ROW_AXES & set(axes))
        if kind in ("all-reduce", "reduce-scatter") and over_rows:
            if not backward:
                return "numbers" if array.size <= 8 else "weights" if self._is_frozen(dims) else "activations"
            if array.size == 1:  # of a layer, or the sums of losses and of weights
                return "gradients" if () in self._trainable and times >= self._layers > 1 else "numbers"
            if self._is_trainable(array):
                return "gradients"
            if self._is_frozen(dims):
                return "frozen gradients"
            return "activations" if self._is_activation(array) else "gradients"
        if kind in ("all-reduce", "reduce-scatter", "all-to-all"):
            return "activations"
        if "jvp(" not in op_name and self._is_trainable(array):
            return "state"  # of an update that was shared out
        if over_rows and self._is_frozen(dims):
            return "weights"
        return "weights" if array.size in self._sizes and not self._is_activation(array) else "activations"

    def _is_trainable(self, array: Array) -> bool:
        """A few leaves of equal sizes (keys and values) may be summed as one array."""
        dims = tuple(size for size in array.dims if size != 1)
        forms = (dims, dims[1:]) if len(dims) > 2 and dims[0] <= MOST_TOGETHER else (dims,)
        return any(tuple(sorted(form)) in self._trainable for form in forms if form)

    def _is_frozen(self, dims: tuple[int, ...]) -> bool:
        return bool(dims) and dims in self._frozen

    def _is_activation(self, array: Array) -> bool:
        return len(array.dims) > 1 and array.size > self._rows and bool(self._lengths & set(array.dims))


def _forms(leaf: Any, sizes: Mapping[str, int], layers: int) -> Iterator[tuple[int, ...]]:
    """The sizes, without ones, in which a leaf may occur in the program of one device: whole or of one layer; each
    axis whole, or a device's share over some axes of the mesh."""
    ways = sorted({math.prod(part) for n in range(4) for part in itertools.combinations(sizes.values(), n)} | {1})
    shapes = [tuple(leaf.shape)]
    if leaf.shape and leaf.shape[0] % layers == 0:  # stacked, perhaps as one long axis
        shapes.append((leaf.shape[0] // layers, *leaf.shape[1:]))
    for shape in shapes:
        yield tuple(size for size in shape if size != 1)
        for axis, size in enumerate(shape):
            for other, more in enumerate(shape):
                for first, second in itertools.product(ways, ways):
                    if size % first == 0 and more % second == 0 and axis < other:
                        form = [*shape]
                        form[axis], form[other] = size // first, more // second
                        yield tuple(size for size in form if size != 1)
        if len(shape) == 1:
            yield from ((shape[0] // way,) for way in ways if shape[0] % way == 0 and shape[0] > way)


def collectives(module: Module, mesh_shape: Mapping[str, int], owners: Owners, slices: int = 1) -> list[Collective]:
    """All collectives that one call runs.

    Args:
      module: the optimised program, that of one slice where there are several.
      mesh_shape: sizes of the mesh's axes in their order; partitions are numbered along it.
      owners: whose arrays are.
      slices: groups of devices that only the network joins. What they exchange is a `NETWORK` sum over data, of which
        each device sends a share.
    """
    found = []
    for it, computation, times, fused in module.runs():
        if it.opcode == "send" and "xla_megascale" in it.attributes:
            what: What = "gradients" if '"ALL_REDUCE"' in it.attributes else "activations"
            found.append(Collective(NETWORK, what, ("data",), slices, it.arrays[0], times, it.op_name, True))
            continue
        kind = it.opcode.removesuffix("-start")
        if kind not in COLLECTIVES or not times or (fused and _continues(it, computation)):
            continue
        groups = _groups(it, math.prod(mesh_shape.values()))
        axes, size = _axes(it, groups, mesh_shape)
        hidden = it.opcode.endswith("-start") or "chain_id" in it.attributes
        if kind == "all-reduce" and fused and _scatters(it, computation):
            kind = "reduce-scatter"
        for operand in it.operands:
            source = computation.get(operand)
            arrays = source.arrays[:1] if source is not None else it.arrays[:1]
            name = source.op_name if source is not None and "transpose(" in source.op_name else it.op_name
            for array in arrays:
                what = owners.of(kind, axes, array, name, times)
                found.append(Collective(kind, what, axes, size, array, times, name or it.op_name, hidden))
    return found


def _continues(it: Instruction, computation: Computation) -> bool:
    """Whether a collective in a fusion is the going on or the end of one that another fusion has begun."""
    if "chain_id" not in it.attributes:
        return False
    return not any(
        other.opcode == "custom-call" and "AsyncCollectiveStart" in other.attributes for other in computation.values()
    )


def _scatters(it: Instruction, computation: Computation) -> bool:
    return any(other.opcode == "dynamic-slice" and it.name in other.operands for other in computation.values())


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _groups(it: Instruction, devices: int) -> np.ndarray | list[list[int]]:
    """Which devices take part together, a row each; of a permutation who sends to whom."""
    text = it.attributes
    if found := _PAIRS.search(text):
        return [_numbers(pair) for pair in re.findall(r"\{[\d, ]*\}", found[1])]
    if found := _IOTA.search(text):
        shape, source, order = (_numbers(part) if part else [] for part in found.groups())
        ids = np.arange(math.prod(source)).reshape(source)
        return (ids.transpose(order) if order else ids).reshape(shape)
    if found := _MESH.search(text):
        names = re.findall(r"'([^']*)'=(\d+)", found[1])
        chosen = re.findall(r"'([^']*)'", found[3])
        places = [index for index, (name, _) in enumerate(names) if name in chosen]
        rest = [index for index in range(len(names)) if index not in places]
        sizes = [int(size) for _, size in names]
        ids = _order(found[2], math.prod(sizes)).reshape(sizes)
        return ids.transpose(rest + places).reshape(-1, math.prod(sizes[index] for index in places))
    if found := _LISTS.search(text):
        return [_numbers(group) for group in re.findall(r"\{[\d, ]*\}", found[1])]
    return [list(range(devices))]


def _order(text: str | None, devices: int) -> np.ndarray:
    """The devices in the order of a mesh: as they are numbered, listed, or an array of them turned."""
    found = _ORDER.search(text) if text else None
    if found is None:
        listed = _numbers(text or "")
        return np.asarray(listed) if len(listed) == devices else np.arange(devices)
    ids = np.arange(devices).reshape(_numbers(found[1]))
    return ids.transpose(_numbers(found[2])) if found[2] else ids


def _axes(it: Instruction, groups: Any, mesh_shape: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
    """The axes of the mesh that the groups go along, and how many devices a group has."""
    names, sizes = list(mesh_shape), list(mesh_shape.values())
    places = {device: np.unravel_index(device, sizes) for device in range(math.prod(sizes))}
    differing = {
        name
        for group in groups
        for index, name in enumerate(names)
        if len({places[device][index] for device in group if device in places}) > 1
    }
    axes = tuple(name for name in names if name in differing)
    whole = math.prod(mesh_shape[name] for name in axes)
    if "source_target_pairs" in it.attributes:
        return axes, whole
    size = len(groups[0])
    return (axes if whole == size else (), size)
