"""Runs with a look inside: what was set up, what the step was called with, what was kept."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxprefix.training import loop
from jaxprefix.training.config import Run
from jaxprefix.trees import flatten


@dataclasses.dataclass
class Watched:
    """What came of a run, and what it was made of."""

    result: loop.Result | None = None
    setup: Any = None
    frozen_before: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    step: Any = None  # the compiled function
    calls: list[tuple] = dataclasses.field(default_factory=list)  # shapes of the batches that it was called with
    state: Any = None


def watched(run: Run, stop_before: int | None = None) -> Watched:
    """`train(run)`; with `stop_before` it is interrupted, like by Ctrl-C, before it computes that step."""
    seen = Watched()
    set_up, make_train_step = loop.set_up, loop.make_train_step

    def set_up_watched(*args: Any, **options: Any) -> Any:
        seen.setup = set_up(*args, **options)
        seen.frozen_before = {path: np.array(leaf) for path, leaf in flatten(seen.setup.frozen).items()}
        return seen.setup

    def make_watched(*args: Any, **options: Any) -> Any:
        seen.step = make_train_step(*args, **options)

        def step(state: Any, rates: Any, frozen: Any, batch: Any) -> Any:
            if stop_before is not None and int(state.step) + 1 == stop_before:
                raise KeyboardInterrupt
            seen.calls.append(batch["input_ids"].shape)
            seen.state, metrics = seen.step(state, rates, frozen, batch)
            return seen.state, metrics

        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_up", set_up_watched)
        patch.setattr(loop, "make_train_step", make_watched)
        if stop_before is None:
            seen.result = loop.train(run)
        else:
            with pytest.raises(KeyboardInterrupt):
                loop.train(run)
    return seen


def record(folder: Path, step: int | None = None) -> dict[str, Any]:
    """The record of a checkpoint of a run, by default of the newest: leaves, digests, info."""
    steps = kept_steps(folder)
    return json.loads((folder / "checkpoints" / str(step or steps[-1]) / "record.json").read_text())["record"]


def kept_steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def same_end(one: Path, other: Path) -> None:
    """Two runs ended with the same bits: every leaf of the last checkpoint, and the adapter's tensors."""
    a, b = record(one), record(other)
    assert a["step"] == b["step"]
    assert a["digests"] == b["digests"]
    assert any(name.startswith("opt_state/") for name in a["digests"])
    assert a["info"]["history"] == b["info"]["history"]
    name = "adapter/adapter.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()


def lines(folder: Path) -> list[dict]:
    """What `metrics.jsonl` holds, without the speed."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("tokens_per_second", "milliseconds/", "memory/")
    return [{key: value for key, value in line.items() if not key.startswith(timed)} for line in found]


def bits(tree: Any) -> dict[str, bytes]:
    return {path: np.asarray(leaf).tobytes() for path, leaf in flatten(jax.device_get(tree)).items()}
