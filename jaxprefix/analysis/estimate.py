"""How long a step may take: the compiler's own estimate of its operations, and the bytes that the chips exchange.

The TPU's compiler writes into its program how many cycles it expects of every operation (`estimated_cycles`), memory
traffic included, but says nothing of collectives, and its summary (`cost_analysis`) counts a loop's body once. So
cycles are added up here, loops multiplied out, and divided by the clock; collectives are bytes over the bandwidth of
one ring of links. Nothing of this was measured on a chip.
"""

import dataclasses
import re
from collections.abc import Iterable

from jaxprefix.analysis.collectives import NETWORK, Collective
from jaxprefix.analysis.hlo import Module
from jaxprefix.analysis.topologies import Topology

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
CAVEAT = "the compiler's estimate of its operations plus bytes over link bandwidth, not a measurement"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one step.

    Attributes:
      operations: the compiler's estimate of everything but collectives.
      waiting: collectives that the program waits for.
      hidden: collectives that run beside operations.
    """

    operations: float
    waiting: float
    hidden: float

    @property
    def seconds(self) -> float:
        """Hidden collectives cost what is longer than the operations beside them."""
        return max(self.operations, self.hidden) + self.waiting


def estimate(module: Module, moved: Iterable[Collective], topology: Topology) -> Estimate | None:
    """The time of one call, or None where the compiler says nothing of cycles."""
    cycles = 0
    for it, _, times, fused in module.runs():
        found = None if fused else _CYCLES.search(it.attributes)
        cycles += times * int(found[1]) if found else 0
    if not cycles:
        return None
    moved = list(moved)
    waiting, hidden = (
        sum(_seconds(one, topology) for one in moved if one.hidden is beside) for beside in (False, True)
    )
    return Estimate(cycles / topology.chip.clock, waiting, hidden)


def _seconds(one: Collective, topology: Topology) -> float:
    chip = topology.chip
    return one.sent / (chip.network if one.kind == NETWORK else chip.links / chip.axes)
