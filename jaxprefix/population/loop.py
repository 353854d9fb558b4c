"""The loop of a population: its set-up, its steps, its evaluations and its checkpoints."""

import dataclasses
import logging
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

import jaxprefix
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.data import Batches
from jaxprefix.distributed.mesh import put_batch, replicated
from jaxprefix.population.members import check_methods, init_leaves, member_models, stacked_dropout
from jaxprefix.population.step import (
    PopulationState,
    chosen,
    init_population,
    make_population_eval_step,
    make_population_step,
    resolve_vmap_size,
)
from jaxprefix.signals import StopSignal
from jaxprefix.tasks.base import Facts
from jaxprefix.training.config import Run
from jaxprefix.training.evaluation import measure, run_rows, with_facts
from jaxprefix.training.host_loop import HostLoop
from jaxprefix.training.provenance import stored_run
from jaxprefix.training.resume import MemberHistory, keep_compiled_programs
from jaxprefix.training.setup import set_up
from jaxprefix.training.writers import Progress, Writers
from jaxprefix.trees import Tree, count

log = logging.getLogger("jaxprefix")


class Population(HostLoop[PopulationState]):
    """A population between its set-up and its end.

    Args:
      run: what the members have in common.
      runs: theirs.
      independent_order: whether each has its own data order.
      vmap_size: how many members are computed side by side; None decides by the backend.
      checkpoints: where its states are kept.
      stored: what its newest checkpoint keeps (`info`), if there is one.
    """

    def __init__(
        self,
        run: Run,
        runs: Sequence[Run],
        independent_order: bool,
        vmap_size: int | None,
        checkpoints: Checkpoints,
        stored: dict[str, Any] | None = None,
    ):
        keep_compiled_programs()
        # the rates of the backbone's folder are needed for members that have none of their own
        setup = set_up(dataclasses.replace(runs[0], hidden_dropout=None, attention_dropout=None), stored=stored)
        seeds = [found.seed for found in runs] if independent_order else [run.seed]
        rows = setup.examples["train"]
        self._batches = [Batches(rows, run.batch_size, seed, run.buckets) for seed in seeds]
        epoch_steps = self._batches[0].epoch_steps
        steps = run.steps or max(1, math.ceil(run.epochs * epoch_steps))
        run.optimizer.check_steps(steps)
        super().__init__(run, setup, checkpoints, steps, epoch_steps)
        self.runs, self.independent_order = runs, independent_order
        assert setup.model.head is not None  # a run's model has one
        self.models = member_models(setup.model.backbone, setup.model.head, runs)
        check_methods(self.models)
        mesh = self.setup.mesh
        trainable, backbone, initialized = init_leaves(self.models, runs, self.setup.backbone, self.setup.labels)
        self.frozen = {"backbone": backbone, "initialized": jax.device_put(initialized, replicated(mesh))}
        self._trainable = trainable
        rates = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found.optimizer.rates() for found in runs))
        self._rates = jax.device_put((rates, stacked_dropout(self.models)), replicated(mesh))
        vmap_size = resolve_vmap_size(vmap_size, len(runs))
        self._step = make_population_step(
            self.models[0],
            runs[0].optimizer,
            mesh,
            vmap_size=vmap_size,
            independent_order=independent_order,
            steps=self.steps,
            epoch_steps=epoch_steps,
            accumulate=run.accumulate,
            label_smoothing=run.label_smoothing,
        )
        self._eval_step = make_population_eval_step(self.models[0], mesh, vmap_size)
        self._maximise = run.task.higher_is_better
        self._active = np.ones(len(runs), bool)
        self.histories = [MemberHistory() for _ in runs]

    def init(self) -> PopulationState:
        """The state at step 0."""
        seeds = [run.seed for run in self.runs]
        return init_population(self._trainable, self.runs[0].optimizer, seeds, self.setup.mesh)

    @override
    def finished(self, step: int) -> bool:
        return step >= self.steps or not self._active.any()

    def train(self, state: PopulationState, stop: StopSignal) -> PopulationState:
        """The updates that remain, until the end or a signal."""
        self._active = np.array(state.active)
        trained, source = count(self._trainable) // len(self.runs), self.setup.backbone.identity["source"]
        log.info(
            "%d members of %s on %s, %s trainable parameters each; %d steps of %d rows%s",
            *(len(self.runs), type(self.runs[0].method).__name__, source, f"{trained:,}"),
            *(self.steps, self.run.batch_size, ", each in its own order" if self.independent_order else ""),
        )
        return self.loop(state, lambda: stop.came is not None)

    @override
    def step_of(self, state: PopulationState) -> int:
        return int(state.train.step)

    @override
    def update(self, state: PopulationState, batch: Any) -> tuple[PopulationState, dict[str, Any]]:
        train, active, metrics = self._step(state.train, state.active, *self._rates, self.frozen, batch)
        return PopulationState(train, active, state.best), metrics

    def next_batch(self, step: int) -> tuple[dict[str, jax.Array], int]:
        """The batch of all members, or theirs stacked and padded to the same length, with the number of its tokens."""
        if not self.independent_order:
            batch = self._batches[0].batch(step)
            return put_batch(batch, self.setup.mesh), len(self.runs) * int(batch["attention_mask"].sum())
        width = max(batches.width(step) for batches in self._batches)
        found = [batches.batch(step, width=width) for batches in self._batches]
        stacked = {name: np.stack([batch[name] for batch in found]) for name in found[0]}
        return put_batch(stacked, self.setup.mesh, axis=1), int(stacked["attention_mask"].sum())

    @override
    def report(self, step: int, tokens: int, metrics: dict[str, Any], progress: Progress, writers: Writers) -> None:
        values = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
        active, finite = values.pop("active").astype(bool), values.pop("finite") > 0
        for index in np.flatnonzero(active & ~finite):
            self.histories[index].failed_at = step
            log.warning(
                "member %d of %s failed at step %d (loss %s, gradient norm %s, learning rate %.3g); it stays as it was",
                *(index, self.run.folder, step),
                *(values[name][index] for name in ("loss", "gradient_norm", "rate")),
            )
        self._active &= finite | ~active
        good = active & finite
        self.clock.stepped()
        rate = progress.step(step, tokens, float(values["loss"][good].mean()) if good.any() else math.nan)
        if step % self.run.log_every == 0 or step == self.steps:
            named = {f"{i}/{name}": float(value[i]) for i in np.flatnonzero(good) for name, value in values.items()}
            writers.scalars(step, {**named, "tokens_per_second": rate, **self.clock.report()})

    def evaluate(
        self, step: int, state: PopulationState, progress: Progress, writers: Writers
    ) -> tuple[PopulationState, None]:
        """The state after an evaluation: best leaves renewed, members without patience at rest."""
        metrics = [found for found, _ in self.measure(state.train.trainable, "validation")]
        improved, goes_on = np.zeros(len(self.runs), bool), np.ones(len(self.runs), bool)
        name = next(iter(metrics[0]))
        for index in np.flatnonzero(self._active):
            history, metric = self.histories[index], metrics[index][name]
            history.evaluated(step, metric, self._maximise)
            history.evaluations.append((step, metric))
            improved[index] = history.best_step == step
            if self.run.patience is not None and history.without_progress >= self.run.patience:
                goes_on[index], history.stopped_at = False, step
            writers.scalars(step, {f"{index}/validation/{name}": found for name, found in metrics[index].items()})
        now = [metrics[index][name] for index in np.flatnonzero(self._active)] or [math.nan]
        progress.evaluated(f"validation {name}, mean", statistics.fmean(now))
        progress.say(f"step {step}/{self.steps}: validation {name} {', '.join(f'{value:.4f}' for value in now)}")
        self._active &= goes_on
        best = chosen(improved, state.train.trainable, state.best)
        active, best = jax.device_put((state.active & goes_on, best), replicated(self.setup.mesh))
        return PopulationState(state.train, active, best), None

    def measure(
        self, trainable: Tree, split: str, facts: Sequence[Facts] | None = None
    ) -> list[tuple[dict[str, float], Facts]]:
        """Every member's metrics over all rows of a split, and its facts with what the split decides; `facts` are the
        members' own, where another split decided something before."""
        examples, rows = self.setup.examples[split], self.run.eval_batch_size or self.run.batch_size
        task, head = self.run.task, self.models[0].head
        assert head is not None  # a run's model has one
        found = run_rows(self._eval_step, trainable, self.frozen, task, head, examples, rows, self.setup.mesh)
        facts = [found.facts] * len(self.runs) if facts is None else facts
        members = (
            dataclasses.replace(found, outputs={name: value[:, index] for name, value in found.outputs.items()})
            for index in range(len(self.runs))
        )
        return [measure(task, with_facts(member, own), split) for member, own in zip(members, facts, strict=True)]

    @override
    def info(self) -> dict[str, Any]:
        return {
            "run": stored_run(self.run),
            "members": [stored_run(run) for run in self.runs],
            "independent_order": self.independent_order,
            "backbone": self.setup.backbone.identity,
            "facts": dict(self.setup.facts),
            "data": dict(self.setup.data),
            "histories": [dataclasses.asdict(history) for history in self.histories],
            "jaxprefix": jaxprefix.__version__,
        }

    def step_seconds(self) -> float:
        """The median time of an update of all members, without the first; NaN where there was none."""
        return statistics.median(self.seconds[1:]) if len(self.seconds) > 1 else math.nan
