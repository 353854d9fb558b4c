"""A family registered from outside is read, computed, saved, divided, planned and tuned with no edit to the package."""

import dataclasses
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

import jaxprefix as jp
from jaxprefix.distributed.mesh import make_mesh
from jaxprefix.hf.loading import read_backbone
from jaxprefix.models.backbone_config import frozen_spec
from jaxprefix.models.backbones import make_backbone
from jaxprefix.planning.plan import plan_run
from jaxprefix.planning.shapes import run_shapes
from jaxprefix.trees import flatten
from jaxprefix.typed_json import from_json, to_json
from tests.family import folder as folders
from tests.family.prenorm import PreNorm, PreNormConfig
from tests.training import worlds

METHODS = {
    "p_tuning_v2": jp.PTuningV2(length=3),
    "apt": jp.AdaptivePrefix(length=3),
    "inducer": jp.Inducer(value_rank=2),
    "lora": jp.LoRA(("q", "gate"), rank=2),
    "inducer and lora": jp.Inducer(value_rank=2) + jp.LoRA(("q", "gate"), rank=2),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def folder(home):
    return folders.write(home / "prenorm")


def norm(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def plain(tensors, ids):
    """The encoder in numpy, in float64, from the tensors as they are stored."""
    E = folders.D // folders.H
    named = {name.removeprefix("prenorm."): value.astype(np.float64) for name, value in tensors.items()}
    h = named["tok_embeddings.weight"][ids]
    angles = np.arange(len(ids))[:, None] * 10000.0 ** (-np.arange(0, E, 2) / E)
    cos, sin = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.cos, np.sin))

    def turned(x):
        half = np.concatenate([-x[..., E // 2 :], x[..., : E // 2]], -1)
        return x * cos + half * sin

    for layer in range(folders.L):
        w = {name.removeprefix(f"layers.{layer}."): value for name, value in named.items()}
        z = norm(h) * w["attn_norm.weight"]
        q, k, v = (part.reshape(len(ids), folders.H, E) for part in np.split(z @ w["attn.Wqkv.weight"].T, 3, -1))
        scores = np.einsum("qhe,khe->hqk", turned(q), turned(k)) / E**0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        h = h + np.einsum("hqk,khe->qhe", weights, v).reshape(len(ids), -1) @ w["attn.Wo.weight"].T
        z = norm(h) * w["mlp_norm.weight"]
        gate, up = z @ w["mlp.Wgate.weight"].T, z @ w["mlp.Wup.weight"].T
        erf = np.vectorize(math.erf)
        h = h + (0.5 * gate * (1 + erf(gate / 2**0.5)) * up) @ w["mlp.Wdown.weight"].T
    return norm(h) * named["final_norm.weight"]


def test_it_is_read_computed_and_written_back(folder, tmp_path):
    config, tree, report = read_backbone(folder)
    assert config == folders.config() and report.unused == report.missing == ()
    ids, stored = np.array([5, 9, 17, 3, 30, 8]), load_file(folder / "model.safetensors")
    params = {name: tree[name] for name in PreNorm.parts}
    found = PreNorm(config, unroll=False).apply({"params": params}, {"input_ids": jnp.asarray(ids)[None]}).hidden[0]
    np.testing.assert_allclose(found, plain(stored, ids), atol=2e-5)
    jp.save_pretrained(tmp_path / "again", config, tree)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == folders.SETTINGS
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_it_lies_over_a_mesh_by_its_own_table():
    mesh = types.SimpleNamespace(shape={"data": 1, "fsdp": 2, "tp": 4})
    config = folders.config()
    assert frozen_spec(config, "layers/q/kernel", (3, 16, 16), mesh) == P(None, "fsdp", "tp")
    assert frozen_spec(config, "layers/down/kernel", (3, 24, 16), mesh) == P(None, "tp", "fsdp")
    assert frozen_spec(config, "layers/down/kernel_scale", (3, 16), mesh) == P(None, "fsdp")
    two = dataclasses.replace(config, heads=2)
    assert frozen_spec(two, "layers/q/kernel", (3, 16, 16), mesh) == P(None, "fsdp", None)
    with pytest.raises(jp.UserError, match=r"PreNormConfig has no pooler/kernel.*PreNormConfig.leaves"):
        frozen_spec(config, "pooler/kernel", (16, 16), mesh)


# A prefix with gates, and two sorts of maps at once; each alone is slow.
@pytest.mark.parametrize(
    "name",
    [
        "apt",
        "inducer and lora",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("p_tuning_v2", "inducer", "lora")),
    ],
)
def test_it_is_tuned_and_opened_again(folder, home, name):
    rows = worlds.write_jsonl(home / "train.jsonl", worlds.sentences(32, 0))
    task = jp.Classification(jp.Files(train=rows, validation=rows), max_length=32)
    run = jp.Run(
        task, str(folder), METHODS[name], steps=2, batch_size=8, buckets=(32,), folder=str(home / name), unroll=False
    )
    before = flatten(read_backbone(folder)[1])
    result = jp.train(run)
    assert np.isfinite(list(result.metrics["validation"].values())).all()
    adapter = jp.load_adapter(home / name / "adapter")
    for path, leaf in flatten(adapter.frozen["backbone"]).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    (one,) = adapter.predict(["the good cat"])
    assert one["label"] in ("good", "bad")


def test_it_is_planned_from_its_sizes_alone():
    task = jp.Classification(jp.Files("none.jsonl"), max_length=24)
    run = jp.Run(task, jp.NewBackbone(folders.config(), "none"), METHODS["lora"], batch_size=8, unroll=False)
    assert from_json(to_json(run), jp.Run) == run
    plan = plan_run(run, None, evaluate=False)
    assert plan.least.total <= plan.train.flops < 2 * plan.least.total
    shapes = run_shapes(run, make_mesh(jp.MeshShape(1), jax.devices()[:1]))
    assert shapes.frozen["backbone"]["layers"]["gate"]["kernel"].shape == (3, 16, 24)


def test_what_no_family_can_be_is_refused():
    class Half(jp.BackboneConfig):
        pass

    with pytest.raises(jp.UserError, match="Half is no frozen dataclass"):
        jp.register_backbone(Half, PreNorm)
    with pytest.raises(jp.UserError, match=r"Half has no anchor; give it `@property def anchor\(self\) -> str`"):
        jp.register_backbone(dataclasses.dataclass(frozen=True)(Half), PreNorm)

    @dataclasses.dataclass(frozen=True)
    class Twin(PreNormConfig):
        pass

    with pytest.raises(jp.UserError, match="PreNormConfig reads model_type = 'prenorm' already"):
        jp.register_backbone(Twin, PreNorm)
    with pytest.raises(jp.UserError, match="Twin is of no known family"):
        make_backbone(Twin("prenorm", **folders.SIZES))
    assert jp.register_backbone(PreNormConfig, PreNorm) is PreNormConfig  # as a cell that is run twice does
