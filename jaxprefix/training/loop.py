"""A run from its config to its adapter, top to bottom."""

import contextlib
import dataclasses
import logging
import math
import signal
from pathlib import Path
from typing import Any

import jax

import jaxprefix
from jaxprefix.checkpoints.files import run_folder
from jaxprefix.checkpoints.lock import only_run
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.data import Batches
from jaxprefix.distributed.devices import found_devices
from jaxprefix.distributed.mesh import put_batch, replicated
from jaxprefix.distributed.processes import Agreement
from jaxprefix.distributed.rows import local_rows
from jaxprefix.errors import RunFailed
from jaxprefix.signals import RESUMED, StopSignal
from jaxprefix.tasks.base import Facts
from jaxprefix.training.config import Run
from jaxprefix.training.evaluation import measure, run_rows, score_texts, with_facts
from jaxprefix.training.export import write_run_adapter
from jaxprefix.training.host_loop import HostLoop
from jaxprefix.training.preflight import check_before_training
from jaxprefix.training.provenance import stored_run
from jaxprefix.training.reporting import tell_report
from jaxprefix.training.resume import (
    History,
    keep_compiled_programs,
    refuse_other_backbone,
    refuse_other_run,
)
from jaxprefix.training.setup import Setup, set_up
from jaxprefix.training.step import TrainState, init_state, make_eval_step, make_train_step, run_key
from jaxprefix.training.timing import memory_in_use
from jaxprefix.training.writers import Progress, Writers
from jaxprefix.trees import Tree, count

log = logging.getLogger("jaxprefix")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      folder: the run's folder; an `epath.Path` where it is a bucket's.
      adapter: its adapter folder; None if the run was stopped by a signal.
      steps: updates done.
      metrics: by split, the metrics of the best checkpoint.
      signal: the number of the signal that stopped it here; None if it ended, or another process was told to stop.
    """

    folder: Path
    adapter: Path | None
    steps: int
    metrics: dict[str, dict[str, float]]
    signal: int | None = None


def train(run: Run) -> Result:
    """Tunes a backbone as the config says: trains, evaluates, keeps checkpoints, and leaves an adapter folder.

    A run that is started again in its folder goes on from its newest whole checkpoint, to the same trainable leaves,
    bit for bit, that it would have reached without the interruption.

    SIGTERM, SIGINT and SIGHUP that come between the first step and the last stop it after a step, which is saved.

    Raises:
      UserError: something in config, data, backbone or folder must be corrected.
      RunFailed: the loss is not finite any more, or the folder was renamed or removed.
      KeyboardInterrupt: SIGINT came (Ctrl-C, or a notebook's stop button); the message says what was saved.

    A config with a `baseline` is followed by a run of that method, and both metrics are logged side by side.
    """
    result = _train(run)
    if run.baseline is not None and result.adapter is not None:
        folder = str(run_folder(run.folder) / "baseline")
        beside = _train(dataclasses.replace(run.with_method(run.baseline), folder=folder))
        if beside.signal is not None:
            return dataclasses.replace(result, signal=beside.signal)
        for split, found in beside.metrics.items():
            name, value = next(iter(result.metrics[split].items()))
            log.info(
                "%s %s: %.4f with %s, %.4f with %s",
                *(split, name, value, type(run.method).__name__),
                *(found[name], type(run.baseline).__name__),
            )
    return result


def _train(run: Run) -> Result:
    run.check()
    found_devices()
    folder = run_folder(run.folder)
    maximise = run.task.higher_is_better
    keep_compiled_programs()
    # One process that is told to stop before its first step just ends; among several that would end the others badly.
    stop, listening = StopSignal(), jax.process_count() > 1
    with (
        stop if listening else contextlib.nullcontext(),
        only_run(folder) as place,
        Checkpoints(folder / "checkpoints", best="max" if maximise else "min", place=place) as checkpoints,
    ):
        stored = checkpoints.read_info()
        if stored is not None:
            refuse_other_run(run, stored)
        setup = set_up(run, stored=stored)
        if stored is not None:
            refuse_other_backbone(setup, stored)

        batches = Batches(setup.examples["train"], run.batch_size, run.seed, run.buckets)
        steps = run.steps or max(1, math.ceil(run.epochs * batches.epoch_steps))
        run.optimizer.check_steps(steps)
        train_step = make_train_step(
            setup.model,
            run.optimizer,
            setup.mesh,
            steps=steps,
            epoch_steps=batches.epoch_steps,
            accumulate=run.accumulate,
            label_smoothing=run.label_smoothing,
        )
        eval_step = make_eval_step(setup.model, setup.mesh)
        state = init_state(setup.model, setup.trainable, run.optimizer, run_key(run.seed), setup.mesh)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        restored = checkpoints.restore(abstract)
        history = History()
        if restored is not None:
            start, state, info = restored
            history = History(**info["history"])
            log.info("going on from step %d of %d in %s", start, steps, folder)
        _announce(setup, steps, batches)
        tell_report(setup.report)
        if restored is None:
            check_before_training(setup, eval_step, state.trainable)

        loop, agreed = _Loop(setup, batches, steps, train_step, eval_step, checkpoints, history), Agreement(setup.mesh)
        with contextlib.nullcontext() if listening else stop:
            state = loop.loop(state, lambda: agreed(stop.came is not None))
        step = int(state.step)
        if not loop.finished(step) or (stop.came is not None and jax.process_count() == 1):
            said = f"stopped at step {step}; {RESUMED}"
            log.info(said)
            if stop.came == signal.SIGINT:
                raise KeyboardInterrupt(said)
            return Result(folder, None, step, {}, stop.came)
        return _finish(run, setup, state, abstract, checkpoints, history, eval_step)


class _Loop(HostLoop[TrainState]):
    """A run between its set-up and its end.

    Args:
      setup: of the run.
      batches: its training batches.
      steps: updates in all.
      train_step, eval_step: compiled.
      checkpoints: where its states are kept.
      history: its evaluations so far.
    """

    def __init__(
        self,
        setup: Setup,
        batches: Batches,
        steps: int,
        train_step: Any,
        eval_step: Any,
        checkpoints: Checkpoints,
        history: History,
    ) -> None:
        super().__init__(setup.run, setup, checkpoints, steps, batches.epoch_steps)
        self._batches, self._history = batches, history
        self._train_step, self._eval_step = train_step, eval_step
        self._maximise = setup.run.task.higher_is_better
        self._rows = local_rows(setup.mesh, setup.run.batch_size)
        self._rates = jax.device_put(setup.run.optimizer.rates(), replicated(setup.mesh))

    def step_of(self, state: TrainState) -> int:
        return int(state.step)

    def finished(self, step: int) -> bool:
        patience = self.run.patience
        return step >= self.steps or (patience is not None and self._history.without_progress >= patience)

    def next_batch(self, step: int) -> tuple[Any, int]:
        return put_batch(self._batches.batch(step, self._rows), self.setup.mesh), self._batches.tokens(step)

    def update(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        return self._train_step(state, self._rates, self.setup.frozen, batch)

    def report(self, step: int, tokens: int, metrics: dict[str, Any], progress: Progress, writers: Writers) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not values.pop("finite"):
            self.checkpoints.wait()
            kept = self.checkpoints.steps()
            good = f"the last good checkpoint is that of step {kept[-1]}" if kept else "there is no checkpoint yet"
            named = {"the loss": values["loss"], "the gradient's norm": values["gradient_norm"]}
            infinite = [f"{name} is {value}" for name, value in named.items() if not math.isfinite(value)]
            raise RunFailed(
                f"{' and '.join(infinite) or 'a trained leaf is not finite'} at step {step}, with learning rate "
                f"{values['rate']:.3g}; {good} in {self.checkpoints.folder}; lower the learning rate or the clip."
            )
        rate = progress.step(step, tokens, values["loss"])
        self.clock.stepped()
        if step % self.run.log_every == 0 or step == self.steps:
            spent = {**self.clock.report(), **memory_in_use()}
            writers.scalars(step, {**values, "tokens_per_second": rate, **spent})

    def evaluate(self, step: int, state: TrainState, progress: Progress, writers: Writers) -> tuple[TrainState, float]:
        found = self.measure(state.trainable, "validation")
        metric = next(iter(found.values()))
        self._history.evaluated(step, metric, self._maximise)
        writers.scalars(step, {f"validation/{name}": value for name, value in found.items()})
        progress.evaluated(f"validation {next(iter(found))}", metric)
        progress.say(f"step {step}/{self.steps}: validation {_numbers(found)}")
        return state, metric

    def measure(self, trainable: Tree, split: str) -> dict[str, float]:
        """The metrics over all rows of a split."""
        return _measured(self.setup, self._eval_step, trainable, split)[0]

    def info(self) -> dict[str, Any]:
        return {
            "run": stored_run(self.run),
            "backbone": self.setup.backbone.identity,
            "facts": dict(self.setup.facts),
            "data": dict(self.setup.data),
            "history": dataclasses.asdict(self._history),
            "jaxprefix": jaxprefix.__version__,
        }


def _finish(
    run: Run,
    setup: Setup,
    state: TrainState,
    abstract: Any,
    checkpoints: Checkpoints,
    history: History,
    eval_step: Any,
) -> Result:
    """Takes the best checkpoint, measures it on every held-out split, and writes the adapter folder."""
    steps = int(state.step)
    if history.best_step not in (0, steps):
        best = checkpoints.restore_best(abstract)
        if best is not None:
            state = best[1]
    rows, tokenizer = run.eval_batch_size or run.batch_size, setup.backbone.tokenizer
    facts, metrics = setup.facts, {}
    # the validation rows come first: what they decide is part of the adapter that the test rows are asked with
    for split in sorted(setup.examples.keys() - {"train"}, key=lambda split: split != "validation"):
        found, facts = _measured(setup, eval_step, state.trainable, split, facts)
        written = score_texts(
            run.task, split, setup.model, state.trainable, setup.frozen, tokenizer, run.decoding, rows
        )
        metrics[split] = {**found, **written}
    folder = run_folder(run.folder)
    with checkpoints.place.held():
        adapter = write_run_adapter(folder / "adapter", setup, state.trainable, metrics, facts, setup.report)
    for split, found in metrics.items():
        log.info("%s: %s", split, _numbers(found))
    log.info("adapter: %s", adapter)
    return Result(folder, adapter, steps, metrics)


def _measured(
    setup: Setup, eval_step: Any, trainable: Tree, split: str, facts: Facts | None = None
) -> tuple[dict[str, float], Facts]:
    """The metrics over all rows of a split, and the facts with what the split decides."""
    run, examples, head = setup.run, setup.examples[split], setup.model.head
    assert head is not None  # a run's model has one
    rows = run.eval_batch_size or run.batch_size
    found = run_rows(eval_step, trainable, setup.frozen, run.task, head, examples, rows, setup.mesh)
    return measure(run.task, found if facts is None else with_facts(found, facts), split)


def _announce(setup: Setup, steps: int, batches: Batches) -> None:
    trainable, frozen = count(setup.trainable), count(setup.frozen)
    rows = {split: len(examples) for split, examples in setup.examples.items()}
    log.info(
        "%s on %s: %s trainable parameters of %s (%.2f %%); rows %s; %d steps of %d rows, %d an epoch, lengths %s; %s",
        type(setup.run.method).__name__,
        setup.backbone.identity["source"],
        f"{trainable:,}",
        f"{trainable + frozen:,}",
        100 * trainable / (trainable + frozen),
        ", ".join(f"{split} {n:,}" for split, n in rows.items()),
        steps,
        batches.batch_size,
        batches.epoch_steps,
        batches.buckets,
        f"{setup.mesh.size} x {jax.devices()[0].device_kind}",
    )


def _numbers(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
