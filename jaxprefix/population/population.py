"""Many runs as one: members that differ in seeds, rates and the like train in one compiled step, on one backbone."""

import dataclasses
import logging
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprefix.checkpoints.lock import only_run
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.distributed.devices import found_devices
from jaxprefix.distributed.processes import one_process_only
from jaxprefix.errors import UserError
from jaxprefix.old_names import answer_old_names
from jaxprefix.population.loop import Population
from jaxprefix.population.members import Fields, member_of, member_runs
from jaxprefix.population.step import PopulationState, chosen
from jaxprefix.signals import RESUMED, StopSignal
from jaxprefix.training.config import Run
from jaxprefix.training.export import write_run_adapter
from jaxprefix.training.reporting import tell_report
from jaxprefix.training.resume import MemberHistory, refuse_other_backbone, refuse_other_run
from jaxprefix.trees import Tree

log = logging.getLogger("jaxprefix")


@dataclasses.dataclass(frozen=True)
class Member:
    """What one member came to.

    Attributes:
      run: its config; its folder holds its adapter.
      fields: in what it differs from the population's run.
      adapter: its adapter folder.
      metrics: by split, those of its best leaves.
      trainable: its best leaves: of its best evaluation, or its last finite ones where there was none.
      history: its evaluations, its best one, and whether it failed or stopped early.
    """

    run: Run
    fields: dict[str, Any]
    adapter: Path
    metrics: dict[str, dict[str, float]]
    trainable: Tree
    history: MemberHistory


@dataclasses.dataclass(frozen=True)
class PopulationResult:
    """What a population came to.

    Attributes:
      folder: the population's folder.
      steps: updates done.
      members: in their order; none if the population was stopped by a signal.
      step_seconds: the median time of an update of all members, without the first; NaN where there was none.
      signal: the number of the signal that stopped the population; None if it ended.
    """

    folder: Path
    steps: int
    members: tuple[Member, ...]
    step_seconds: float
    signal: int | None = None


@answer_old_names
def train_population(
    run: Run, members: Sequence[Fields], *, independent_order: bool = False, vmap_size: int | None = None
) -> PopulationResult:
    """Trains the members of a population as one compiled step, over one copy of the frozen backbone.

    A member is what `train` would make of its run, within float noise, if the order of its data is the same. Each has
    its own metric, best leaves and early stop; one whose loss or leaves are not finite any more stays as it was at its
    last finite step, is marked as failed, and does not disturb the others. A population that is started again in its
    folder goes on from its newest whole checkpoint, bit for bit.

    Args:
      run: what all members have in common.
      members: the fields in which each differs, by dotted names: `{"seed": 1, "optimizer.learning_rate": 1e-2,
        "optimizer.weight_decay": 0.1, "hidden_dropout": 0.0, "method.dropout": 0.1, "method.init_std": 0.5}`; of the
        method those that change no shape and not the program. `grid` makes combinations.
      independent_order: give each member the data order of its own seed; else all see the batches of `run.seed`, which
        are then read once for all.
      vmap_size: how many members a step computes side by side, which takes that much more memory for activations; None
        for all of them, on a CPU one. It has no influence on the results beyond float noise.

    Returns:
      The members' results; each one's adapter lies in `<folder>/<number>/adapter`.

    Raises:
      UserError: something must be corrected: a field that members cannot differ in is named, before compiling.
      FolderGone: the population's folder was renamed or removed.
      KeyboardInterrupt: SIGINT came (Ctrl-C, or a notebook's stop button); the message says what was saved.
    """
    one_process_only("a population")
    runs = member_runs(run, members)
    if vmap_size is not None and vmap_size < 1:
        raise UserError(f"vmap_size is {vmap_size}; it must be at least 1, or None.")
    found_devices()
    with (
        only_run(run.folder) as place,
        Checkpoints(Path(run.folder) / "checkpoints", best=None, place=place) as checkpoints,
    ):
        stored = checkpoints.read_info()
        if stored is not None:
            _refuse_other_members(run, runs, independent_order, stored)
        population = Population(run, runs, independent_order, vmap_size, checkpoints, stored)
        if stored is not None:
            refuse_other_backbone(population.setup, stored)
        state = population.init()
        restored = checkpoints.restore(
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        )
        if restored is not None:
            _, state, info = restored
            population.histories = [_history(found) for found in info["histories"]]
            log.info("going on from step %d of %d in %s", int(state.train.step), population.steps, run.folder)
        tell_report(population.setup.report)
        with StopSignal() as stop:
            state = population.train(state, stop)
        steps = int(state.train.step)
        if stop.came is not None:
            said = f"stopped at step {steps}; {RESUMED}"
            log.info(said)
            if stop.came == signal.SIGINT:
                raise KeyboardInterrupt(said)
            return PopulationResult(Path(run.folder), steps, (), math.nan, stop.came)
        found = _members(population, state, members)
        return PopulationResult(Path(run.folder), steps, found, population.step_seconds())


def _members(population: Population, state: PopulationState, members: Sequence[Fields]) -> tuple[Member, ...]:
    """Measures every member's best leaves on every held-out split, and writes the adapters."""
    setup, histories = population.setup, population.histories
    evaluated = np.array([history.best_step > 0 for history in histories])
    best = chosen(evaluated, state.best, state.train.trainable)
    measured, facts = {}, [setup.facts] * len(population.runs)
    for split in sorted(setup.examples.keys() - {"train"}, key=lambda split: split != "validation"):
        measured[split] = population.measure(best, split, facts)
        facts = [own for _, own in measured[split]]
    found = []
    for index, (run, fields) in enumerate(zip(population.runs, members, strict=True)):
        folder = Path(run.folder) / str(index)
        run = dataclasses.replace(run, folder=str(folder))
        metrics = {split: values[index][0] for split, values in measured.items()}
        trainable = jax.device_get(member_of(best, index))
        frozen = {**population.frozen, "initialized": member_of(population.frozen["initialized"], index)}
        own = dataclasses.replace(setup, run=run, model=population.models[index], frozen=frozen)
        with population.checkpoints.place.held():
            folder.mkdir(exist_ok=True)
            adapter = write_run_adapter(folder / "adapter", own, trainable, metrics, facts[index], setup.report)
        found.append(Member(run, dict(fields), adapter, metrics, trainable, histories[index]))
        for split, values in metrics.items():
            log.info("member %d, %s: %s %.4f", index, split, *next(iter(values.items())))
    return tuple(found)


def _history(stored: dict[str, Any]) -> MemberHistory:
    return MemberHistory(**{**stored, "evaluations": [tuple(pair) for pair in stored["evaluations"]]})


def _refuse_other_members(run: Run, runs: Sequence[Run], independent_order: bool, stored: dict[str, Any]) -> None:
    if "members" not in stored:
        raise UserError(f"{run.folder} holds a run, not a population; give the population another folder.")
    if len(stored["members"]) != len(runs) or stored["independent_order"] != independent_order:
        before = f"{len(stored['members'])} members, independent_order={stored['independent_order']}"
        raise UserError(
            f"{run.folder} holds another population ({before}); give this one another folder, or restore that."
        )
    refuse_other_run(run, stored)
    for member, before in zip(runs, stored["members"], strict=True):
        refuse_other_run(member, {"run": before})
