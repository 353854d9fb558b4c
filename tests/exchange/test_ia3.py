"""PEFT's (IA)3 folders without PEFT: names, shapes, which maps its settings mean, both ways, and what is refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxprefix as jp
from jaxprefix.exchange.ia3 import places, read, write
from jaxprefix.exchange.peft import from_peft, to_peft
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.tuned import TunedModel
from tests import decoders, tiny
from tests.exchange.cases import LABELS, backbone, batch, logits, own_adapter

DEFAULTS = {  # what PEFT 0.21 takes where nothing is said, and what that means
    "bert": (["key", "value", "output.dense"], ["output.dense"], ("k", "v"), ("o", "down")),
    "roberta": (["key", "value", "output.dense"], ["output.dense"], ("k", "v"), ("o", "down")),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"], ("q", "k", "v"), ("down",)),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"], ("k", "v"), ("down",)),
    "qwen3": (["q_proj", "v_proj", "down_proj"], ["down_proj"], ("q", "v"), ("down",)),
}
SEQUENCE = jp.SequenceClassifier(pooling="trained_pooler")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def module_of(kind):
    return Encoder(tiny.config(kind)) if kind in ("bert", "roberta") else Decoder(decoders.config(kind))


def vectors(kind, targets, feedforward):
    """Random tensors as PEFT would make them: of every module that ends as a target does."""
    module, random, found = module_of(kind), np.random.default_rng(0), {}
    for place in places(module):
        for layer in range(module.dims.layers):
            name = place.name.replace("{layer}", str(layer))
            if any(name.endswith(f".{target}") for target in targets):
                shape = (1, place.inputs) if name.endswith(tuple(feedforward)) else (place.outputs, 1)
                found[f"base_model.model.{name}.ia3_l"] = random.normal(1, 0.3, shape).astype(np.float32)
    return module, dict(sorted(found.items()))


def random_model(kind, method):
    model = TunedModel(module_of(kind), method)
    leaves = jax.eval_shape(lambda key: method.build(model.backbone.dims).init(key)["params"], jax.random.key(0))
    random = np.random.default_rng(1)
    return model, {"method": jax.tree.map(lambda leaf: random.normal(1, 0.3, leaf.shape).astype("float32"), leaves)}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_the_settings_say_which_maps_are_scaled(kind):
    targets, feedforward, outputs, inputs = DEFAULTS[kind]
    module, tensors = vectors(kind, targets, feedforward)
    method, leaves, known = read(tensors, {"target_modules": targets, "feedforward_modules": feedforward}, module)
    assert (set(method.outputs), set(method.inputs), method.layers) == (set(outputs), set(inputs), None)
    assert known == set(tensors)
    maps = module.dims.maps
    assert {name: leaf.shape for name, leaf in leaves["outputs"].items()} == {n: (3, maps[n][1]) for n in outputs}
    assert {name: leaf.shape for name, leaf in leaves["inputs"].items()} == {n: (3, maps[n][0]) for n in inputs}


def test_vectors_lie_in_the_modules_of_transformers():
    """Written out by hand for one layer of each kind."""
    for kind, name, shape, field, own in (
        ("bert", "bert.encoder.layer.2.attention.self.key", (16, 1), "outputs", "k"),
        ("bert", "bert.encoder.layer.2.output.dense", (1, 24), "inputs", "down"),
        ("roberta", "roberta.encoder.layer.2.attention.output.dense", (1, 16), "inputs", "o"),
        ("gpt2", "transformer.h.2.mlp.c_proj", (1, 24), "inputs", "down"),
        ("llama", "model.layers.2.self_attn.v_proj", (8, 1), "outputs", "v"),
    ):
        targets, feedforward, *_ = DEFAULTS[kind]
        module, tensors = vectors(kind, targets, feedforward)
        found = read(tensors, {"target_modules": targets, "feedforward_modules": feedforward}, module)
        tensor = tensors[f"base_model.model.{name}.ia3_l"]
        assert tensor.shape == shape
        np.testing.assert_array_equal(found.leaves[field][own][2], tensor.ravel())


def test_gpt2s_one_vector_covers_queries_keys_and_values():
    targets, feedforward, *_ = DEFAULTS["gpt2"]
    module, tensors = vectors("gpt2", targets, feedforward)
    found = read(tensors, {"target_modules": targets, "feedforward_modules": feedforward}, module)
    whole = tensors["base_model.model.transformer.h.1.attn.c_attn.ia3_l"][:, 0]
    np.testing.assert_array_equal(np.concatenate([found.leaves["outputs"][name][1] for name in "qkv"]), whole)


@pytest.mark.parametrize("kind", DEFAULTS)
@pytest.mark.parametrize("layers", [None, (0, 2)])
def test_what_is_written_is_read_as_it_was(kind, layers):
    method = jp.IA3(layers=layers)
    model, trainable = random_model(kind, method)
    tensors, settings = write(model, trainable)
    back = read(tensors, settings, model.backbone)
    assert set(tensors) == back.known
    outputs = ("q", "k", "v") if kind == "gpt2" else ("k", "v")
    assert (set(back.method.outputs), back.method.inputs, back.method.layers) == (set(outputs), ("down",), layers)
    for field in ("outputs", "inputs"):
        for name, leaf in back.leaves[field].items():
            np.testing.assert_array_equal(leaf, trainable["method"][field].get(name, np.ones_like(leaf)))
    assert settings["fan_in_fan_out"] == (kind == "gpt2")
    if layers is None and kind == "llama":
        assert settings["target_modules"] == ["self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"]
        assert settings["feedforward_modules"] == ["mlp.down_proj"]
    if kind == "bert":  # `output.dense` alone would mean the attention's as well
        chosen = range(3) if layers is None else layers
        assert settings["feedforward_modules"] == [f"bert.encoder.layer.{layer}.output.dense" for layer in chosen]


def test_regular_expressions_and_layers_of_some_maps():
    """Layers in which only other maps have vectors get ones."""
    targets = r".*layer\.(0|2)\.attention\.self\.key|.*layer\.2\.output\.dense"
    module, tensors = vectors("bert", ["key", "output.dense"], ["output.dense"])
    wanted = ("layer.0.attention.self.key", "layer.2.attention.self.key", "layer.2.output.dense")
    kept = {name: tensor for name, tensor in tensors.items() if any(part in name for part in wanted)}
    assert len(kept) == 3
    settings = {"target_modules": targets, "feedforward_modules": r".*output\.dense"}
    method, leaves, known = read(kept, settings, module)
    assert method == jp.IA3(("k",), ("down",), layers=(0, 2)) and known == set(kept)
    np.testing.assert_array_equal(leaves["inputs"]["down"][0], np.ones(24))
    excluded = {**settings, "exclude_modules": ["bert.encoder.layer.0.attention.self.key"]}
    assert read(kept, excluded, module).method.layers == (2,)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_folder_goes_out_and_comes_in(kind, tmp_path):
    adapter = own_adapter(kind, jp.IA3(), SEQUENCE)
    jp.export_peft(adapter, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("IA3", "SEQ_CLS")
    back = jp.import_peft(tmp_path / "peft", labels=LABELS)
    assert back.run.method == jp.IA3()
    np.testing.assert_allclose(logits(back, batch(kind)), logits(adapter, batch(kind)), atol=1e-6, rtol=0)
    heads = {name for name in to_peft(adapter.model, adapter.trainable, adapter.frozen)[0] if "ia3_l" not in name}
    assert all(name.startswith("base_model.model.") for name in heads) and len(heads) == 4
    back.save(tmp_path / "adapter")
    again = jp.load_adapter(tmp_path / "adapter")
    np.testing.assert_array_equal(logits(again, batch(kind)), logits(back, batch(kind)))


def changed(adapter, tensors=(), **settings):
    own, config = to_peft(adapter.model, adapter.trainable, adapter.frozen)
    own = {name: tensor for name, tensor in {**own, **dict(tensors)}.items() if tensor is not None}
    return from_peft(own, {**config, **settings}, adapter.backbone.module)


KEY = "base_model.model.bert.encoder.layer.1.attention.self.key.ia3_l"


@pytest.mark.parametrize(
    ("tensors", "settings", "words"),
    [
        ({KEY: None}, {}, [f"{KEY} is missing"]),
        ({KEY: np.ones((1, 8))}, {}, [f"{KEY} has shape [1, 8]", "[8, 1]"]),
        ({KEY.replace("key", "query"): np.ones((8, 1))}, {}, ["query.ia3_l have no place in (IA)3 with its head"]),
        ({}, {"target_modules": ["w1"]}, ["target_modules = ['w1'] names no linear map"]),
        ({"base_model.model.classifier.bias": None}, {}, ["base_model.model.classifier.bias is missing"]),
        ({}, {"peft_type": "LORA"}, ["peft_type = 'LORA'", "IA3, PREFIX_TUNING"]),
    ],
)
def test_what_would_be_misread_is_refused(tensors, settings, words):
    adapter = own_adapter("bert", jp.IA3(), SEQUENCE)
    with pytest.raises(jp.UserError) as error:
        changed(adapter, tensors, **settings)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_folder_of_the_wrong_base_is_refused(tmp_path):
    tensors, config = to_peft(*(lambda a: (a.model, a.trainable, a.frozen))(own_adapter("bert", jp.IA3(), SEQUENCE)))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(jp.UserError, match=r"names no linear map|is missing"):
        jp.import_peft(tmp_path, backbone=backbone("roberta"))


@pytest.mark.parametrize(
    ("kind", "method", "words"),
    [
        ("bert", jp.IA3(("k",), ("k",)), "scales inputs and outputs of k"),
        ("gpt2", jp.IA3(("k",), ("v",)), "scales inputs and outputs of q, k, v"),
        ("gpt2", jp.IA3((), ("q", "k", "v")), "one module with one input in PEFT"),
    ],
)
def test_what_peft_cannot_hold_is_refused(kind, method, words):
    with pytest.raises(jp.UserError, match=words):
        write(*random_model(kind, method))


def test_equal_scales_of_one_input_are_one_vector():
    model, trainable = random_model("gpt2", jp.IA3((), ("q", "k", "v")))
    own = trainable["method"]["inputs"]
    own["k"] = own["v"] = own["q"]
    tensors, settings = write(model, trainable)
    assert settings["feedforward_modules"] == ["attn.c_attn"]
    np.testing.assert_array_equal(tensors["base_model.model.transformer.h.0.attn.c_attn.ia3_l"], own["q"][:1])
