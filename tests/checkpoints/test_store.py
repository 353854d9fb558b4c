"""Checkpoints: to the bit, the newest and the best kept, and what the disk refuses."""

import logging
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed_saver import bits, state_of
from store_cases import LIKE, abstract, fill

from jaxprefix.checkpoints import files, store
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.errors import UserError


def test_every_dtype_and_structure_round_trips_to_the_bit(tmp_path: Path):
    params = {"a/b": {"c.d": jnp.linspace(0, 1, 7)}, "0": jnp.zeros((2, 0, 3), jnp.bfloat16)}
    odd = jnp.array([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-45], jnp.float32)
    state = {
        "params": params,
        "opt": optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params),
        "odd": odd,
        "dtypes": [
            jnp.arange(5).astype(t) for t in ("bfloat16", "float16", "int8", "uint8", "int32", "uint32", "bool")
        ],
        "scalars": (jnp.int32(-3), jnp.float32(0.1), jnp.bfloat16(0.1), jnp.bool_(True)),
        "keys": [jax.random.key(1), jax.random.split(jax.random.key(2, impl="rbg"), (2, 3))],
        "empty": {"tuple": (), "none": None},
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, info={"x": [1, 2.5, None]}, wait=True)
        step, back, info = checkpoints.restore(abstract(state))
    assert (step, info) == (5, {"x": [1, 2.5, None]})
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert bits(back) == bits(state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back))
    assert [k.dtype for k in back["keys"]] == [k.dtype for k in state["keys"]]


def test_the_state_is_captured_at_the_call(tmp_path: Path):
    overwrite = jax.jit(lambda x: x + 1, donate_argnums=0)
    x, history = jnp.arange(1_000_000.0), [1]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x}, info={"history": history})
        history.append(2)
        for _ in range(20):
            x = overwrite(x)
        _, back, info = checkpoints.restore({"x": abstract(x)})
    assert np.array_equal(back["x"], np.arange(1_000_000.0, dtype=np.float32))
    assert info == {"history": [1]}


def test_the_call_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate, real = threading.Event(), store.start_saving
    monkeypatch.setattr(store, "start_saving", lambda *a: gate.wait(30) and real(*a))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1), info={})
        assert checkpoints.steps() == []
        gate.set()
        checkpoints.wait()
        assert checkpoints.steps() == [1]


@pytest.mark.parametrize(
    ("best", "metrics", "kept", "best_step"),
    [
        ("max", [1.0, 3.0, 2.0, 0.0, 1.0], [1, 3, 4], 1),
        ("max", [1.0, 3.0, 3.0, 3.0, 1.0], [1, 3, 4], 1),  # of equal ones the first
        ("min", [1.0, 3.0, 2.0, 2.0, 5.0], [0, 3, 4], 0),
        ("max", [1.0, float("nan"), None, 0.5, float("nan")], [0, 3, 4], 0),
        ("max", [None] * 5, [3, 4], None),
        (None, [9.0, 1.0, 1.0, 1.0, 1.0], [3, 4], None),
    ],
)
def test_newest_and_best_are_kept(tmp_path: Path, best: Any, metrics: list, kept: list[int], best_step: int | None):
    x = {"x": jnp.ones(3)}
    with Checkpoints(tmp_path, keep_latest=2, best=best) as checkpoints:
        for step, metric in enumerate(metrics):
            checkpoints.save(step, jax.tree.map(lambda leaf, s=step: leaf * s, x), info={"at": step}, metric=metric)
        checkpoints.wait()
        assert checkpoints.steps() == kept
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, kept))
        found = checkpoints.best()
        assert (found and found[0]) == best_step
        if best_step is None:
            assert checkpoints.restore_best(abstract(x)) is None
        else:
            step, back, info = checkpoints.restore_best(abstract(x))
            assert (step, back["x"][0], info) == (best_step, best_step, {"at": best_step})


def test_info_is_read_without_arrays(tmp_path: Path):
    with Checkpoints(tmp_path / "none" / "yet", read_only=True) as checkpoints:
        assert checkpoints.read_info() is checkpoints.restore(LIKE) is checkpoints.best() is None
    assert not (tmp_path / "none").exists()
    fill(tmp_path, range(3))
    for step in (1, 2):
        shutil.rmtree(tmp_path / str(step) / "arrays")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.read_info() == {"history": [2]}
        assert checkpoints.read_info(1) == {"history": [1]}
        with pytest.raises(UserError, match=r"step 0 .* missing; steps there: 1, 2"):
            checkpoints.read_info(0)


def test_the_same_step_again_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Checkpoints(tmp_path) as checkpoints:
        for value, exchange in [(1.0, files._exchange), (2.0, files._exchange), (3.0, lambda a, b: False)]:
            monkeypatch.setattr(files, "_exchange", exchange)
            checkpoints.save(4, {"x": jnp.array(value)}, info={}, metric=value, wait=True)
            assert checkpoints.restore({"x": abstract(jnp.array(0.0))})[1]["x"] == value
            assert [path.name for path in tmp_path.iterdir()] == ["4"]


# The disk


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"could not be written to .*file/run \(Not a directory\)"):
        Checkpoints(tmp_path / "file" / "run")
    if os.getuid() != 0:  # root may write everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(UserError, match="Permission denied"):
            Checkpoints(tmp_path / "closed")


def _mount(path: Path, options: str) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path):
    _mount(tmp_path, "size=2m")
    try:
        small, big = {"x": jnp.arange(1000.0)}, {"x": jax.random.normal(jax.random.key(0), (1_000_000,))}
        checkpoints = Checkpoints(tmp_path, keep_latest=1)
        checkpoints.save(1, small, info={}, wait=True)
        checkpoints.save(2, big, info={})
        with pytest.raises(UserError, match=rf"step 2 could not be written to {tmp_path} \(No space left on device\)"):
            checkpoints.wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
        assert np.array_equal(checkpoints.restore(abstract(small))[1]["x"], small["x"])
        checkpoints.save(3, small, info={}, wait=True)
        checkpoints.close()
        assert checkpoints.steps() == [3]
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(UserError, match="Read-only file system"):
            Checkpoints(tmp_path)
        with Checkpoints(tmp_path, read_only=True) as looking:
            assert looking.restore(abstract(small))[0] == 3
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_failed_save_does_not_hide_the_error_under_way(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, info={}, wait=True)
        checkpoints.folder = tmp_path / "gone" / "away"
        checkpoints.save(2, {"x": jnp.ones(2)}, info={})
        _ = 1 / 0
    assert "No such file or directory" in caplog.text
    assert (tmp_path / "1").exists()


def test_what_a_dead_process_left_is_cleaned_up(tmp_path: Path):
    fill(tmp_path, range(2))
    (tmp_path / "2.partial" / "arrays").mkdir(parents=True)
    (tmp_path / "0.removed").mkdir()
    (tmp_path / "1").rename(tmp_path / "1.replaced")
    (tmp_path / "notes.partial").write_text("mine")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [0]
        assert (tmp_path / "2.partial").exists()
        with pytest.raises(ValueError, match="read_only"):
            checkpoints.save(2, state_of(2), info={})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(LIKE)[0] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "notes.partial"]


def test_logging_is_left_as_it_was(tmp_path: Path):
    levels = {"absl": logging.INFO, "orbax": logging.DEBUG}
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        fill(tmp_path, range(3))
        assert {name: logging.getLogger(name).level for name in levels} == levels
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
