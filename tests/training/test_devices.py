"""A run on eight devices, and a population, is the one on a single device, to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_on(devices, folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAXPREFIX_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "tests.training.on_devices", str(devices), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_eight_devices(tmp_path):
    eight, one = run_on(8, tmp_path / "eight"), run_on(1, tmp_path / "one")
    assert "batch_size is 12" in eight["sentence"]
    assert "8 devices" in eight["sentence"]
    assert "multiple of 8" in eight["sentence"]
    assert one["sentence"] == ""
    assert set(eight["devices"]) == {8}
    assert eight["norms"] == pytest.approx(one["norms"], rel=1e-3)
    assert eight["members"] == pytest.approx(one["members"], rel=1e-3)
    for split, metrics in one["metrics"].items():
        assert eight["metrics"][split]["loss"] == pytest.approx(metrics["loss"], rel=1e-3)
