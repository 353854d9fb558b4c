"""Other ways to run the same thing on a topology: meshes, what is kept for the backward pass, batches, int8."""

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

from jaxprefix.analysis.memory import inputs_of
from jaxprefix.analysis.topologies import Topology, find_topology, near_sizes, topology_devices
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.errors import UserError
from jaxprefix.models.stack import Remat
from jaxprefix.planning.plan import Plan, plan_run
from jaxprefix.planning.shapes import run_shapes
from jaxprefix.training.config import Run
from jaxprefix.training.setup import backbone_config

log = logging.getLogger("jaxprefix")
REMATS = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True)
class Found:
    """A candidate that was compiled.

    Attributes:
      changes: what it changes of the run, in words.
      plan: what came out.
    """

    changes: str
    plan: Plan


def meshes(topology: Topology, heads: int, kv_heads: int) -> list[MeshShape]:
    """Mesh shapes worth a try: tp up to eight where it divides the heads, fsdp from all devices down, the rest data."""
    devices, found = topology.devices, []
    for tp in (1, 2, 4, 8):
        if devices % tp or heads % tp or kv_heads % tp:
            continue
        ways = devices // tp
        fsdp = ways // topology.slices
        while fsdp >= 1:
            if ways % fsdp == 0:
                found.append(MeshShape(ways // fsdp, fsdp, tp))
            fsdp = fsdp // 4 if fsdp > 4 else fsdp // 2 if fsdp > 1 else 0
    return found


def candidates(run: Run, topology: Topology, dims: Any) -> Iterator[Run]:
    """Runs with other meshes, remat and batches per chip, the likeliest first: little communication before much, little
    computed twice before much, and of each the batch as it is, twice and four times as big."""
    shapes = sorted(meshes(topology, dims.heads, dims.kv_heads), key=lambda mesh: (mesh.tp, mesh.fsdp))
    for factor, remat, mesh in itertools.product((1, 2, 4), REMATS, shapes):
        rows = run.batch_size * factor
        if rows % (mesh.data * mesh.fsdp * run.accumulate) == 0:
            yield dataclasses.replace(run, batch_size=rows, remat=remat, mesh=mesh)


def search(
    run: Run,
    topology: Topology,
    *,
    tokens: int | None = None,
    labels: int | None = None,
    most: int = 12,
    budget: float = 1800.0,
) -> list[Found]:
    """Compiles candidates, and ranks those that fit by estimated tokens per second, before those that do not.

    A candidate whose weights and state alone do not fit is not compiled. Nor is one that needs more memory than one
    that did not fit: the same mesh with a bigger batch, or with more kept for the backward pass.

    Args:
      run: what the candidates change mesh, remat and batch of.
      topology: the devices.
      tokens: columns of a batch; see `run_shapes`.
      labels: of the task; see `run_shapes`.
      most: candidates to compile.
      budget: seconds after which no other one is begun.
    """
    dims = backbone_config(run)[0].dims
    found: list[Found] = []
    too_big: list[Run] = []
    started = time.perf_counter()
    for candidate in _spread(list(candidates(run, topology, dims))):
        if len(found) >= most or time.perf_counter() - started > budget:
            break
        if any(_needs_more(candidate, other) for other in too_big):
            continue
        if not _weights_fit(candidate, topology, tokens, labels):
            continue
        plan = plan_run(candidate, topology, tokens=tokens, labels=labels, evaluate=False)
        found.append(Found(difference(run, candidate), plan))
        log.info("%d of %d: %s: %s", len(found), most, found[-1].changes, verdict(plan))
        if not plan.fits:
            too_big.append(candidate)
    return sorted(found, key=lambda one: (not one.plan.fits, -(one.plan.tokens_per_second or 0)))


def _spread(runs: list[Run]) -> list[Run]:
    """One of each mesh with its best remat before the next of any: a few candidates then say most."""
    order: dict[Remat | None, int] = {"dots": 0, "none": 1, "full": 2}
    smallest = min((run.batch_size for run in runs), default=1)
    return sorted(runs, key=lambda run: (order[run.remat] + (run.batch_size // smallest).bit_length(), run.mesh.tp))


def _needs_more(run: Run, other: Run) -> bool:
    """Whether `run` needs at least the memory of `other`."""
    return (
        run.mesh == other.mesh
        and run.batch_size >= other.batch_size
        and REMATS.index(run.remat) <= REMATS.index(other.remat)
        and run.quantize == other.quantize
    )


def _weights_fit(run: Run, topology: Topology, tokens: int | None, labels: int | None) -> bool:
    mesh = make_mesh(dataclasses.replace(run.mesh, slices=topology.slices), topology_devices(topology))
    shapes = run_shapes(run, mesh, tokens=tokens, labels=labels)
    return sum(inputs_of(shapes, shapes.batch).values()) < topology.chip.usable


def larger(topology: Topology) -> Topology | None:
    """The next bigger slices of the same generation that are sold."""
    size = int(topology.name.rpartition("-")[2])
    above = [other for other in near_sizes(topology.chip, size) if other > size]
    return find_topology(f"{topology.chip.name}-{above[0]}", topology.slices) if above else None


def difference(run: Run, other: Run) -> str:
    """What another run has of its own, in words."""
    words = [f"mesh data {other.mesh.data}, fsdp {other.mesh.fsdp}, tp {other.mesh.tp}"]
    words += [f"{name} {getattr(other, name)}" for name in ("remat", "batch_size", "accumulate")]
    if other.quantize != run.quantize:
        words.append(f"quantize {other.quantize}")
    return ", ".join(words)


def verdict(plan: Plan) -> str:
    """Whether it fits and how fast it is, in words."""
    if not plan.fits:
        return "does not fit"
    return "fits" if plan.tokens_per_second is None else f"fits, {plan.tokens_per_second:,.0f} tokens/s"


def suggestions(plan: Plan, *, budget: float = 1800.0) -> list[dict[str, Any]]:
    """What would make a run fit that does not: weights divided over all devices and layers computed twice, and with
    that one row per device, int8 kernels, tp, more chips. Each is compiled, until two of them fit.

    Args:
      plan: of the run that does not fit.
      budget: seconds after which no other one is begun.

    Returns:
      What was tried, in order: `change` in words, `fits`, `largest` in bytes of a device, `topology`.
    """
    run, topology = plan.shapes.run, plan.topology
    if topology is None:
        return []
    tokens, started, tried = plan.shapes.tokens, time.perf_counter(), []
    for words, place, candidate in _suggestions(run, topology, plan.shapes.model.backbone.dims):
        if time.perf_counter() - started > budget:
            break
        try:
            labels = None if plan.shapes.model.head is None else plan.shapes.model.head.count
            other = plan_run(candidate, place, tokens=tokens, labels=labels, evaluate=False)
        except UserError as error:
            log.info("%s: %s", words, error)
            continue
        tried.append({"change": words, "fits": other.fits, "largest": other.largest, "topology": str(place)})
        log.info("%s: %s", words, verdict(other))
        if sum(bool(one["fits"]) for one in tried) >= 2:
            break
    return tried


def _suggestions(run: Run, topology: Topology, dims: Any) -> Iterator[tuple[str, Topology, Run]]:
    ways = topology.devices // topology.slices
    whole = MeshShape(topology.slices, ways, 1)
    least = ways * topology.slices
    rows = -(-run.batch_size // least) * least
    better = dataclasses.replace(run, mesh=whole, remat="full", batch_size=rows)
    if better != run:
        yield f"mesh fsdp {ways}, remat full, batch_size {rows}", topology, better
    if run.batch_size > least:
        small = dataclasses.replace(better, batch_size=least, accumulate=1)
        yield f"the same with batch_size {least}, one row per device", topology, small
    if run.quantize is None:
        yield f"mesh fsdp {ways}, remat full, quantize int8", topology, dataclasses.replace(better, quantize="int8")
    for tp in (4, 8):
        if dims.kv_heads % tp == 0 and ways % tp == 0:
            mesh = MeshShape(topology.slices, ways // tp, tp)
            rows = max(run.batch_size // least, 1) * least // tp or 1
            yield (
                f"mesh fsdp {ways // tp}, tp {tp}, remat full, batch_size {rows}",
                topology,
                dataclasses.replace(better, mesh=mesh, batch_size=rows),
            )
            break
    place = topology
    for _ in range(4):
        bigger = larger(place)
        if bigger is None:
            return
        place = bigger
        ways = place.devices // place.slices
        grown = dataclasses.replace(
            better, mesh=MeshShape(place.slices, ways, 1), batch_size=max(run.batch_size, place.devices)
        )
        yield f"{place}, mesh fsdp {ways}, remat full, batch_size {grown.batch_size}", place, grown
