"""Two runs in one folder: the second is refused at once; the lock is the kernel's, so that a killed run leaves none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import jaxprefix as jp
from jaxprefix.checkpoints.lock import LOCK, only_run
from jaxprefix.cli.main import main
from jaxprefix.errors import UserError

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from jaxprefix.checkpoints.lock import only_run
with only_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True, env=env
    )
    assert held.stdout.readline() == "held\n"
    yield held
    held.kill()
    held.wait()


def test_the_second_run_is_refused_and_a_killed_one_leaves_no_lock(holder, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "import jaxprefix as jp\n\n\ndef config():\n    return jp.Run(task=jp.Classification(jp.Files('x.jsonl')), "
        f"folder={str(tmp_path / 'run')!r})\n"
    )
    begun = time.monotonic()
    assert main(["train", str(config)]) == 2
    assert time.monotonic() - begun < 10
    assert f"is in use by another run (process {holder.pid})" in capsys.readouterr().err
    run = jp.Run(task=jp.Classification(jp.Files("x.jsonl")), folder=str(tmp_path / "run"))
    with pytest.raises(UserError, match=f"process {holder.pid}"):
        jp.train_population(run, [{"seed": 0}, {"seed": 1}])
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with only_run(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_lock_is_given_back_also_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_run(tmp_path / "run"):
            with pytest.raises(UserError, match=f"process {os.getpid()}"), only_run(tmp_path / "run"):
                pass
            raise ZeroDivisionError
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_is_no_place_for_a_run(tmp_path):
    file = tmp_path / "afile"
    file.write_text("mine")
    for place in (file, file / "run"):
        with pytest.raises(UserError, match=r"is a file; a run needs a folder|could not be written"):
            jp.train(jp.Run(task=jp.Classification(jp.Files("x.jsonl")), folder=str(place)))
    assert file.read_text() == "mine"


def test_where_there_are_no_locks_a_line_says_so(tmp_path, monkeypatch, caplog):
    import fcntl

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level("INFO", "jaxprefix"), only_run(tmp_path / "run"):
        pass
    assert "has no locks (Operation not supported)" in caplog.text
