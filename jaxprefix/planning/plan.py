"""A run on a topology, compiled from shapes and read: does it fit, what does it compute, what do the chips exchange."""

import dataclasses
import logging
import math
import time
from collections import defaultdict
from typing import Any

import jax

from jaxprefix.analysis.collectives import NETWORK, ROW_AXES, Collective, Owners, collectives
from jaxprefix.analysis.estimate import Estimate, estimate
from jaxprefix.analysis.hlo import Module
from jaxprefix.analysis.least_flops import Least, least_flops
from jaxprefix.analysis.memory import Memory, inputs_of, memory_of, needed_bytes
from jaxprefix.analysis.products import product_flops
from jaxprefix.analysis.topologies import Topology, topology_devices
from jaxprefix.distributed.devices import found_devices
from jaxprefix.distributed.mesh import make_mesh
from jaxprefix.planning.shapes import Shapes, run_shapes
from jaxprefix.training.config import Run
from jaxprefix.training.step import make_eval_step, make_train_step
from jaxprefix.trees import count, flatten

log = logging.getLogger("jaxprefix")
PACKED = 4096  # scalars that may hide in packed arrays
UNKNOWN_STEPS = 1000  # of the schedule, where the run's number of steps depends on its data


@dataclasses.dataclass(frozen=True)
class Step:
    """What the compiler says of one of the steps.

    Attributes:
      memory: of one device; None where the compiler gave up before it said.
      needed: bytes of one device that a program needs which is too big, as far as the compiler says.
      flops: of dot products on one device; None where a loop's turns or a library's sizes are hidden.
      moved: the collectives.
      time: the estimate; None where the compiler makes none.
      compile_seconds: tracing included.
      refusal: what the compiler said where it could not.
    """

    memory: Memory | None
    needed: int | None
    flops: int | None
    moved: tuple[Collective, ...]
    time: Estimate | None
    compile_seconds: float
    refusal: str | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run on a topology.

    Attributes:
      shapes: of the run on its mesh.
      topology: None for the present backend.
      capacity: bytes that a program may use on a device, None where nobody says.
      train, evaluate: the two steps; the second is None where the first does not fit.
      least: products of an update at the least, over all devices.
    """

    shapes: Shapes
    topology: Topology | None
    capacity: int | None
    train: Step
    evaluate: Step | None
    least: Least

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that were compiled."""
        return (self.train,) if self.evaluate is None else (self.train, self.evaluate)

    @property
    def devices(self) -> int:
        """How many devices the mesh has."""
        return self.shapes.mesh.size

    @property
    def largest(self) -> int | None:
        """Bytes of one device that the bigger of both steps needs."""
        sizes = [step.needed if step.memory is None else step.memory.total for step in self.steps]
        known = [size for size in sizes if size is not None]
        return max(known) if known else None

    @property
    def fits(self) -> bool | None:
        """Whether both steps fit; None where the capacity is not known."""
        if any(step.refusal is not None for step in self.steps):
            return False
        return None if self.capacity is None or self.largest is None else self.largest <= self.capacity

    @property
    def tokens_per_step(self) -> int:
        """Columns of all rows, padding included."""
        return self.shapes.run.batch_size * self.shapes.tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of an update over its estimated time; None where there is no estimate."""
        return None if self.train.time is None else self.tokens_per_step / self.train.time.seconds

    @property
    def utilisation(self) -> float | None:
        """Least FLOPs of an update over what the chips could compute meanwhile."""
        if self.train.time is None or self.topology is None:
            return None
        return self.least.total / self.train.time.seconds / (self.devices * self.topology.chip.flops)

    @property
    def gradients(self) -> tuple[int, int]:
        """Scalars of gradients that a device sums with others in an update, and those of the trainable leaves, of each
        a device's share over tp."""
        within = (one for one in self.train.moved if one.what == "gradients" and one.kind != NETWORK)
        summed = sum(one.elements for one in within)
        return summed, sum(_summed_size(leaf) for leaf in jax.tree.leaves(self.shapes.state.trainable))

    def _gradients_add_up(self, summed: int, own: int) -> bool:
        """Whether every trainable leaf's gradient is summed, and nothing twice: once for each part of a batch, of each
        leaf as much as a device has, which may be a share over tp. Where a method makes its edits by a map of their
        own (the MLP of prefix tuning), it may be the edits' gradient that is summed, before the map. What is trained of
        the backbone itself lies over fsdp, and may be summed in two steps. Between slices small leaves travel packed
        with other numbers."""
        sizes = self.shapes.mesh.shape
        if all(sizes[axis] == 1 for axis in ROW_AXES):
            return summed == 0
        most = own * self.shapes.run.accumulate
        slack = PACKED if self.topology is not None and self.topology.slices > 1 else 0
        trainable = self.shapes.state.trainable
        method = sum(_summed_size(leaf) for leaf in jax.tree.leaves(trainable.get("method", {})))
        made = count(jax.eval_shape(self.shapes.model.edits, trainable))
        least = own - method + min(method, made)
        return least <= summed * sizes["tp"] + slack and (summed <= most or "backbone" in trainable)

    @property
    def problems(self) -> list[str]:
        """What should not be there, a sentence each."""
        found = []
        frozen = [one for one in self.train.moved if one.what == "frozen gradients"]
        for one in sorted(frozen, key=lambda one: -one.payload)[:5]:
            found.append(
                f"a gradient of a frozen leaf is summed over {' x '.join(one.axes)}: {one.array.dtype}"
                f"{list(one.array.dims)}, {one.times} times a step, at {one.op_name}"
            )
        summed, own = self.gradients
        if self.train.moved and not self._gradients_add_up(summed, own):
            found.append(f"{summed:,} scalars of gradients are summed over rows, and the trainable leaves have {own:,}")
        return found


def _summed_size(leaf: Any) -> int:
    """Scalars of a leaf's gradient that a device holds before they are summed over rows."""
    sizes, names = leaf.sharding.mesh.shape, leaf.sharding.spec
    axes = [axis for name in names if name for axis in ((name,) if isinstance(name, str) else name)]
    return leaf.size // math.prod(sizes[axis] for axis in axes if axis not in ROW_AXES)


def plan_run(
    run: Run, topology: Topology | None, *, tokens: int | None = None, labels: int | None = None, evaluate: bool = True
) -> Plan:
    """Compiles a run's steps for a topology, from shapes alone.

    Args:
      run: its mesh is laid over the devices.
      topology: None for the devices that are there.
      tokens: columns of a batch; see `run_shapes`.
      labels: of the task; see `run_shapes`.
      evaluate: whether the evaluation step is compiled too.

    Raises:
      UserError: what does not go together, before anything is compiled.
    """
    slices = 1 if topology is None else topology.slices
    devices = found_devices() if topology is None else topology_devices(topology)
    mesh = make_mesh(dataclasses.replace(run.mesh, slices=slices) if slices > 1 else run.mesh, devices)
    shapes = run_shapes(run, mesh, tokens=tokens, labels=labels)
    sequences = math.prod(shapes.batch["input_ids"].shape[:-1])
    least = least_flops(shapes.model, shapes.state.trainable, sequences, shapes.tokens)
    capacity = (devices[0].memory_stats() or {}).get("bytes_limit") if topology is None else topology.chip.usable
    train = _train_step(shapes, topology, capacity)
    both = evaluate and train.refusal is None
    return Plan(shapes, topology, capacity, train, _eval_step(shapes, topology, capacity) if both else None, least)


def _train_step(shapes: Shapes, topology: Topology | None, capacity: int | None) -> Step:
    run = shapes.run
    steps = run.steps or UNKNOWN_STEPS
    step = make_train_step(
        *(shapes.model, run.optimizer, shapes.mesh),
        steps=steps,
        epoch_steps=steps,
        accumulate=run.accumulate,
        label_smoothing=run.label_smoothing,
    )
    args = shapes.state, shapes.rates, shapes.frozen, shapes.batch
    return _read(shapes, topology, capacity, step, args, shapes.batch, run.batch_size // run.accumulate)


def _eval_step(shapes: Shapes, topology: Topology | None, capacity: int | None) -> Step:
    step, rows = make_eval_step(shapes.model, shapes.mesh), shapes.eval_batch["weight"].shape[0]
    args = shapes.state.trainable, shapes.frozen, shapes.eval_batch
    return _read(shapes, topology, capacity, step, args, shapes.eval_batch, rows)


def _read(
    shapes: Shapes, topology: Topology | None, capacity: int | None, step: Any, args: tuple, batch: Any, rows: int
) -> Step:
    resident = sum(inputs_of(shapes, batch).values())
    if capacity is not None and resident > capacity:
        refusal = "weights, state and batch alone are too big, so nothing was compiled"
        return Step(None, resident, None, (), None, 0.0, refusal)
    started = time.perf_counter()
    lowered = step.lower(*args)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message and "memory" not in message.lower():
            raise
        needed = needed_bytes(message)
        return Step(None, needed, None, (), None, time.perf_counter() - started, message.splitlines()[0])
    seconds = time.perf_counter() - started
    module = Module(compiled.as_text())
    sizes, slices = dict(shapes.mesh.shape), 1 if topology is None else topology.slices
    local = max(rows // (sizes["data"] * sizes["fsdp"]), 1)
    trainable, frozen = shapes.state.trainable, shapes.frozen
    owners = Owners(trainable, frozen, sizes, shapes.model.backbone.dims.layers, local, shapes.tokens)
    try:
        flops, moved = product_flops(module), tuple(collectives(module, sizes, owners, slices))
    except ValueError as error:
        log.warning("%s, so products and collectives are not counted.", error)
        flops, moved = None, ()
    time_ = None if topology is None or flops is None else estimate(module, moved, topology)
    return Step(memory_of(shapes, batch, compiled, module), None, flops, moved, time_, seconds)


def traffic(moved: tuple[Collective, ...]) -> list[dict[str, Any]]:
    """Collectives of a step in sums by what they carry, kind and axes: how many, bytes that a device puts in and that
    it sends, and whether the program waits for them; most bytes first."""
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0, 0, 0])
    for one in moved:
        entry = sums[one.what, one.kind, one.axes, one.hidden]
        for place, value in enumerate((one.times, one.payload, one.sent)):
            entry[place] += value
    rows = [
        {
            "what": what,
            "kind": kind,
            "axes": list(axes),
            "hidden": hidden,
            "times": times,
            "bytes": payload,
            "sent": round(sent),
        }
        for (what, kind, axes, hidden), (times, payload, sent) in sums.items()
    ]
    return sorted(rows, key=lambda row: -row["sent"])


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain values: sizes in bytes, times in seconds."""
    shapes, run, topology = plan.shapes, plan.shapes.run, plan.topology
    summed, own = plan.gradients
    trainable, frozen = shapes.state.trainable, shapes.frozen
    time_ = plan.train.time
    return {
        "topology": "here" if topology is None else str(topology),
        "chips": plan.devices if topology is None else topology.chips,
        "devices": plan.devices,
        "backbone": run.backbone if isinstance(run.backbone, str) else "new",
        "method": type(run.method).__name__,
        "mesh": dict(shapes.mesh.shape),
        "rows": run.batch_size,
        "tokens": shapes.tokens,
        "accumulate": run.accumulate,
        "remat": run.remat,
        "precision": run.precision,
        "quantize": run.quantize,
        "fits": plan.fits,
        "capacity": plan.capacity,
        "largest": plan.largest,
        "refusal": next((step.refusal for step in plan.steps if step.refusal), None),
        "memory": {
            name: None if step is None or step.memory is None else dataclasses.asdict(step.memory)
            for name, step in (("train", plan.train), ("evaluate", plan.evaluate))
        },
        "parameters": {"trainable": count(trainable), "frozen": count(frozen)},
        "trainable_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in flatten(trainable).values()),
        "flops": {
            "train": None if plan.train.flops is None else plan.train.flops * plan.devices,
            "evaluate": plan.evaluate and plan.evaluate.flops and plan.evaluate.flops * plan.devices,
            "least": plan.least.total,
            "least_is": plan.least.words,
        },
        "traffic": traffic(plan.train.moved),
        "gradients": {"summed": summed, "trainable": own},
        "problems": plan.problems,
        "estimate": time_
        and {
            **dataclasses.asdict(time_),
            "seconds": time_.seconds,
            "tokens_per_second": plan.tokens_per_second,
            "utilisation": plan.utilisation,
        },
        "compile_seconds": [round(step.compile_seconds, 1) for step in plan.steps],
    }
