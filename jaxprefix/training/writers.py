"""Where a run's numbers go: `metrics.jsonl` always, TensorBoard and W&B as extras, one live line on a terminal."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
from typing_extensions import override

from jaxprefix.checkpoints.files import is_remote, run_folder, writing
from jaxprefix.checkpoints.place import Place
from jaxprefix.contract import Contract, required
from jaxprefix.errors import UserError, escaped
from jaxprefix.paths import parse_json
from jaxprefix.training.config import Run
from jaxprefix.typed_json import to_json


class MetricWriter(Contract):
    """Takes the scalars of one step."""

    @required
    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of a step by their names."""
        raise NotImplementedError

    @required
    def close(self) -> None:
        """Writes what is left; nothing is written after it."""
        raise NotImplementedError


class JsonLines(MetricWriter):
    """`metrics.jsonl`: one object per line, with `step` and the scalars of that step.

    Args:
      path: the file; lines of steps after `last_step` are dropped, since they will be written again.
      last_step: the step that the run goes on from.

    Raises:
      UserError: the disk is full or the file cannot be written; also by `scalars`.
    """

    def __init__(self, path: Path, last_step: int):
        self._path = path
        with writing("metrics", path):
            kept = _kept_lines(path, last_step)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, path)
            self._file = path.open("a")

    @override
    def scalars(self, step: int, values: dict[str, float]) -> None:
        with writing("metrics", self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()

    @override
    def close(self) -> None:
        with contextlib.suppress(OSError):  # every line was flushed; what is left is one that the disk refused
            self._file.close()


def _kept_lines(path: Any, last_step: int) -> list[str]:
    """The lines of steps up to the last one, but for damaged ones: a process that was killed leaves half a line."""
    kept = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            if parse_json(line)["step"] <= last_step:
                kept.append(line.decode())
        except (ValueError, KeyError, TypeError):
            continue
    return kept


class BucketLines(MetricWriter):
    """The same in a bucket, whose files cannot be added to: written anew now and then, and at the end.

    Args:
      path: an `epath.Path`.
      last_step: as of `JsonLines`.
      every: seconds between two writings; a process that is killed loses the lines since the last one.
    """

    def __init__(self, path: Any, last_step: int, every: float = 60.0):
        self._path, self._every, self._written = path, every, time.monotonic()
        self._lines = []
        with writing("metrics", path):
            if path.exists():
                self._lines = _kept_lines(path, last_step)

    @override
    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._lines.append(json.dumps({"step": step, **values}))
        if time.monotonic() - self._written >= self._every:
            self.close()

    @override
    def close(self) -> None:
        with writing("metrics", self._path):
            self._path.write_text("".join(line + "\n" for line in self._lines))
        self._written = time.monotonic()


class TensorBoard(MetricWriter):
    """TensorBoard event files in `<folder>/tensorboard` (extra `tensorboard`)."""

    def __init__(self, folder: Any):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise UserError(
                "the writer tensorboard needs its extra; run `pip install 'jaxprefix[tensorboard]'`."
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    @override
    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    @override
    def close(self) -> None:
        self._writer.close()


class WandB(MetricWriter):
    """A Weights & Biases run named after the folder (extra `wandb`)."""

    def __init__(self, folder: Any, config: dict[str, Any]):
        try:
            import wandb  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise UserError("the writer wandb needs its extra; run `pip install 'jaxprefix[wandb]'`.") from error
        place = None if is_remote(folder) else str(folder)
        self._run = wandb.init(project="jaxprefix", name=folder.name, dir=place, config=config, resume="allow")

    @override
    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    @override
    def close(self) -> None:
        self._run.finish()


class Writers:
    """All writers of a run as one; on process 0 only.

    Args:
      run: names the writers and the folder.
      last_step: the step that the run goes on from.
      place: the folder, which must stay where it is.

    Raises:
      FolderGone: the folder was renamed or removed; also by `scalars`.
    """

    def __init__(self, run: Run, last_step: int, place: Place):
        self._place = place
        place.check()
        folder = run_folder(run.folder)
        self._writers: list[MetricWriter] = []
        if jax.process_index() == 0:
            lines = BucketLines if is_remote(folder) else JsonLines
            self._writers.append(lines(folder / "metrics.jsonl", last_step))
            if "tensorboard" in run.writers:
                self._writers.append(TensorBoard(folder))
            if "wandb" in run.writers:
                self._writers.append(WandB(folder, json.loads(to_json(run))))

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: Any) -> None:
        for writer in self._writers:
            writer.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Hands the values of a step to every writer."""
        self._place.check()
        for writer in self._writers:
            writer.scalars(step, values)


class Progress:
    """What a person sees while a run goes on: one live line on a terminal, else a plain line now and then."""

    def __init__(self, steps: int, start: int):
        from rich.console import Console

        quiet = jax.process_index() != 0
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._steps, self._start = steps, start
        self._every = 10.0 if jax.process_count() == 1 else 60.0  # seconds between lines
        self._live = self._console.status("") if self._console.is_terminal and not quiet else None
        self._begun: float | None = None
        self._tokens, self._last_line = 0, time.monotonic()
        self._metric = ""

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        with contextlib.suppress(OSError):  # the terminal may be gone, and the signal that says so not be here yet
            self._console.print(escaped(text), markup=False, soft_wrap=True)

    def evaluated(self, name: str, value: float) -> None:
        """Shows the metric from now on."""
        self._metric = f" · {name} {value:.4g}"

    def step(self, step: int, tokens: int, loss: float) -> float:
        """Takes note of a finished step; returns tokens per second since the second step, the first being compiled."""
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._start = now, step
            return 0.0
        self._tokens += tokens
        spent = max(now - self._begun, 1e-9)
        rate = self._tokens / spent
        remaining = spent / max(step - self._start, 1) * (self._steps - step)
        line = f"step {step}/{self._steps} · loss {loss:.4f}{self._metric} · {rate:,.0f} tokens/s"
        line += f" · {_time(remaining)} left"
        if self._live is not None:
            self._live.update(line)
        elif now - self._last_line >= self._every or step == self._steps:
            self._last_line = now
            self.say(line)
        return rate


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
