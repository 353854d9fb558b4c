"""Prefixes of the adapters library: its names and heads, at positions that are not shifted."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.methods import PrefixTuning, PTuningV2
from tests.exchange.cases import FIXTURES, backbone, batch, expected, files, logits

P, D, C = 3, 8, 3
LABEL_NAMES = {"yes": 2, "no": 0, "maybe": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def settings(**changes):
    own = {"architecture": "prefix_tuning", "flat": True, "prefix_length": P, "non_linearity": "tanh", "dropout": 0.0}
    return {
        "config": {**own, "leave_out": [], "use_gating": False, **changes},
        "name": "a",
        "version": "adapters.1.3.0",
    }


def head_settings(head_type="tagging", layers=1, **changes):
    own = {"head_type": head_type, "num_labels": C, "layers": layers, "activation_function": "tanh", "bias": True}
    return {"config": {**own, "label2id": LABEL_NAMES, **changes}, "name": "a"}


def pooled(kind, tensors):
    """The pool as files hold it: once for the model, once more for every layer."""
    places = [f"{kind}.", *(f"{kind}.encoder.layer.{layer}.attention.self." for layer in range(2))]
    pools = ["prefix_tuning.", *["prefix_tuning.pool."] * 2]
    return {
        f"{place}{pool}prefix_tunings.a.self_prefix.{name}": tensor
        for place, pool in zip(places, pools, strict=True)
        for name, tensor in tensors.items()
    }


def table(kind):
    return files(f"{kind}-tagging")[0]["prompt_embeddings"]


def linear(name, inputs, outputs, seed):
    random = np.random.default_rng(seed)
    return {
        f"{name}.weight": random.standard_normal((outputs, inputs)).astype(np.float32),
        f"{name}.bias": random.standard_normal(outputs).astype(np.float32),
    }


def applied(tensors, name, x):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


ONE, TWO = linear("heads.a.1", D, C, 1), {**linear("heads.a.1", D, D, 2), **linear("heads.a.4", D, C, 3)}


def head_case(name, kind, hidden):
    """Tensors and settings of a head, and its logits in numpy."""
    if name == "tagging":
        return ONE, head_settings(), applied(ONE, "heads.a.1", hidden)
    if name == "first":
        return ONE, head_settings("classification"), applied(ONE, "heads.a.1", hidden[:, 0])
    if name == "two":
        inner = np.tanh(applied(TWO, "heads.a.1", hidden[:, 0]))
        return TWO, head_settings("classification", layers=2, use_pooler=False), applied(TWO, "heads.a.4", inner)
    own = load_file(FIXTURES / kind / "model.safetensors")
    inner = np.tanh(applied(own, "pooler.dense", hidden[:, 0]))
    return ONE, head_settings("classification", use_pooler=True), applied(ONE, "heads.a.1", inner)


CASES = [(kind, head) for kind in ("bert", "roberta") for head in ("tagging", "first", "two")] + [("bert", "pooler")]


@pytest.mark.parametrize(("kind", "head"), CASES)
def test_a_flat_prefix_gives_the_logits_at_unshifted_positions(kind, head):
    tensors, head_config, wanted = head_case(head, kind, expected(f"{kind}/unshifted"))
    tensors = {**tensors, **pooled(kind, {"control_trans": table(kind).ravel()})}
    adapter = jp.import_adapters(tensors, backbone=backbone(kind), config=settings(), head_config=head_config)
    assert adapter.run.method == PTuningV2(length=P, position_offset=False, dropout=0.0)
    assert adapter.labels == ("no", "maybe", "yes")
    np.testing.assert_allclose(logits(adapter, batch(kind)), wanted, atol=2e-5, rtol=0)


def mlp(columns, seed=0):
    inner = {"wte.weight": np.random.default_rng(seed).standard_normal((P, D)).astype(np.float32)}
    inner |= {**linear("control_trans.0", D, 5, seed + 1), **linear("control_trans.2", 5, columns, seed + 2)}
    made = applied(inner, "control_trans.2", np.tanh(applied(inner, "control_trans.0", inner["wte.weight"])))
    return inner, made


@pytest.mark.parametrize("leave_out", [[], [0]])
@pytest.mark.parametrize("kind", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_an_mlp_stays_one_and_is_the_flat_prefix_that_it_makes(kind, leave_out):
    inner, made = mlp(2 * (2 - len(leave_out)) * D)
    common = {"backbone": backbone(kind), "head_config": head_settings()}
    config = settings(flat=False, leave_out=leave_out, dropout=0.1)
    adapter = jp.import_adapters({**ONE, **pooled(kind, inner)}, config=config, **common)
    layers = (1,) if leave_out else None
    assert adapter.run.method == PrefixTuning(length=P, mlp_width=5, layers=layers, position_offset=False, dropout=0.1)
    flat = {**ONE, **pooled(kind, {"control_trans": made.ravel()})}
    plain = jp.import_adapters(flat, config=settings(leave_out=leave_out), **common)
    np.testing.assert_allclose(logits(adapter, batch(kind)), logits(plain, batch(kind)), atol=1e-5, rtol=0)
    with pytest.raises(jp.UserError, match=r"position_offset = False|same length"):
        jp.export_peft(plain, "nowhere")


def test_slots_count_the_layers_that_are_kept():
    made = np.arange(P * 2 * D, dtype=np.float32)
    tensors = {**ONE, **pooled("bert", {"control_trans": made})}
    config = settings(leave_out=[0])
    adapter = jp.import_adapters(tensors, backbone=backbone("bert"), config=config, head_config=head_settings())
    (prefix,) = adapter.model.edits(adapter.trainable).layers
    np.testing.assert_array_equal(prefix.mass, [[0] * P, [1] * P])
    np.testing.assert_array_equal(prefix.keys[1].reshape(P, D), made.reshape(P, 2, D)[:, 0])
    np.testing.assert_array_equal(prefix.values[1].reshape(P, D), made.reshape(P, 2, D)[:, 1])


def write(folder, tensors, head, config, head_config):
    folder.mkdir()
    save_file(tensors, folder / "adapter.safetensors")
    save_file(head, folder / "model_head.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "head_config.json").write_text(json.dumps(head_config))
    return folder


def test_a_folder_becomes_an_adapter(tmp_path):
    head, head_config, wanted = head_case("two", "bert", expected("bert/unshifted"))
    tensors = pooled("bert", {"control_trans": table("bert").ravel()})
    config = {**settings(), "model_name": backbone("bert")}
    folder = write(tmp_path / "theirs", tensors, head, config, head_config)
    jp.import_adapters(folder).save(tmp_path / "adapter")
    again = jp.load_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(logits(again, batch("bert")), wanted, atol=2e-5, rtol=0)
    assert again.labels == ("no", "maybe", "yes")


FLAT = {**ONE, **pooled("bert", {"control_trans": table("bert").ravel()})}
GATE = {"bert.encoder.layer.0.attention.self.prefix_tuning.prefix_gates.a.weight": np.ones((1, D), np.float32)}
OTHER = {"bert.prefix_tuning.prefix_tunings.b.self_prefix.control_trans": np.ones(96, np.float32)}
COPY = {
    "bert.encoder.layer.0.attention.self.prefix_tuning.pool.prefix_tunings.a.self_prefix.control_trans": np.ones(96)
}
CROSS = {"bert.prefix_tuning.prefix_tunings.a.cross_prefix.control_trans": np.ones(96, np.float32)}
ODD = pooled("bert", {"odd": np.ones(3, np.float32)})
BAD = [
    (FLAT, {"architecture": "lora"}, {}, ["describes 'lora'", "only prefix_tuning"]),
    (FLAT, {"use_gating": True}, {}, ["use_gating = true"]),
    ({**FLAT, **GATE}, {}, {}, ["prefix_gates.a.weight have no place", "no gates"]),
    ({**FLAT, **OTHER}, {}, {}, ["the adapters a, b"]),
    ({**FLAT, **COPY}, {}, {}, ["differs from its copy"]),
    ({**FLAT, **CROSS}, {}, {}, ["cross_prefix.control_trans have no place"]),
    ({**FLAT, **ODD}, {}, {}, ["the prefix holds odd"]),
    (ONE, {}, {}, ["no prefix_tunings"]),
    (FLAT, {"leave_out": [0, 1]}, {}, ["leave_out = [0, 1] for 2 layers"]),
    ({**ONE, **pooled("bert", {"control_trans": np.ones(95)})}, {}, {}, ["95 numbers", "no multiple of the 32"]),
    ({**ONE, **pooled("bert", mlp(32)[0])}, {"non_linearity": "relu"}, {}, ["non_linearity = 'relu'", "eject"]),
    (FLAT, {}, {"head_type": "question_answering"}, ["head_type = 'question_answering'"]),
    (FLAT, {}, {"layers": 3}, ["tagging head of 3 layers"]),
    (FLAT, {}, {"bias": False}, ["bias = false"]),
    ({**FLAT, **TWO}, {}, {"head_type": "classification", "layers": 2, "activation_function": "relu"}, ["2 layers"]),
    ({**FLAT, **TWO}, {}, {"head_type": "classification", "layers": 2, "use_pooler": True}, ["2 layers"]),
    (FLAT, {}, {"head_type": "classification", "layers": 2}, ["heads.a.4.weight is missing"]),
]


@pytest.mark.parametrize(("tensors", "config", "head_config", "words"), BAD)
def test_what_would_be_misread_is_refused(tensors, config, head_config, words):
    config, head_config = settings(**config), head_settings(**head_config)
    with pytest.raises(jp.UserError) as error:
        jp.import_adapters(tensors, backbone=backbone("bert"), config=config, head_config=head_config)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_tensors_alone_are_not_enough(tmp_path):
    with pytest.raises(jp.UserError, match="give config and head_config"):
        jp.import_adapters(FLAT, backbone=backbone("bert"))
    with pytest.raises(jp.UserError, match="does not name the model"):
        jp.import_adapters(FLAT, config=settings(), head_config=head_settings())
    folder = write(tmp_path / "theirs", FLAT, ONE, settings(), head_settings())
    (folder / "head_config.json").unlink()
    with pytest.raises(jp.UserError, match=r"has no head_config\.json"):
        jp.import_adapters(folder, backbone=backbone("bert"))
