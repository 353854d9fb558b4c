"""Killed at any moment and started again: the same bits as a run that nothing happened to."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprefix.cli import main as cli
from tests.training.watching import kept_steps, lines, same_end
from tests.training.worlds import DROPOUT

ROOT = Path(__file__).parents[2]
WITH_DROPOUT = dict.fromkeys(DROPOUT, "None")  # as the encoder has it
FIELDS = {"checkpoint_every": "2", **WITH_DROPOUT}  # of 12 steps, with evaluations after 6 and 12


class Runner:
    """Sends `jaxprefix train` to the process that forks a child for each run; see `killed.py`."""

    def __init__(self, cache: Path):
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAXPREFIX_CACHE": str(cache),
        }
        command = [sys.executable, "-m", "tests.training.killed"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
        )

    def __call__(self, moment: str, args: list[str], folder: Path, **env: str) -> tuple[int, str]:
        """The exit code (minus the signal, where one killed the child), and what the child printed."""
        log = folder / "log"
        self.process.stdin.write(json.dumps({"moment": moment, "args": args, "log": str(log), "env": env}) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, log.read_text()


@pytest.fixture(scope="module")
def runner(world, tmp_path_factory):
    started = Runner(tmp_path_factory.mktemp("cache"))
    yield started
    started.process.stdin.close()
    started.process.wait(30)


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main(["train", world.config_file(folder / "config.py", folder / "run", **FIELDS)]) == 0
    return folder / "run"


# The newest checkpoints that each kill leaves; None where the one under way may have been finished or not.
KILLS = {
    "before the first step": [],
    "between steps": None,
    "first compile": [],
    "arrays of a checkpoint": [2],
    "record of a checkpoint": [2],
    "rename of a checkpoint": [2],
    "removal of an old checkpoint": [2, 4, 6],
    "evaluation": None,
    "token cache": [],
    "adapter half written": [10, 12],
    "rename of the adapter": [10, 12],
}
QUICK = ("between steps", "rename of a checkpoint", "adapter half written")


@pytest.mark.parametrize(
    "moment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KILLS]
)
def test_killed_and_started_again_is_uninterrupted_to_the_bit(world, tmp_path, runner, whole, moment, monkeypatch):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    command = ["train", world.config_file(tmp_path / "config.py", folder, **FIELDS)]
    code, said = runner(moment, command, tmp_path, JAXPREFIX_CACHE=str(cache))
    assert code == -signal.SIGKILL, said
    kept = KILLS[moment]
    assert kept is None or kept_steps(folder)[-3:] == kept or kept_steps(folder)[-2:] == kept
    assert not (folder / "adapter").exists()
    if moment == "first compile":
        assert "before the process died" not in said
    if moment == "token cache":
        assert len(list(cache.glob("tokens/[!.]*"))) == 1  # the training rows
        assert len(list(cache.glob("tokens/.*"))) == 1  # the validation rows, half written
    monkeypatch.setenv("JAXPREFIX_CACHE", str(cache))  # the token cache that the kill left
    assert cli.main(command) == 0
    same_end(whole, folder)
    assert lines(folder) == lines(whole)
    assert not [path for path in folder.rglob("*") if path.name.endswith((".partial", ".removed", ".replaced"))]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["SIGTERM", "SIGTERM while evaluating"])
def test_asked_to_stop_it_saves_and_exits_in_peace(world, tmp_path, runner, whole, moment):
    folder = tmp_path / "run"
    command = ["train", world.config_file(tmp_path / "config.py", folder, checkpoint_every="5", **WITH_DROPOUT)]
    code, said = runner(moment, command, tmp_path)
    assert code == 0, said
    assert "stopped at step 6; the same command resumes it" in said
    assert kept_steps(folder)[-1] == 6
    assert not (folder / "adapter").exists()
    assert cli.main(command) == 0
    same_end(whole, folder)
    assert lines(folder) == lines(whole)


def test_asked_to_stop_between_checkpoints_it_saves_where_it_is(world, tmp_path, runner, whole):
    """By Ctrl-C, by its terminal's end, and by a scheduler after the last step; then it ends in the same bits."""
    folder = tmp_path / "run"
    command = ["train", world.config_file(tmp_path / "config.py", folder, **WITH_DROPOUT)]
    for name, code, step in (("SIGINT", 130, 4), ("SIGHUP", 129, 8), ("SIGTERM", 0, 12)):
        found, said = runner(f"{name} at step 4", command, tmp_path)
        assert found == code, said
        assert said.splitlines()[-1].endswith(f"stopped at step {step}; the same command resumes it")
        assert said.count("stopped") == 1
        assert "Traceback" not in said and "jaxprefix: " not in said
        assert kept_steps(folder)[-1] == step
        assert not (folder / "adapter").exists()
    assert cli.main(command) == 0
    same_end(whole, folder)
    assert lines(folder) == lines(whole)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_compilation(world, tmp_path, runner):
    command = ["train", world.config_file(tmp_path / "config.py", tmp_path / "run", **FIELDS)]
    code, said = runner("Ctrl-C twice while compiling", command, tmp_path)
    assert code == 130, said
    assert said.splitlines()[-1] == "jaxprefix: ended at once; what was saved before is whole"
    assert "before the process died" not in said


@pytest.mark.slow
def test_killed_while_an_adapter_is_replaced_an_adapter_is_there(world, tmp_path, runner, whole):
    """A finished run exports again when it is started again; the old adapter stays until the new one is whole."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    config = world.config_file(tmp_path / "config.py", folder, **FIELDS)
    stored = folder / "adapter" / "adapter.safetensors"
    before = stored.read_bytes()
    for moment in ("adapter half written", "rename of the adapter"):
        code, said = runner(moment, ["train", config], tmp_path)
        assert code == -signal.SIGKILL, said
        assert stored.read_bytes() == before
    assert cli.main(["train", config]) == 0
    assert stored.read_bytes() == before
