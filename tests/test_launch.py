"""The launch scripts: valid shell, and what they would run is a command that train.py understands."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from jaxprefix.cli.configs import parse_run
from jaxprefix.distributed.launch import take_launch
from jaxprefix.training.config import Run

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples" / "launch").iterdir())
CONFIG = "configs/rte_bert_large.py"
FIELDS = ["--mesh.fsdp", "16", "--precision", "bfloat16"]


@pytest.fixture
def launched(tmp_path):
    """Runs a script with every foreign command replaced by one that notes its arguments; returns the notes."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("gcloud", "xpk", "srun", "scontrol"):
        note = f'#!/bin/sh\nprintf "%s\\0" {name} "$@" >> {tmp_path}/notes\nprintf "\\n\\0" >> {tmp_path}/notes\n'
        answer = 'case "$*" in *describe*) echo ACTIVE ;; esac\n'
        (commands / name).write_text(note + answer)
        (commands / name).chmod(0o755)

    def run(script, *args):
        env = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "BUCKET": "bucket",
            "NAME": "name",
            "CLUSTER": "cluster",
            "PROJECT": "project",
            "WAIT": "0",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_NAME": "job",
            "SLURM_JOB_ID": "7",
        }
        command = ["bash", str(ROOT / "examples" / "launch" / script), *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / "notes").read_text().split("\0\n\0")
        return [line.split("\0") for line in lines if line]

    return run


def trained(notes):
    """The arguments that train.py gets, of the one command that starts it."""
    (command,) = {word for words in notes for word in [" ".join(words)] if "train.py" in word}
    found = re.search(r"train\.py (.*?--folder \S+)", command)
    return shlex.split(found[1])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_script_is_valid_shell(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("script", "before"), [("tpu.sh", ["train"]), ("queued.sh", []), ("gke.sh", []), ("gpus.sbatch", [])]
)
def test_what_it_starts_is_a_run_with_these_fields(launched, monkeypatch, script, before):
    monkeypatch.chdir(ROOT)
    launch, rest = take_launch(trained(launched(script, *before, CONFIG, *FIELDS)))
    run = parse_run(rest, "train.py")
    assert isinstance(run, Run)
    assert launch.mode == "on"
    assert (run.mesh.fsdp, run.precision) == (16, "bfloat16")
    assert run.folder.startswith("gs://bucket/runs/name") or script == "gpus.sbatch"


def test_every_action_calls_gcloud_once(launched):
    """`install` copies first."""
    for action, calls in {"create": 1, "install": 2, "logs": 1, "kill": 1, "delete": 1}.items():
        assert len(launched("tpu.sh", action)) >= calls


def test_an_unknown_action_is_refused():
    command = ["bash", str(ROOT / "examples" / "launch" / "tpu.sh"), "begin"]
    done = subprocess.run(command, env={**os.environ, "BUCKET": "b"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no action begin" in done.stderr
