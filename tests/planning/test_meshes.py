"""What steps exchange on meshes of eight devices, as their plans tell it; gradients of frozen leaves would be seen."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@functools.cache
def found():
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.planning.on_meshes"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def moved(name, what):
    return [row for row in found()["plans"][name]["traffic"] if row["what"] == what]


MESHES = ((8, 1, 1), (2, 2, 2), (1, 8, 1), (1, 1, 8))


@pytest.mark.parametrize("mesh", MESHES)
def test_gradients_that_are_summed_are_those_of_the_trainable_tree(mesh):
    """Of prefix leaves a device has a share over tp."""
    data, fsdp, tp = mesh
    plan = found()["plans"][f"encoder {mesh}"]
    assert plan["problems"] == []
    axes = [axis for axis, size in (("data", data), ("fsdp", fsdp)) if size > 1]
    if not axes:
        assert plan["gradients"]["summed"] == 0
        return
    assert plan["gradients"]["summed"] == plan["gradients"]["trainable"]
    gradients = moved(f"encoder {mesh}", "gradients")
    assert all(row["axes"] == axes for row in gradients)
    if tp == 1:
        assert sum(row["bytes"] for row in gradients) == plan["trainable_bytes"]


@pytest.mark.parametrize("name", ["gates", "mlp", "decoder", "parts", "full", *(f"encoder {mesh}" for mesh in MESHES)])
def test_nothing_is_where_it_should_not_be(name):
    plan = found()["plans"][name]
    assert plan["problems"] == []
    assert moved(name, "frozen gradients") == []


def test_each_part_of_a_batch_sums_its_own():
    gradients = found()["plans"]["parts"]["gradients"]
    assert gradients["summed"] == 2 * gradients["trainable"]


@pytest.mark.parametrize("mesh", MESHES)
def test_weights_are_gathered_over_fsdp_and_activations_summed_over_tp(mesh):
    _, fsdp, tp = mesh
    weights = [row for row in moved(f"encoder {mesh}", "weights") if row["kind"] == "all-gather"]
    assert bool(weights) == (fsdp > 1)
    assert all(row["axes"] == ["fsdp"] for row in weights)
    # of each layer the six kernels, forwards and backwards
    per_device = 3 * 2 * (4 * 64 * 64 + 2 * 64 * 160) * 4 // (fsdp * tp)
    assert sum(row["bytes"] for row in weights) == (per_device if fsdp > 1 else 0)
    summed = [row for row in moved(f"encoder {mesh}", "activations") if row["kind"] == "all-reduce"]
    assert bool(summed) == (tp > 1)
    assert all(row["axes"] == ["tp"] for row in summed)


def test_a_trained_kernel_that_is_said_to_be_frozen_is_found():
    planted = found()["planted"]
    assert planted["kernels"] == planted["found"] == 2
    assert ["fsdp"] in planted["axes"]


def test_products_are_hardly_more_than_the_least():
    for mesh in MESHES:
        flops = found()["plans"][f"encoder {mesh}"]["flops"]
        assert 1 <= flops["train"] / flops["least"] < 1.1
        assert flops["evaluate"] < 0.6 * flops["train"]


def test_memory_is_that_of_the_shares():
    whole, shared = (found()["plans"][f"encoder {mesh}"]["memory"]["train"] for mesh in ((8, 1, 1), (2, 2, 2)))
    assert shared["frozen"] < 0.5 * whole["frozen"]
    assert shared["trainable"] < whole["trainable"]
    assert found()["plans"]["encoder (8, 1, 1)"]["fits"] is None
