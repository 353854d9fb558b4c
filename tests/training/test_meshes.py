"""Every mesh of eight devices trains what one device trains, and divides what its rules say."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("bert", "gpt2", "llama")
METHODS = ("p_tuning_v2", "adaptive_prefix", "inducer_lora", "full")
MESHES = ("data", "both", "all", "tp")

pytestmark = pytest.mark.slow


def meshes_of(kind: str, method: str) -> list[str]:
    """The mesh of three axes and half of the others; all of them with the first method. So every two of kind, method
    and mesh meet."""
    shift = KINDS.index(kind) + METHODS.index(method)
    half = [mesh for place, mesh in enumerate(MESHES) if mesh == "all" or (place + shift) % 2 == 0]
    return list(MESHES) if method == METHODS[0] else half


CASES = [(kind, method, mesh) for kind in KINDS for method in METHODS for mesh in meshes_of(kind, method)]


@functools.cache
def trained(kind):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [
        *(sys.executable, "-m", "tests.training.on_meshes", kind),
        json.dumps({method: meshes_of(kind, method) for method in METHODS}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "method", "mesh"), CASES)
def test_losses_and_leaves_are_those_of_one_device(kind, method, mesh):
    one, many = trained(kind)[method]["one"], trained(kind)[method][mesh]
    np.testing.assert_allclose(many["metrics"], one["metrics"], rtol=1e-4)
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    for path, leaf in one["leaves"].items():
        np.testing.assert_allclose(many["leaves"][path], leaf, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_holds_its_share_of_the_kernels(kind):
    found = trained(kind)["p_tuning_v2"]
    for mesh, share in {"data": 1, "both": 1 / 4, "all": 1 / 4}.items():
        shares = {path: size for path, size in found[mesh]["shares"].items() if path.endswith("kernel")}
        assert set(shares.values()) == {share}, mesh
    kernels = {path: size for path, size in found["tp"]["shares"].items() if path.endswith("kernel")}
    split = {path: size for path, size in kernels.items() if path.startswith("layers/")}  # 50 words do not divide by 8
    whole = {path for path, size in split.items() if size == 1}
    assert whole == ({"layers/k/kernel", "layers/v/kernel"} if kind == "llama" else set())
    assert {size for size in split.values() if size < 1} == {1 / 8}


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_a_prefix_follow_the_heads_of_the_keys(kind):
    found = trained(kind)["p_tuning_v2"]
    specs = found["all"]["specs"]
    assert {path for path, spec in specs.items() if spec == [None, "tp", None]} == {"method/keys", "method/values"}
    assert all(spec == [] for path, spec in specs.items() if path.startswith("head/"))
    on_eight = found["tp"]["specs"]["method/keys"]
    assert on_eight == ([None, None, None] if kind == "llama" else [None, "tp", None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_inducers_follow_tp(kind):
    specs = trained(kind)["inducer_lora"]["all"]["specs"]
    divided = {path for path, spec in specs.items() if "tp" in spec}
    assert {path for path in specs if "/key/" in path} <= divided
    assert not any("/lora/" in path for path in divided)
