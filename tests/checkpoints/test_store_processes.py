"""Checkpoints of processes that are killed, of several devices and of several processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_saver import bits, state_of
from store_cases import LIKE, SAVER, environment

from jaxprefix.checkpoints.store import Checkpoints

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
