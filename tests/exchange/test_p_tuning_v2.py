"""P-Tuning v2's checkpoints: names of their own; layout and positions are PEFT's, whose logits are the yardstick."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.methods import PTuningV2
from tests.exchange.cases import FIXTURES, LABELS, backbone, batch, expected, files, kind_of, logits

NAMES = ["bert-classification", "bert-tagging", "roberta-classification", "roberta-tagging"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def task_of(name):
    return name.split("-")[1]


def checkpoint(name, encoder=True):
    """A PEFT fixture under P-Tuning v2's names; RoBERTa's first map is there a pooler, frozen as it was drawn."""
    theirs, _ = files(name)
    kind = kind_of(name)
    renamed = {"prompt_embeddings": "prefix_encoder.embedding.weight"}
    renamed |= {f"base_model.classifier.{leaf}": f"classifier.{leaf}" for leaf in ("weight", "bias")}
    for leaf in ("weight", "bias"):
        renamed[f"base_model.classifier.dense.{leaf}"] = f"{kind}.pooler.dense.{leaf}"
        renamed[f"base_model.classifier.out_proj.{leaf}"] = f"classifier.{leaf}"
    tensors = {renamed[key]: tensor for key, tensor in theirs.items()}
    if encoder:
        whole = load_file(FIXTURES / kind / "model.safetensors")
        buffer = {f"{kind}.embeddings.position_ids": np.arange(20)[None]}
        tensors = {**{f"{kind}.{key}": tensor for key, tensor in whole.items()}, **buffer, **tensors}
    return tensors


def with_mlp(tensors, width=5, seed=0):
    """The same checkpoint with an MLP in place of its table, and the table that the MLP makes."""
    random = np.random.default_rng(seed)
    columns = tensors["prefix_encoder.embedding.weight"].shape[1]
    shapes = {
        "embedding.weight": (3, 8),
        "trans.0.weight": (width, 8),
        "trans.0.bias": (width,),
        "trans.2.weight": (columns, width),
        "trans.2.bias": (columns,),
    }
    made = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    hidden = np.tanh(made["embedding.weight"] @ made["trans.0.weight"].T + made["trans.0.bias"])
    table = hidden @ made["trans.2.weight"].T + made["trans.2.bias"]
    return {**tensors, **{f"prefix_encoder.{name}": tensor for name, tensor in made.items()}}, table


@pytest.mark.parametrize("encoder", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_those_of_the_same_prefix_in_peft(name, encoder):
    tensors = checkpoint(name, encoder)
    adapter = jp.import_p_tuning_v2(tensors, backbone=backbone(name), kind=task_of(name))
    assert adapter.run.method == PTuningV2(length=3)
    assert bool(adapter.frozen["initialized"]) == (name == "roberta-classification")
    np.testing.assert_allclose(logits(adapter, batch(name)), expected(name), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert-classification", "roberta-tagging"])
def test_an_mlp_stays_one_and_is_the_table_that_it_makes(name):
    tensors, table = with_mlp(checkpoint(name))
    adapter = jp.import_p_tuning_v2(tensors, backbone=backbone(name), kind=task_of(name))
    assert adapter.run.method == PTuningV2(length=3, mlp_width=5)
    flat = {key: tensor for key, tensor in tensors.items() if ".trans." not in key}
    flat["prefix_encoder.embedding.weight"] = table
    plain = jp.import_p_tuning_v2(flat, backbone=backbone(name), kind=task_of(name))
    np.testing.assert_allclose(logits(adapter, batch(name)), logits(plain, batch(name)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert-tagging", "roberta-classification"])
def test_a_folder_tells_its_task_and_becomes_an_adapter(name, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file(checkpoint(name), folder / "model.safetensors")
    kind = {"classification": "Sequence", "tagging": "Token"}[task_of(name)]
    settings = {"architectures": [f"BertPrefixFor{kind}Classification"], "id2label": dict(enumerate(LABELS))}
    (folder / "config.json").write_text(json.dumps(settings))
    jp.import_p_tuning_v2(folder, backbone=backbone(name)).save(tmp_path / "adapter")
    again = jp.load_adapter(tmp_path / "adapter")
    assert again.labels == LABELS
    np.testing.assert_allclose(logits(again, batch(name)), expected(name), atol=1e-5, rtol=0)
    jp.export_peft(again, tmp_path / "peft")
    peft = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    for key, tensor in files(name)[0].items():
        np.testing.assert_array_equal(peft[key], tensor)


def test_a_trained_pooler_is_not_taken_for_the_backbones():
    tensors = checkpoint("bert-classification")
    tensors["bert.pooler.dense.bias"] = tensors["bert.pooler.dense.bias"] + 1
    adapter = jp.import_p_tuning_v2(tensors, backbone=backbone("bert"), kind="classification")
    np.testing.assert_array_equal(adapter.frozen["initialized"]["pooler"]["bias"], tensors["bert.pooler.dense.bias"])
    np.testing.assert_array_equal(
        adapter.frozen["initialized"]["pooler"]["kernel"], tensors["bert.pooler.dense.weight"].T
    )


ODD = np.ones((2, 2), np.float32)
BAD = [
    ({"classifier.bias": None}, ["classifier.bias is missing"]),
    ({"prefix_encoder.embedding.weight": ODD}, ["shape [2, 2]", "[any, 32]"]),
    ({"prefix_encoder.trans.0.bias": ODD}, ["prefix_encoder.trans.0.bias have no place"]),
    ({"qa_outputs.weight": ODD}, ["qa_outputs.weight have no place"]),
    ({"bert.encoder.layer.7.odd": ODD}, ["bert.encoder.layer.7.odd have no place"]),
    ({"bert.embeddings.LayerNorm.bias": np.ones(8, np.float32)}, ["LayerNorm.bias is not the backbone's"]),
    ({"bert.pooler.dense.bias": None}, ["bert.pooler.dense.bias is missing"]),
    ({"bert.embeddings.word_embeddings.weight": ODD}, ["word_embeddings.weight has shape [2, 2]", "[12, 8]"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_what_would_be_misread_is_refused(changes, words):
    tensors = {key: value for key, value in {**checkpoint("bert-tagging"), **changes}.items() if value is not None}
    with pytest.raises(jp.UserError) as error:
        jp.import_p_tuning_v2(tensors, backbone=backbone("bert"), kind="tagging")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_the_task_and_the_pooler_must_be_known():
    with pytest.raises(jp.UserError, match="do not tell sequences from tokens"):
        jp.import_p_tuning_v2(checkpoint("bert-tagging"), backbone=backbone("bert"))
    tensors = checkpoint("roberta-classification", encoder=False)
    tensors = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    with pytest.raises(jp.UserError, match="has no pooler, which this adapter's head reads"):
        jp.import_p_tuning_v2(tensors, backbone=backbone("roberta"), kind="classification")
