"""The stages of a comparison, each finished as a whole: trials of a method, and what its step costs."""

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxprefix.data import Batches
from jaxprefix.distributed.mesh import put_batch, replicated
from jaxprefix.errors import FolderGone, RunFailed, Stopped
from jaxprefix.methods import FullFineTuning, parts_of
from jaxprefix.methods.base import Method
from jaxprefix.population.members import Fields, with_fields
from jaxprefix.population.population import train_population
from jaxprefix.training.config import Run
from jaxprefix.training.loop import train
from jaxprefix.training.setup import set_up
from jaxprefix.training.step import init_state, make_train_step, run_key
from jaxprefix.trees import count

TIMED = 5
"""Updates that are timed for the cost of a step."""


def run_trials(run: Run, members: Sequence[Fields]) -> list[dict[str, Any]]:
    """Trains runs that differ in fields, each in its own data order: as a population, or one after another where the
    method moves the whole backbone.

    Returns:
      For each a dict, as JSON takes it: `fields`; `metrics` by split, of its best leaves; `failed`, whether it was not
      finite any more.

    Raises:
      Stopped: by a signal; started again, it goes on.
      FolderGone: the folder was renamed or removed.
    """
    if any(isinstance(part, FullFineTuning) for part in parts_of(run.method)):
        return [_separate(run, fields, index) for index, fields in enumerate(members)]
    found = train_population(run, members, independent_order=True)
    if found.signal is not None:
        raise stopped(found.signal)
    return [_trial(member.fields, member.metrics, member.history.failed_at is not None) for member in found.members]


def _separate(run: Run, fields: Fields, index: int) -> dict[str, Any]:
    one = dataclasses.replace(with_fields(run, fields), folder=str(Path(run.folder) / str(index)))
    try:
        result = train(one)
    except FolderGone:
        raise
    except RunFailed:
        return _trial(fields, {}, True)
    if result.signal is not None:
        raise stopped(result.signal)
    return _trial(fields, result.metrics, False)


def _trial(fields: Fields, metrics: dict[str, dict[str, float]], failed: bool) -> dict[str, Any]:
    finite = {
        split: {name: value if math.isfinite(value) else None for name, value in found.items()}
        for split, found in metrics.items()
    }
    return {"fields": dict(fields), "metrics": finite, "failed": failed}


def stopped(signal: int) -> Stopped:
    """That a signal of this number came, which the log has said."""
    return Stopped("the comparison was stopped by a signal; start it again with the same arguments to go on.", signal)


def step_cost(run: Run) -> dict[str, Any]:
    """What one update of a single run costs, at the longest padded length.

    Returns:
      `trained` parameters, with the head's; `step_seconds`, the median of a few updates; `step_bytes`, what the
      compiled update takes as arguments (the frozen backbone among them) and as temporaries.
    """
    setup = set_up(run, splits=("train",))
    batches = Batches(setup.examples["train"], run.batch_size, run.seed, run.buckets)
    steps = run.steps or max(1, math.ceil(run.epochs * batches.epoch_steps))
    options = {"accumulate": run.accumulate, "label_smoothing": run.label_smoothing}
    step = make_train_step(
        setup.model, run.optimizer, setup.mesh, steps=steps, epoch_steps=batches.epoch_steps, **options
    )
    state = init_state(setup.model, setup.trainable, run.optimizer, run_key(run.seed), setup.mesh)
    rates = jax.device_put(run.optimizer.rates(), replicated(setup.mesh))
    batch = put_batch(batches.batch(0, width=max(batches.buckets)), setup.mesh)
    program = step.lower(state, rates, setup.frozen, batch).compile()
    memory, seconds = program.memory_analysis(), []
    assert memory is not None  # every backend that trains here says it
    for _ in range(1 + TIMED):
        started = time.perf_counter()
        state, metrics = program(state, rates, setup.frozen, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    return {
        "trained": count(setup.trainable),
        "step_seconds": statistics.median(seconds[1:]),
        "step_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }


def of_method(run: Run, method: Method, rate: float, folder: Path) -> Run:
    """The comparison's run with a method and its learning rate."""
    optimizer = dataclasses.replace(run.optimizer, learning_rate=rate)
    return dataclasses.replace(run.with_method(method), optimizer=optimizer, folder=str(folder))
