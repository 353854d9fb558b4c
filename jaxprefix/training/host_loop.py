"""The host side of training, the same for a run and a population: update, report the update before, evaluate, save,
stop."""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from jaxprefix.checkpoints.files import run_folder
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.contract import Contract, required
from jaxprefix.tasks.base import cut_metrics
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Setup
from jaxprefix.training.timing import Clock, Profile
from jaxprefix.training.writers import Progress, Writers

State = TypeVar("State")


class HostLoop(Contract, Generic[State]):
    """The loop over steps; a subclass says what an update, a report, an evaluation and a checkpoint are.

    Args:
      run: what is trained.
      setup: its set-up.
      checkpoints: where its states are kept.
      steps: updates in all.
      epoch_steps: updates of an epoch, after each of which the validation rows are evaluated unless the run says
        otherwise.
    """

    def __init__(self, run: Run, setup: Setup, checkpoints: Checkpoints, steps: int, epoch_steps: int) -> None:
        self.run, self.setup, self.checkpoints, self.steps = run, setup, checkpoints, steps
        self.evaluate_every = run.evaluate_every or epoch_steps
        self.clock = Clock()
        self.seconds: list[float] = []

    @required
    def step_of(self, state: State) -> int:
        """Updates that a state has seen."""
        raise NotImplementedError

    @required
    def finished(self, step: int) -> bool:
        """Whether there is no update after `step`."""
        raise NotImplementedError

    @required
    def next_batch(self, step: int) -> tuple[Any, int]:
        """The placed batch of a step, and the number of its tokens."""
        raise NotImplementedError

    @required
    def update(self, state: State, batch: Any) -> tuple[State, dict[str, Any]]:
        """One update, which may still be running on the devices, and its metrics."""
        raise NotImplementedError

    @required
    def report(self, step: int, tokens: int, metrics: dict[str, Any], progress: Progress, writers: Writers) -> None:
        """Waits for the metrics of an update, and writes them."""
        raise NotImplementedError

    @required
    def evaluate(self, step: int, state: State, progress: Progress, writers: Writers) -> tuple[State, float | None]:
        """Measures the validation rows; the metric, if any, decides which checkpoint is best."""
        raise NotImplementedError

    @required
    def info(self) -> dict[str, Any]:
        """What a checkpoint says beside its leaves, as JSON."""
        raise NotImplementedError

    def loop(self, state: State, stopped: Callable[[], bool]) -> State:
        """Updates until the end, or until `stopped` says so; the last state is saved."""
        step = saved = self.step_of(state)
        pending: tuple[int, int, dict[str, Any]] | None = None
        profile = Profile(self.run.profile, step, run_folder(self.run.folder))
        with Progress(self.steps, step) as progress, Writers(self.run, step or -1, self.checkpoints.place) as writers:
            cut = {f"train/{name}": value for name, value in cut_metrics(self.setup.examples["train"].cut).items()}
            if cut and not step:
                writers.scalars(0, cut)

            def report() -> None:
                nonlocal pending
                if pending is not None:
                    self.report(*pending, progress, writers)
                    pending = None

            while not self.finished(step) and not stopped():
                if self.run.profile:
                    self.checkpoints.place.check()
                profile.at(step, state)
                started = time.perf_counter()
                with self.clock.of("data"):
                    batch, tokens = self.next_batch(step)
                with self.clock.of("step"):
                    state, metrics = self.update(state, batch)
                    report()  # of the step before, while this one runs
                step += 1
                pending = (step, tokens, metrics)
                self.seconds.append(time.perf_counter() - started)
                due = step % self.evaluate_every == 0 or step >= self.steps
                if not due and not (self.run.checkpoint_every and step % self.run.checkpoint_every == 0):
                    continue
                report()
                metric = None
                if due and "validation" in self.setup.examples:
                    with self.clock.of("evaluation"):
                        state, metric = self.evaluate(step, state, progress, writers)
                self._save(step, state, metric)
                saved = step
            report()
            profile.close(state)
        if step > saved:
            self._save(step, state, None)
        self.checkpoints.wait()
        return state

    def _save(self, step: int, state: State, metric: float | None) -> None:
        with self.clock.of("checkpoint"):
            self.checkpoints.save(step, state, info=self.info(), metric=metric)
