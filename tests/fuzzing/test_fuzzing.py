"""150 trials of each gate, in a process of its own, by a fixed seed; `benchmarks/fuzz.py` runs more of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing.gate import FAULTS
from tests.fuzzing.gates import GATES

ROOT, TRIALS = Path(__file__).parents[2], 150


@pytest.mark.slow
@pytest.mark.parametrize("name", GATES)
def test_whatever_comes_in_is_refused_in_a_sentence_or_right(name, tmp_path):
    command = [sys.executable, "-m", "tests.fuzzing", name, "--trials", str(TRIALS), "--folder", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    about, *results = map(json.loads, done.stdout.splitlines())
    assert about["gate"] == name and len(results) == TRIALS
    faults = [f"trial {one['number']}, {one['outcome']}: {one['said']}" for one in results if one["outcome"] in FAULTS]
    assert not faults, "\n\n".join(faults[:5])
    assert 2 * sum(one["past"] for one in results) >= TRIALS
    outcomes = {one["outcome"] for one in results}
    assert outcomes == {"sentence", "right"}  # neither of them alone would show anything
