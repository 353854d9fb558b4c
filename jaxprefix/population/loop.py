"""The loop of a population: its set-up, its steps, its evaluations and its checkpoints."""

import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

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
from jaxprefix.tasks.metrics import evaluate_metrics, higher_is_better, main_metric
from jaxprefix.training.config import Run
from jaxprefix.training.evaluation import run_rows
from jaxprefix.training.resume import MemberHistory, StopSignal, keep_compiled_programs
from jaxprefix.training.setup import Setup, set_up
from jaxprefix.training.writers import Progress, Writers
from jaxprefix.trees import Tree, count
from jaxprefix.typed_json import to_json

log = logging.getLogger("jaxprefix")


class Population:
    """A population between its set-up and its end.

    Args:
      run: what the members have in common.
      runs: theirs.
      independent_order: whether each has its own data order.
      vmap_size: how many members are computed side by side; None decides by the backend.
      labels: the labels' names where something trained fixes them.
    """

    def __init__(
        self,
        run: Run,
        runs: Sequence[Run],
        independent_order: bool,
        vmap_size: int | None,
        labels: list[str] | None = None,
    ):
        keep_compiled_programs()
        self.run, self.runs, self.independent_order = run, runs, independent_order
        # the rates of the backbone's folder are needed for members that have none of their own
        self.setup: Setup = set_up(
            dataclasses.replace(runs[0], hidden_dropout=None, attention_dropout=None), None, labels
        )
        self.models = member_models(self.setup.model.backbone, self.setup.model.head, runs)
        check_methods(self.models)
        mesh = self.setup.mesh
        trainable, backbone, initialized = init_leaves(self.models, runs, self.setup.backbone, self.setup.labels)
        self.frozen = {"backbone": backbone, "initialized": jax.device_put(initialized, replicated(mesh))}
        self._trainable = trainable
        rates = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(found.optimizer.rates() for found in runs))
        self._rates = jax.device_put((rates, stacked_dropout(self.models)), replicated(mesh))
        seeds = [found.seed for found in runs] if independent_order else [run.seed]
        rows = self.setup.examples["train"]
        self._batches = [Batches(rows, run.batch_size, seed, run.buckets) for seed in seeds]
        epoch_steps = self._batches[0].epoch_steps
        self.steps = run.steps or max(1, math.ceil(run.epochs * epoch_steps))
        self._evaluate_every = run.evaluate_every or epoch_steps
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
        self._maximise = higher_is_better(main_metric(run.task))
        self._seconds: list[float] = []
        self._active = np.ones(len(runs), bool)
        self.histories = [MemberHistory() for _ in runs]

    def init(self) -> PopulationState:
        """The state at step 0."""
        seeds = [run.seed for run in self.runs]
        return init_population(self._trainable, self.runs[0].optimizer, seeds, self.setup.mesh)

    def finished(self, step: int) -> bool:
        return step >= self.steps or not self._active.any()

    def train(self, state: PopulationState, checkpoints: Checkpoints, stop: StopSignal) -> PopulationState:
        """The loop over steps: update, report the update before, evaluate, save."""
        step = saved = int(state.train.step)
        self._active = np.array(state.active)
        pending: tuple[int, int, dict] | None = None
        trained, source = count(self._trainable) // len(self.runs), self.setup.backbone.identity["source"]
        log.info(
            "%d members of %s on %s, %s trainable parameters each; %d steps of %d rows%s",
            *(len(self.runs), type(self.runs[0].method).__name__, source, f"{trained:,}"),
            *(self.steps, self.run.batch_size, ", each in its own order" if self.independent_order else ""),
        )
        with Progress(self.steps, step) as progress, Writers(self.run, step) as writers:

            def report() -> None:
                nonlocal pending
                if pending is not None:
                    self._report(pending, progress, writers)
                    pending = None

            while not self.finished(step) and not stop.came:
                started = time.perf_counter()
                batch, tokens = self._batch(step)
                train, active, metrics = self._step(state.train, state.active, *self._rates, self.frozen, batch)
                state = PopulationState(train, active, state.best)
                report()  # of the step before, while this one runs
                step += 1
                pending = (step, tokens, metrics)
                self._seconds.append(time.perf_counter() - started)
                due = step % self._evaluate_every == 0 or step >= self.steps
                save = due or (self.run.checkpoint_every and step % self.run.checkpoint_every == 0)
                if save:
                    report()
                if due and "validation" in self.setup.examples:
                    state = self._evaluated(step, state, progress, writers)
                if save:
                    saved = step
                    self._save(checkpoints, state, step)
            report()
        if step > saved:
            self._save(checkpoints, state, step)
        checkpoints.wait()
        return state

    def _batch(self, step: int) -> tuple[dict[str, jax.Array], int]:
        """The batch of all members, or theirs stacked and padded to the same length, with the number of its tokens."""
        if not self.independent_order:
            batch = self._batches[0].batch(step)
            return put_batch(batch, self.setup.mesh), len(self.runs) * int(batch["attention_mask"].sum())
        width = max(batches.width(step) for batches in self._batches)
        found = [batches.batch(step, width=width) for batches in self._batches]
        stacked = {name: np.stack([batch[name] for batch in found]) for name in found[0]}
        return put_batch(stacked, self.setup.mesh, axis=1), int(stacked["attention_mask"].sum())

    def _report(self, pending: tuple[int, int, dict], progress: Progress, writers: Writers) -> None:
        step, tokens, metrics = pending
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
        rate = progress.step(step, tokens, float(values["loss"][good].mean()) if good.any() else math.nan)
        if step % self.run.log_every == 0 or step == self.steps:
            named = {f"{i}/{name}": float(value[i]) for i in np.flatnonzero(good) for name, value in values.items()}
            writers.scalars(step, {**named, "tokens_per_second": rate})

    def _evaluated(self, step: int, state: PopulationState, progress: Progress, writers: Writers) -> PopulationState:
        """The state after an evaluation: best leaves renewed, members without patience at rest."""
        metrics = self.measure(state.train.trainable, "validation")
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
        return PopulationState(
            state.train, *jax.device_put((state.active & goes_on, best), replicated(self.setup.mesh))
        )

    def measure(self, trainable: Tree, split: str) -> list[dict[str, float]]:
        """Every member's metrics over all rows of a split."""
        examples, rows = self.setup.examples[split], self.run.eval_batch_size or self.run.batch_size
        found = run_rows(self._eval_step, trainable, self.frozen, examples, rows, self.setup.mesh)
        return [
            evaluate_metrics(
                self.run.task,
                found["labels"],
                found["predictions"][:, index],
                label_names=examples.names,
                losses=found["losses"][:, index],
            )
            for index in range(len(self.runs))
        ]

    def _save(self, checkpoints: Checkpoints, state: PopulationState, step: int) -> None:
        info = {
            "run": to_json(self.run),
            "members": [to_json(run) for run in self.runs],
            "independent_order": self.independent_order,
            "backbone": self.setup.backbone.identity,
            "labels": list(self.setup.labels),
            "histories": [dataclasses.asdict(history) for history in self.histories],
            "jaxprefix": jaxprefix.__version__,
        }
        checkpoints.save(step, state, info=info)

    def step_seconds(self) -> float:
        return statistics.median(self._seconds[1:]) if len(self._seconds) > 1 else math.nan
