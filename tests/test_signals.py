"""Signals that ask a command to stop: what is told, the exit codes, and a second Ctrl-C; `tests/training` has runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprefix.cli.main import COMMANDS, find_command, main
from jaxprefix.signals import NUMBERS, StopSignal, exit_code

ROOT = Path(__file__).parents[1]
# A call into C that no handler of Python's interrupts, as a compilation is one.
BUSY = """
import hashlib, sys, threading
from jaxprefix.signals import Interruptible, StopSignal
with Interruptible(), StopSignal() as stop:
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def kill(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_every_command_that_is_stopped_says_one_line(command, number, code, monkeypatch, capsys):
    before = [signal.getsignal(number) for number in NUMBERS]
    monkeypatch.setattr(find_command(command), "run", lambda args: kill(number))
    assert main([command]) == code
    said = capsys.readouterr()
    resumed = "; the same command resumes it" if command in ("train", "compare") else ""
    assert (said.out, said.err) == ("", f"jaxprefix: stopped before its end{resumed}\n")
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_an_interruption_that_became_another_exception_is_one_line(monkeypatch, capsys):
    def run(args):
        try:
            kill(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    monkeypatch.setattr(find_command("predict"), "run", run)
    assert main(["predict"]) == 130
    assert capsys.readouterr().err == "jaxprefix: stopped before its end\n"


def test_a_stop_is_remembered_and_ctrl_c_after_it_raises():
    for number in NUMBERS:
        with StopSignal() as stop:
            kill(number)
            assert stop.came == number
            with pytest.raises(KeyboardInterrupt):
                kill(signal.SIGINT)
            assert stop.came == number
    assert [exit_code(number) for number in NUMBERS] == [0, 130, 129]


def test_one_within_another_hears_what_came_before_and_tells_what_comes():
    with StopSignal() as outer:
        with StopSignal() as inner:
            kill(signal.SIGHUP)
            assert (inner.came, outer.came) == (signal.SIGHUP, signal.SIGHUP)
        with StopSignal() as later:
            assert later.came == signal.SIGHUP


def test_what_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            kill(signal.SIGHUP)
            assert stop.came is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_a_process_that_is_busy_in_c():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    child = subprocess.Popen([sys.executable, "-c", BUSY], **pipes)
    assert child.stdout.readline() == "busy\n"
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):  # the first waits until the call is done
        child.wait(0.2)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 130
    assert child.stderr.read() == "jaxprefix: ended at once; what was saved before is whole\n"
