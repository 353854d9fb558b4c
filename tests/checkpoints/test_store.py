"""Checkpoints: to the bit, whole or absent, never lost."""

import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed_saver import bits, state_of

from jaxprefix.checkpoints import files, store
from jaxprefix.checkpoints.records import FORMAT
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.errors import UserError

ROOT = Path(__file__).parents[2]
SAVER = Path(__file__).with_name("killed_saver.py")


def environment(**changes: str) -> dict[str, str]:
    """The variables of a process that a test starts."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **changes}


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


LIKE = abstract(state_of(0))


def fill(folder: Path, steps: range, **kwargs: Any) -> None:
    with Checkpoints(folder, **kwargs) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step), info={"history": [step]}, metric=float(step))


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


# Damage


def damages() -> list[tuple[str, str]]:
    names = ["record.json", "arrays/_CHECKPOINT_METADATA", "arrays/state/_METADATA", "arrays/state/manifest.ocdbt"]
    return [(name, how) for name in [*names, "arrays/state/d/*"] for how in ("flip", "cut", "empty", "delete")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own event loop, on failure
@pytest.mark.parametrize(("name", "how"), damages())
def test_damage_is_noticed_and_the_one_before_is_taken(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
):
    fill(tmp_path, range(2))
    (path,) = (tmp_path / "1").glob(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "flip": lambda: path.write_bytes(data),
        "cut": lambda: path.write_bytes(data[: len(data) // 2]),
        "empty": lambda: path.write_bytes(b""),
        "delete": path.unlink,
    }[how]()
    with Checkpoints(tmp_path) as checkpoints:
        step, state, info = checkpoints.restore(LIKE)
        assert bits(state) == bits(state_of(step))  # files that only Orbax's own tools need may be damaged unnoticed
        assert info == {"history": [step]}
        must_notice = name in ("record.json", "arrays/state/d/*") or how in ("empty", "delete")
        if must_notice and name != "arrays/_CHECKPOINT_METADATA":
            assert step == 0
        if step == 0:
            assert f"{tmp_path}/1 is damaged: " in caplog.text
            assert (tmp_path / "1.damaged").exists()
        # the run goes on, and saves step 1 again
        checkpoints.save(1, state_of(1), info={"history": [1]}, wait=True)
        assert checkpoints.restore(LIKE)[0] == 1


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 0.999])
def test_a_flipped_bit_of_an_array_is_noticed_by_its_digest(tmp_path: Path, place: float):
    """Even where the array store itself finds nothing wrong: the values are changed through it."""
    from jaxprefix.checkpoints import leaves

    state = {"a": jnp.zeros((40, 25)), "b": jnp.ones((3,), jnp.bfloat16), "k": jax.random.key(0)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, info={}, wait=True)
        words = np.array(state["a"]).view(np.uint32)
        words.reshape(-1)[int(place * words.size)] ^= 1 << random.Random(place).randrange(32)
        changed = leaves.copies({**state, "a": jnp.asarray(words.view(np.float32))})
        shutil.rmtree(tmp_path / "1" / "arrays")
        leaves.start_saving(tmp_path / "1" / "arrays", changed)()
        assert checkpoints.restore(abstract(state)) is None
    assert (tmp_path / "1.damaged").exists()


def test_with_none_whole_there_is_none_and_nothing_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    fill(tmp_path, range(2))
    for step in range(2):
        (tmp_path / str(step) / "record.json").unlink()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(LIKE) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(LIKE) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.damaged", "1.damaged"]
    assert caplog.text.count("record.json is missing") == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {**s, "step": jnp.zeros(2, jnp.int32)},
            ["step is int32 [] in the checkpoint and int32 [2] in this run"],
        ),
        (lambda s: {**s, "step": jnp.float32(0)}, ["step is int32 [] in the checkpoint and float32 []"]),
        (lambda s: {**s, "gate": jnp.zeros(2)}, ["gate is not there in the checkpoint"]),
        (
            lambda s: {k: s[k] for k in ("step", "rng")},
            ["opt_state/0 is float32", "not there in this run", "and 1 more"],
        ),
    ],
)
def test_other_settings_are_refused_with_the_reason(tmp_path: Path, change: Any, words: list[str]):
    fill(tmp_path, range(2))
    with Checkpoints(tmp_path) as checkpoints:
        for restore in (checkpoints.restore, checkpoints.restore_best):
            with pytest.raises(UserError) as error:
                restore(abstract(change(state_of(0))))
            assert all(word in str(error.value) for word in [*words, "step 1", str(tmp_path)]), str(error.value)
        assert checkpoints.steps() == [0, 1]


def test_a_newer_format_is_not_taken_for_damage(tmp_path: Path):
    fill(tmp_path, range(1))
    path = tmp_path / "0" / "record.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="upgrade jaxprefix"):
        checkpoints.restore(LIKE)


def test_an_older_format_names_the_version_that_finishes_the_run(tmp_path: Path):
    fill(tmp_path, range(1))
    path = tmp_path / "0" / "record.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    before = path.read_bytes()
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"of jaxprefix 0\.1\.0; finish the run"):
        checkpoints.restore(LIKE)
    assert path.read_bytes() == before


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


# kill -9


@pytest.fixture(scope="module")
def saver():
    """The process that forks the children which are killed."""
    started = subprocess.Popen(
        [sys.executable, SAVER], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield started
    started.stdin.close()
    started.wait(30)


def kill_and_look(saver: subprocess.Popen, place: Path, delay: float, after: int = 0) -> None:
    """Kills a process that saves without end `delay` seconds after step `after` was whole (-1: after it began)."""
    folder, pipe = place / "checkpoints", place / "said"
    os.mkfifo(pipe)
    saver.stdin.write(json.dumps([str(folder), str(pipe)]) + "\n")
    saver.stdin.flush()
    child = int(saver.stdout.readline())
    with pipe.open() as said:
        try:
            lines = [next(line for line in said if int(line) >= after)]
            time.sleep(delay)
        finally:
            os.kill(child, signal.SIGKILL)
        lines += said.readlines()
    assert saver.stdout.readline() == "ended\n"
    whole = int(lines[-1])
    with Checkpoints(folder) as checkpoints:
        assert not list(folder.glob("*.*"))
        found = checkpoints.restore(LIKE)
        if found is None:
            assert whole == -1
            return
        step, state, info = found
        assert step in (whole, whole + 1)
        assert info == {"step": step}
        assert bits(state) == bits(state_of(step))
        assert not list(folder.glob("*.damaged"))
        best, state, _ = checkpoints.restore_best(LIKE)
        assert -abs(best % 7 - 3) == max(-abs(s % 7 - 3) for s in range(step + 1))
        assert bits(state) == bits(state_of(best))
        checkpoints.save(step + 1, state_of(step + 1), info={"step": step + 1}, wait=True)
        assert checkpoints.restore(LIKE)[0] == step + 1


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment(saver: subprocess.Popen, tmp_path: Path, seed: int):
    kill_and_look(saver, tmp_path, random.Random(seed).uniform(0, 0.7), after=0 if seed else -1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 115))
def test_killed_at_any_moment_many_times(saver: subprocess.Popen, tmp_path: Path, seed: int):
    kill_and_look(saver, tmp_path, random.Random(seed).uniform(0, 2.5), after=seed % 3 - 1)


# Many devices, several processes


def run_sharded(verb: str, folder: Path, devices: int, processes: int = 1) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = SAVER.with_name("sharded_saver.py")
    children = [
        subprocess.Popen(
            [sys.executable, script, verb, folder, str(devices), str(process), str(processes), str(port)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        said = [child.communicate(timeout=120)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    for process, (child, text) in enumerate(zip(children, said, strict=True)):
        assert child.returncode == 0, text
        assert f"fine {process}" in text


def test_another_number_of_devices(tmp_path: Path):
    run_sharded("save", tmp_path, 8)
    run_sharded("load", tmp_path, 4)


@pytest.mark.slow
def test_several_processes_and_then_another_number_of_them(tmp_path: Path):
    run_sharded("save", tmp_path, 4, processes=2)
    run_sharded("load", tmp_path, 4, processes=2)
    run_sharded("load", tmp_path, 8, processes=1)
