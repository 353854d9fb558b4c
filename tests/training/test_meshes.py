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
    """Those that train it: each method on each mesh with one of the kinds, so that every two of kind, method and mesh
    meet."""
    shift = METHODS.index(method) - KINDS.index(kind)
    return [mesh for place, mesh in enumerate(MESHES) if (place + shift) % len(KINDS) == 0]


CASES = [(kind, method, mesh) for kind in KINDS for method in METHODS for mesh in meshes_of(kind, method)]


@functools.cache
def found():
    """`trained` by kind, method and mesh; `placed` by kind, method and mesh, where nothing is computed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    cases = {kind: {method: meshes_of(kind, method) for method in METHODS} for kind in KINDS}
    command = [sys.executable, "-m", "tests.training.on_meshes", json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "method", "mesh"), CASES)
def test_losses_and_leaves_are_those_of_one_device(kind, method, mesh):
    trained = found()["trained"][kind][method]
    one, many = trained["one"], trained[mesh]
    np.testing.assert_allclose(many["metrics"], one["metrics"], rtol=1e-4)
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-4, atol=1e-5)
    for path, leaf in one["leaves"].items():
        np.testing.assert_allclose(many["leaves"][path], leaf, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_holds_its_share_of_the_kernels(kind):
    placed = found()["placed"][kind]["p_tuning_v2"]
    for mesh, share in {"data": 1, "both": 1 / 4, "all": 1 / 4}.items():
        shares = {path: size for path, size in placed[mesh]["shares"].items() if path.endswith("kernel")}
        assert set(shares.values()) == {share}, mesh
    kernels = {path: size for path, size in placed["tp"]["shares"].items() if path.endswith("kernel")}
    split = {path: size for path, size in kernels.items() if path.startswith("layers/")}  # 50 words do not divide by 8
    whole = {path for path, size in split.items() if size == 1}
    assert whole == ({"layers/k/kernel", "layers/v/kernel"} if kind == "llama" else set())
    assert {size for size in split.values() if size < 1} == {1 / 8}


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_a_prefix_follow_the_heads_of_the_keys(kind):
    placed = found()["placed"][kind]["p_tuning_v2"]
    specs = placed["all"]["specs"]
    assert {path for path, spec in specs.items() if spec == [None, "tp", None]} == {"method/keys", "method/values"}
    assert all(spec == [] for path, spec in specs.items() if path.startswith("head/"))
    on_eight = placed["tp"]["specs"]["method/keys"]
    assert on_eight == ([None, None, None] if kind == "llama" else [None, "tp", None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_inducers_follow_tp(kind):
    specs = found()["placed"][kind]["inducer_lora"]["all"]["specs"]
    divided = {path for path, spec in specs.items() if "tp" in spec}
    assert {path for path in specs if "/key/" in path} <= divided
    assert not any("/lora/" in path for path in divided)
