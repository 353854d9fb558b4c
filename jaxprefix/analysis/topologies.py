"""TPU slices by the names that people buy them by: how many chips there are, how they are wired, what each can do.

A name counts what its generation is sold by. v4, v5p and tpu7x count TensorCores, two to a chip (`v5p-128` is 64
chips); v5e and v6e count chips. A *device* is what JAX computes on: a chip, of tpu7x one of its two TensorCores.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import re
from typing import Any

from jaxprefix.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a generation. Sizes and speeds are those of docs.cloud.google.com/tpu/docs/<page>; halved for
    tpu7x, of whose chips a device is one half.

    Attributes:
      name: as people say it.
      page: of that documentation.
      hbm: bytes of memory.
      usable: bytes of it that the compiler gives a program; its own words when one needs more.
      flops: bfloat16 FLOP/s at the peak.
      per_cycle: FLOPs of its matrix units in a cycle, which makes its clock (the compiler counts cycles).
      bandwidth: bytes/s of the memory.
      links: bytes/s that all links to neighbours together send, one direction.
      network: bytes/s to other slices.
      axes: of the interconnect, a torus or a mesh.
      counts: how many of what the name counts make a chip.
      devices: devices of a chip.
      library: what the compiler's library calls the generation.
      config: the chip configuration that it is compiled for.
    """

    name: str
    page: str
    hbm: int
    usable: int
    flops: float
    per_cycle: int
    bandwidth: float
    links: float
    network: float
    axes: int
    counts: int
    devices: int
    library: str
    config: str

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.flops / self.per_cycle


def _gib(size: float) -> int:
    return int(size * GIB)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "v4", 32 * GIB, _gib(30.75), 275e12, 2**18, 1228e9, 300e9, 6.25e9, 3, 2, 1, "v4", "megacore"),
        Chip("v5e", "v5e", 16 * GIB, _gib(15.75), 197e12, 2**17, 819e9, 200e9, 3.1e9, 2, 1, 1, "v5e", "default"),
        Chip("v5p", "v5p", 95 * GIB, 95 * GIB, 459e12, 2**18, 2765e9, 600e9, 6.25e9, 3, 2, 1, "v5", "megacore"),
        Chip("v6e", "v6e", 32 * GIB, _gib(31.25), 918e12, 2**19, 1638e9, 400e9, 12.5e9, 2, 1, 1, "v6e", "default"),
        Chip(
            "tpu7x",
            "tpu7x",
            96 * GIB,
            _gib(94.75),
            1153.5e12,
            2**19,
            3690e9,
            300e9,
            6.25e9,
            3,
            2,
            2,
            "tpu7x",
            "default",
        ),
    )
}
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x", "tpu7": "tpu7x", "trillium": "v6e", "ironwood": "tpu7x"}

_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_SMALL = {4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4)}
_LARGEST = {"v4": 4096, "v5p": 6144, "tpu7x": 9216}
_NAME = re.compile(r"(?:(\d+)x)?([a-z][a-z0-9]*?(?:\d[a-z]*)?)-(\d+)")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of one kind.

    Attributes:
      name: of one slice, as it is sold.
      chip: what its devices are.
      shape: chips along each axis of a slice.
      slices: how many there are, joined by the data centre's network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """In all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """In all slices."""
        return self.chips * self.chip.devices

    @property
    def library_name(self) -> str:
        """What the compiler's library calls one slice: `v5e:4x4`."""
        return f"{self.chip.library}:{'x'.join(map(str, self.shape))}"

    def __str__(self) -> str:
        return f"{self.slices}x{self.name}" if self.slices > 1 else self.name


def find_topology(name: str, slices: int = 1) -> Topology:
    """The slices that a name means.

    Args:
      name: `v5e-256`, `v5litepod-16`, `v5p-128`, `v4-32`, `v6e-64`, `tpu7x-128`; `2xv5e-256` for two slices.
      slices: how many, where the name does not say it.

    Raises:
      UserError: there is no such generation or size; the message has the nearest ones.
    """
    found = _NAME.fullmatch(name.strip().lower())
    kind = found and ALIASES.get(found[2], found[2])
    if not found or kind not in CHIPS:
        known = [f"{chip}-{_example(chip)}" for chip in CHIPS]
        near = difflib.get_close_matches((kind or name.lower()).split("-")[0], [*CHIPS, *ALIASES], n=1, cutoff=0.4)
        hint = ""
        if near:
            hint = f" (did you mean {near[0]}-{found[3] if found else _example(ALIASES.get(near[0], near[0]))}?)"
        raise UserError(
            f"there is no TPU topology {name!r}{hint}; name one as it is sold, such as "
            f"{', '.join(known)}, or 2xv5e-256 for two slices, or `here`."
        )
    chip, count = CHIPS[kind], int(found[3])
    chips, rest = divmod(count, chip.counts)
    shape = None if rest else slice_shape(chip, chips)
    if shape is None:
        sizes = [f"{kind}-{size}" for size in near_sizes(chip, count)]
        unit = "TensorCores, two to a chip" if chip.counts == 2 else "chips"
        raise UserError(f"there is no {kind} slice of {count} {unit}; the nearest are {' and '.join(sizes)}.")
    if found[1] and slices not in (1, int(found[1])):
        raise UserError(f"{name} says {found[1]} slices and --slices says {slices}; say it once.")
    slices = int(found[1] or slices)
    if slices < 1:
        raise UserError(f"the number of slices is {slices}; it must be at least 1.")
    return Topology(f"{kind}-{count}", chip, shape, slices)


def slice_shape(chip: Chip, chips: int) -> tuple[int, ...] | None:
    """How the chips of one slice are laid out: the squarest form that is sold; None where there is no such slice."""
    if chip.axes == 2:
        return _FLAT.get(chips)
    if chips in _SMALL:
        return _SMALL[chips]
    if chip.name == "tpu7x" and chips == 1:
        return (1, 1, 1)
    if chips % 64 or chips > _LARGEST[chip.name]:
        return None
    cubes = chips // 64  # of 4 x 4 x 4 chips, joined by optical switches
    ways = [
        (a, b, cubes // (a * b))
        for a in range(1, cubes + 1)
        if cubes % a == 0
        for b in range(a, cubes + 1)
        if (cubes // a) % b == 0 and cubes // (a * b) >= b
    ]
    best = min(ways, key=lambda way: (way[2] - way[0], way))
    return tuple(4 * size for size in best)


def near_sizes(chip: Chip, count: int) -> list[int]:
    """The sizes below and above `count` that are sold."""
    largest = max(_FLAT) if chip.axes == 2 else _LARGEST[chip.name]
    sizes = [chips * chip.counts for chips in range(1, largest + 1) if slice_shape(chip, chips)]
    below, above = [size for size in sizes if size < count], [size for size in sizes if size > count]
    return below[-1:] + above[:1]


def _example(name: str) -> int:
    return {"v5e": 16, "v6e": 16, "v5p": 128, "v4": 32, "tpu7x": 128}[name]


def topology_devices(topology: Topology) -> list[Any]:
    """Absent devices of a topology, which programs can be compiled for, without any TPU.

    Raises:
      UserError: the compiler's library is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"compiling for {topology} needs the TPU compiler; run `pip install 'jaxprefix[tpu]'`, or plan for `here`."
        )
    prepare_environment()
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": topology.chip.config}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    return list(topologies.get_topology_desc(topology.library_name, "tpu", **options).devices)


def prepare_environment() -> None:
    """Lets the TPU compiler start without a TPU: it asks no metadata server, leaves the chips to whoever has them, and
    keeps what it thinks of that to itself. Only what is not set yet is set, and only before it has started."""
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)
