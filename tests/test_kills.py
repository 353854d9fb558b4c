"""Killed three times in a row and started again: every command ends as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {"train", "compare", "train_population", "export", "import", "predict --out", "generate --out"}


@pytest.mark.slow
def test_every_command_outlives_kills_and_pauses(tmp_path):
    command = [sys.executable, "benchmarks/kills.py", "--folder", str(tmp_path), "--brief", "3"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()][1:]
    assert [trial for trial in trials if trial["how"] != "same"] == []
    kills = {
        name: [kill for trial in trials if trial["command"] == name for kill in trial["kills"]] for name in COMMANDS
    }
    assert {name: len(found) for name, found in kills.items()} == dict.fromkeys(COMMANDS, 3)
    pauses = [kill for trial in trials if "continued" in trial["command"] for kill in trial["kills"]]
    assert [pause["kind"] for pause in pauses] == ["pause"] * 3
