"""A tiny step compiled by the TPU's compiler; no TPU needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
import jaxprefix as jp

def config():
    sizes = jp.EncoderConfig("bert", 512, 256, 2, 4, 512, 160)
    return jp.Run(
        jp.Classification(jp.Files("none.jsonl"), max_length=64),
        jp.NewBackbone(sizes, "none"),
        jp.PTuningV2(length=8),
        precision="bfloat16",
        batch_size=16,
        mesh=jp.MeshShape(2, 2, 1),
    )
"""


@pytest.mark.slow
def test_a_plan_for_four_v5e_chips(tmp_path):
    pytest.importorskip("libtpu")
    (tmp_path / "config.py").write_text(CONFIG)
    figures = tmp_path / "plan.json"
    command = [sys.executable, "-m", "jaxprefix.cli", "plan", str(tmp_path / "config.py"), "--topology", "v5e-4"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
    done = subprocess.run([*command, "--json", str(figures)], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(figures.read_text())
    assert plan["fits"]
    assert plan["problems"] == []
    assert plan["gradients"]["summed"] == plan["gradients"]["trainable"]
    assert 1 <= plan["flops"]["train"] / plan["flops"]["least"] < 1.25
    assert plan["estimate"]["seconds"] > 0
    assert 0 < plan["estimate"]["utilisation"] < 1
    assert plan["capacity"] == int(15.75 * 2**30)
    assert sum(plan["memory"]["train"].values()) <= plan["largest"]
