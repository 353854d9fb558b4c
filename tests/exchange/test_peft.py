"""PEFT's folders, by what live PEFT wrote once: the same logits, the same tensors, and refusals in words."""

import dataclasses
import json
import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.edits import Edits
from jaxprefix.exchange.layout import from_table, to_table
from jaxprefix.exchange.peft import from_peft, to_peft
from jaxprefix.methods import HeadOnly, PrefixTuning, PTuningV2
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from tests.exchange.cases import FIXTURES, LABELS, NAMES, backbone, batch, expected, files, kind_of, logits, own_adapter

SEQUENCE = SequenceClassifier(pooling="trained_pooler")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def copied(tmp_path, name, tensors=None, **settings):
    """A fixture with other tensors (None removes one) or settings."""
    folder = shutil.copytree(FIXTURES / name, tmp_path / "foreign")
    own, config = files(name)
    changed = {key: value for key, value in {**own, **(tensors or {})}.items() if value is not None}
    save_file(changed, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    return folder


# The layout


def test_a_tables_slices_are_keys_and_values_layer_by_layer_and_head_after_head():
    layers, tokens, heads, width = 3, 4, 2, 5
    table = np.arange(tokens * layers * 2 * heads * width, dtype=np.float32).reshape(tokens, -1)
    leaves = from_table(table, layers, heads, width)
    d = heads * width
    for layer in range(layers):
        for token in range(tokens):
            for head in range(heads):
                for leaf, start in (("keys", 2 * layer * d), ("values", (2 * layer + 1) * d)):
                    row = table[token, start + head * width : start + (head + 1) * width]
                    np.testing.assert_array_equal(leaves[leaf][layer * tokens + token, head], row)
    stacked = {name: leaf.reshape(layers, tokens, heads, width) for name, leaf in leaves.items()}
    np.testing.assert_array_equal(to_table(**stacked), table)


# From PEFT


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_pefts(name):
    adapter = jp.import_peft(FIXTURES / name, backbone=backbone(name))
    np.testing.assert_allclose(logits(adapter, batch(name)), expected(name), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_the_tensors_are_the_same_bits(name, tmp_path):
    adapter = jp.import_peft(FIXTURES / name, backbone=backbone(name))
    jp.export_peft(adapter, tmp_path / "out")
    before, config = files(name)
    after = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        assert (after[key].dtype, after[key].tobytes()) == (tensor.dtype, tensor.tobytes()), key
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == backbone(name)
    same = set(written) - {"base_model_name_or_path", "encoder_hidden_size", "modules_to_save", "prefix_projection"}
    assert {key: written[key] for key in same} == {key: config[key] for key in same}
    assert set(written["modules_to_save"]) == set(config["modules_to_save"])


@pytest.mark.parametrize("name", ["bert-classification", "roberta-classification", "bert-tagging"])
def test_an_import_is_an_adapter_like_others(name, tmp_path):
    adapter = jp.import_peft(FIXTURES / name, backbone=backbone(name), labels=LABELS)
    row = "hello world"
    found = adapter.predict([row, row])
    adapter.save(tmp_path / "adapter")
    again = jp.load_adapter(tmp_path / "adapter")
    np.testing.assert_array_equal(logits(again, batch(name)), logits(adapter, batch(name)))
    assert again.predict([row, row]) == found
    assert again.labels == LABELS
    assert "backbone" not in again.trainable or name.startswith("roberta")
    jp.export_peft(tmp_path / "adapter", tmp_path / "peft")
    again = jp.import_peft(tmp_path / "peft")
    np.testing.assert_allclose(logits(again, batch(name)), expected(name), atol=1e-5, rtol=0)


def test_the_backbone_is_the_one_that_the_folder_names(tmp_path):
    folder = copied(tmp_path, "bert-tagging", base_model_name_or_path=backbone("bert-tagging"))
    adapter = jp.import_peft(folder)
    assert (adapter.run.backbone, adapter.labels) == (backbone("bert-tagging"), ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert adapter.run.method == PTuningV2(length=3, dropout=0.0)
    assert adapter.run.task.max_length == 17  # 20 positions, 3 of them taken by the prefix
    folder = shutil.rmtree(folder) or copied(tmp_path, "bert-tagging", base_model_name_or_path=None)
    with pytest.raises(jp.UserError, match="does not name its base model; give it as backbone"):
        jp.import_peft(folder)


def test_a_task_says_what_is_read():
    pairs = jp.Classification(jp.Files("x.csv"), text="a", text_pair="b", labels=LABELS, max_length=12)
    adapter = jp.import_peft(FIXTURES / "bert-classification", backbone=backbone("bert"), task=pairs)
    assert adapter.labels == LABELS
    (found,) = adapter.predict([{"a": "hello", "b": "world world"}])
    assert set(found["scores"]) == set(LABELS)
    with pytest.raises(jp.UserError, match="SequenceClassifier does not answer the task Tagging"):
        jp.import_peft(FIXTURES / "bert-classification", backbone=backbone("bert"), task=jp.Tagging(jp.Files("x.csv")))


def test_an_import_is_measured_on_a_file(tmp_path):
    rows = [{"text": "hello", "label": "no"}, {"text": "world hello", "label": "yes"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter = jp.import_peft(FIXTURES / "bert-classification", backbone=backbone("bert"), labels=LABELS)
    predicted = adapter.predict([row["text"] for row in rows])
    right = [found["label"] == row["label"] for found, row in zip(predicted, rows, strict=True)]
    assert adapter.evaluate(file=str(tmp_path / "rows.jsonl"))["accuracy"] == np.mean(right)


def test_half_precision_and_unknown_settings_are_read(tmp_path, caplog):
    own, _ = files("bert-classification")
    half = {name: tensor.astype(np.float16) for name, tensor in own.items()}
    folder = copied(tmp_path, "bert-classification", half, gate="open")
    with caplog.at_level(logging.INFO, "jaxprefix"):
        adapter = jp.import_peft(folder, backbone=backbone("bert"))
    assert "adapter_config.json has settings that are ignored: gate." in caplog.text
    assert adapter.trainable["method"]["keys"].dtype == np.float32
    np.testing.assert_allclose(logits(adapter, batch("bert")), expected("bert-classification"), atol=2e-2, rtol=0)


def test_the_smallest_configuration_is_enough():
    tensors, _ = files("bert-classification")
    adapter = jp.import_peft(FIXTURES / "bert-classification", backbone=backbone("bert"))
    small = {"peft_type": "PREFIX_TUNING", "task_type": "SEQ_CLS"}
    found = from_peft(tensors, small, adapter.backbone.module)
    np.testing.assert_array_equal(found.trainable["method"]["keys"], adapter.trainable["method"]["keys"])


ONES = np.ones((3, 8), np.float32)
BAD = [
    ({}, {"peft_type": "LORA"}, ["peft_type = 'LORA'", "PREFIX_TUNING"]),
    ({}, {"task_type": "QUESTION_ANS"}, ["task_type = 'QUESTION_ANS'", "SEQ_CLS, TOKEN_CLS, CAUSAL_LM"]),
    ({}, {"num_virtual_tokens": 4}, ["prompt_embeddings has shape [3, 32]", "[4, 32]"]),
    ({"prompt_embeddings": np.ones((3, 64), np.float32)}, {}, ["[3, 64]", "[3, 32]", "name the backbone"]),
    ({"prompt_embeddings": None}, {}, ["prompt_embeddings is missing"]),
    ({"base_model.classifier.bias": None}, {}, ["base_model.classifier.bias is missing", "head included"]),
    (
        {"base_model.classifier.weight": None, "base_model.model.classifier.weight": ONES},
        {},
        ["base_model.model.classifier.weight has the prefix of LoRA files"],
    ),
    ({"gates": np.ones(3, np.float32)}, {}, ["tensors gates have no place", "no gates"]),
    ({"base_model.classifier.bias": np.ones(4, np.float32)}, {}, ["base_model.classifier.bias has shape [4]", "[3]"]),
    ({"base_model.classifier.weight": np.ones((3, 9), np.float32)}, {}, ["shape [3, 9]", "[any, 8]"]),
]


@pytest.mark.parametrize(("tensors", "settings", "words"), BAD)
def test_what_would_be_misread_is_refused(tmp_path, tensors, settings, words):
    folder = copied(tmp_path, "bert-classification", tensors, **settings)
    with pytest.raises(jp.UserError) as error:
        jp.import_peft(folder, backbone=backbone("bert"))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("name", ["bert-classification", "roberta-tagging", "roberta-classification"])
def test_a_backbone_of_another_kind_is_refused(name):
    """BERT's head is no RoBERTa's; where the heads agree, the prefixes do too, and nothing can tell."""
    other = "roberta" if name.startswith("bert") else "bert"
    if name.endswith("tagging"):
        assert jp.import_peft(FIXTURES / name, backbone=backbone(other))
        return
    with pytest.raises(jp.UserError, match=r"the tensor base_model\.classifier\.(dense\.)?weight is missing"):
        jp.import_peft(FIXTURES / name, backbone=backbone(other))


def test_a_backbone_without_its_pooler_is_refused(tmp_path):
    folder = shutil.copytree(backbone("bert"), tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "pooler" not in name}, folder / "model.safetensors")
    with pytest.raises(jp.UserError, match="has no pooler, which this adapter's head reads"):
        jp.import_peft(FIXTURES / "bert-classification", backbone=str(folder))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(jp.UserError, match=r"has no adapter_config\.json"):
        jp.import_peft(tmp_path)
    folder = copied(tmp_path, "bert-tagging")
    (folder / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(jp.UserError, match=r"adapter_model\.safetensors cannot be read"):
        jp.import_peft(folder, backbone=backbone("bert"))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(jp.UserError, match=r"none of the files adapter_model\.safetensors, adapter_model\.bin"):
        jp.import_peft(folder, backbone=backbone("bert"))
    with pytest.raises(jp.UserError, match="3 labels, but these are given: a, b"):
        jp.import_peft(FIXTURES / "bert-tagging", backbone=backbone("bert"), labels=("a", "b"))


# To PEFT


def tensor_names(adapter):
    return set(to_peft(adapter.model, adapter.trainable, adapter.frozen)[0]) - {"prompt_embeddings"}


def test_the_heads_have_the_names_of_transformers():
    both = {"weight", "bias"}
    plain = {f"base_model.classifier.{leaf}" for leaf in both}
    for name in ("bert", "roberta"):
        assert tensor_names(own_adapter(name, PTuningV2(length=2), TokenClassifier())) == plain
    pooled = {f"base_model.bert.pooler.dense.{leaf}" for leaf in both}
    assert tensor_names(own_adapter("bert", PTuningV2(length=2), SequenceClassifier(pooling="pooler"))) == plain
    assert tensor_names(own_adapter("bert", PTuningV2(length=2), SEQUENCE)) == plain | pooled
    two = {f"base_model.classifier.{map_}.{leaf}" for map_ in ("dense", "out_proj") for leaf in both}
    for pooling in ("pooler", "trained_pooler"):
        adapter = own_adapter("roberta", PTuningV2(length=2), SequenceClassifier(pooling=pooling))
        assert tensor_names(adapter) == two


@pytest.mark.parametrize("kind", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", [PTuningV2(length=4, mlp_width=5), PrefixTuning(length=4, mlp_width=5)])
def test_an_mlp_is_exported_as_what_it_makes(kind, method, tmp_path):
    adapter = own_adapter(kind, method, SEQUENCE)
    jp.export_peft(adapter, tmp_path / "peft")
    back = jp.import_peft(tmp_path / "peft")
    assert back.run.method == PTuningV2(length=4, dropout=0.0)
    assert back.run.head.pooling == "trained_pooler"
    np.testing.assert_allclose(logits(back, batch(kind)), logits(adapter, batch(kind)), atol=1e-6, rtol=0)


def test_a_pooler_that_was_born_goes_along(tmp_path):
    folder = shutil.copytree(backbone("bert"), tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "pooler" not in name}, folder / "model.safetensors")
    head = SequenceClassifier(pooling="pooler")
    adapter = own_adapter("bert", PTuningV2(length=2), head, source=str(folder))
    assert adapter.frozen["initialized"]
    jp.export_peft(adapter, tmp_path / "peft")
    assert "pooler" in json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["modules_to_save"]
    back = jp.import_peft(tmp_path / "peft")
    np.testing.assert_array_equal(logits(back, batch("bert")), logits(adapter, batch("bert")))


@dataclasses.dataclass(frozen=True)
class Gated(PTuningV2):
    """A subclass is another method."""


P = PTuningV2
REFUSED = [
    (Gated(length=2), SEQUENCE, ["Gated cannot be written", "PTuningV2", "PrefixTuning"]),
    (HeadOnly(), SEQUENCE, ["HeadOnly cannot be written"]),
    (P(lengths=(2, 3)), SEQUENCE, ["lengths = (2, 3)", "same length", "attention too"]),
    (P(length=2, layers=(1,)), SEQUENCE, ["layers = (1,)", "same length"]),
    (P(length=2, position_offset=False), SEQUENCE, ["position_offset = False", "PEFT shifts positions"]),
    (P(length=2, position_offset=False, no_op_start=True), SEQUENCE, ["masses", "silently drop"]),
    (P(length=2), SequenceClassifier(), ['pooling="mean"', "another vector", "trained_pooler"]),
    (P(length=2), SequenceClassifier(pooling="first"), ['pooling="first"']),
]


@pytest.mark.parametrize(("method", "head", "words"), REFUSED)
def test_what_peft_would_misread_is_refused(tmp_path, method, head, words):
    with pytest.raises(jp.UserError) as error:
        jp.export_peft(own_adapter("bert", method, head), tmp_path / "peft")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "peft").exists()


def test_equal_lengths_and_all_layers_in_any_order_are_a_plain_prefix():
    for method in (P(lengths=(3, 3)), P(length=3, layers=(1, 0))):
        adapter = own_adapter("bert", method, SEQUENCE)
        tensors, _ = to_peft(adapter.model, adapter.trainable, adapter.frozen)
        assert tensors["prompt_embeddings"].shape == (3, 32)


def test_edits_beyond_keys_and_values_are_refused(monkeypatch, tmp_path):
    """Should a method that is known by name come to do more, its export stops, and not its meaning."""
    adapter = own_adapter("bert", P(length=2), SEQUENCE)
    edits = adapter.model.edits(adapter.trainable)
    weighed = dataclasses.replace(edits.layers[0], mass=jnp.ones((2, 2)))
    for changed in (edits + edits, Edits((weighed,), 2), Edits(edits.layers, 1), Edits()):
        monkeypatch.setattr(type(adapter.model), "edits", lambda self, trainable, changed=changed: changed)
        with pytest.raises(jp.UserError, match="does more than add keys and values"):
            jp.export_peft(adapter, tmp_path / "peft")


def test_nothing_else_is_replaced(tmp_path):
    adapter = own_adapter("bert", P(length=2), SEQUENCE)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(jp.UserError, match="holds more than an exported adapter"):
        jp.export_peft(adapter, tmp_path / "home")
    for length in (2, 3):
        jp.export_peft(own_adapter("bert", P(length=length), SEQUENCE), tmp_path / "peft")
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["num_virtual_tokens"] == 3
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["home", "peft"]
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "`no`, `maybe`, `yes`" in card
    assert "AutoModelForSequenceClassification" in card


def test_the_embedded_encoder_is_named_by_its_folder(tmp_path):
    adapter = own_adapter("", P(length=2), TokenClassifier(), source="tiny-encoder")
    jp.export_peft(adapter, tmp_path / "peft")
    base = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base.endswith("tiny-encoder")
    assert base != "tiny-encoder"
    assert kind_of("bert-x") == jp.import_peft(tmp_path / "peft").model.backbone.config.model_type
