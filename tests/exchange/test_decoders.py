"""PEFT's folders for decoders, by what live PEFT wrote once: the same logits, the same tensors, refusals in words."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.cli import main as cli
from jaxprefix.exchange.converted import NO_ROWS, read_base
from jaxprefix.exchange.peft import to_peft
from jaxprefix.methods import LoRA, PromptTuning, PTuningV2
from jaxprefix.models.heads import CausalLM
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from tests.exchange.cases import FIXTURES, LABELS, logits

DECODERS = FIXTURES.with_name("decoder_fixtures")
NAMES = sorted(folder.name for folder in DECODERS.iterdir() if (folder / "adapter_config.json").exists())
LAST = SequenceClassifier(num_labels=3, pooling="last", bias=False)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def base(name):
    return str(DECODERS / name.split("-")[0])


def batch():
    stored = np.load(DECODERS / "expected.npz")
    return {"input_ids": stored["input_ids"].astype(np.int32), "attention_mask": stored["mask"]}


def assert_pefts(adapter, name):
    found, wanted, mask = logits(adapter, batch()), np.load(DECODERS / "expected.npz")[name], batch()["attention_mask"]
    keep = np.ones(len(mask), bool) if "classification" in name else mask
    np.testing.assert_allclose(found[keep], wanted[keep], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_pefts_and_the_tensors_go_back_as_they_came(name, tmp_path):
    adapter = jp.import_peft(DECODERS / name, backbone=base(name))
    assert_pefts(adapter, name)
    jp.export_peft(adapter, tmp_path / "out")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (DECODERS / name, tmp_path / "out"))
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        assert (after[key].dtype, after[key].tobytes()) == (tensor.dtype, tensor.tobytes()), key
    theirs, ours = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (DECODERS / name, tmp_path / "out")
    )
    for key in ("num_attention_heads", "num_layers", "num_virtual_tokens", "peft_type", "task_type", "token_dim"):
        assert ours[key] == theirs[key], key
    assert set(ours["modules_to_save"] or ()) == set(theirs["modules_to_save"] or ())


def test_a_language_model_is_an_adapter_like_others(tmp_path):
    adapter = jp.import_peft(DECODERS / "mistral-causal", backbone=base("mistral"))
    assert adapter.labels == ()
    assert adapter.run.method == PTuningV2(length=3, dropout=0.0, subject_to_window=True)
    assert isinstance(adapter.run.task, jp.CausalLanguage)
    assert adapter.run.task.max_length == 27
    adapter.save(tmp_path / "adapter")
    again = jp.load_adapter(tmp_path / "adapter")
    assert_pefts(again, "mistral-causal")
    jp.export_peft(again, tmp_path / "peft")
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "Labels" not in card
    pairs = jp.ConditionalGeneration(NO_ROWS, max_prompt_length=8, max_target_length=8)
    assert jp.import_peft(tmp_path / "peft", task=pairs).run.task == pairs


def test_a_classifier_predicts(tmp_path):
    adapter = jp.import_peft(DECODERS / "llama-classification", backbone=base("llama"), labels=LABELS)
    (found,) = adapter.predict(["hello world"])
    assert set(found["scores"]) == set(LABELS)
    assert "bias" not in adapter.trainable["head"]["classifier"]
    adapter.save(tmp_path / "adapter")
    assert jp.load_adapter(tmp_path / "adapter").predict(["hello world"]) == [found]


def test_the_commands(tmp_path, capsys):
    adapter, out = str(tmp_path / "adapter"), str(tmp_path / "peft")
    args = ["import", str(DECODERS / "llama-causal-mlp"), "--backbone", base("llama"), "--out", adapter]
    assert cli.main([*args, "--text-pair", "b"]) == 2
    assert "--text-pair is a column that CausalLanguage does not read" in capsys.readouterr().err
    assert cli.main([*args, "--labels", "a", "b"]) == 2
    assert "has no labels" in capsys.readouterr().err
    assert cli.main([*args, "--text", "story"]) == 0
    assert jp.load_adapter(adapter).run.task.text == "story"
    capsys.readouterr()
    assert cli.main(["export", adapter, out]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert_pefts(jp.import_peft(out), "llama-causal-mlp")


def model(kind, method, head):
    backbone = read_base(base(kind))
    tuned = TunedModel(backbone.module, method, head)
    return tuned, *tuned.init(jax.random.key(0), backbone.tree)


def biased():
    tuned, trainable, frozen = model("llama", PTuningV2(length=2), SequenceClassifier(num_labels=3, pooling="last"))
    trainable["head"]["classifier"]["bias"] += 1
    return tuned, trainable, frozen


P = PTuningV2(length=2)
REFUSED = [
    (lambda: model("mistral", P, CausalLM()), ["windows of 5 tokens", "subject_to_window = False", "set it to True"]),
    (lambda: model("gemma3_text", P, CausalLM()), ["gemma3_text has windows"]),
    (lambda: model("gpt2", PTuningV2(length=2, position_offset=False), CausalLM()), ["position_offset = False"]),
    (lambda: model("llama", P, SequenceClassifier(num_labels=3)), ['pooling="mean"', 'pooling="last", bias=False']),
    (biased, ["have no bias", "silently drop"]),
    (lambda: model("llama", P + LoRA(rank=1), CausalLM()), ["Combined cannot be written"]),
    (lambda: model("llama", PromptTuning(length=2), CausalLM()), ["PromptTuning cannot be written"]),
    (
        lambda: model("gemma3_text", PTuningV2(length=2, subject_to_window=True), TokenClassifier(num_labels=3)),
        ["no token classifier of gemma3_text"],
    ),
]


@pytest.mark.parametrize(("made", "words"), REFUSED)
def test_what_peft_would_misread_is_refused(made, words):
    with pytest.raises(jp.UserError) as error:
        to_peft(*made())
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_bias_of_zeros_is_none():
    tuned, trainable, frozen = model("llama", P, SequenceClassifier(num_labels=3, pooling="last"))
    assert set(to_peft(tuned, trainable, frozen)[0]) == {"prompt_embeddings", "base_model.score.weight"}


def test_folders_for_another_kind_of_backbone_are_refused(tmp_path):
    with pytest.raises(jp.UserError, match="needs a decoder, and bert is an encoder"):
        jp.import_peft(DECODERS / "llama-causal-mlp", backbone=str(FIXTURES / "bert"))
    with pytest.raises(jp.UserError, match=r"base_model\.score\.weight is missing"):
        jp.import_peft(FIXTURES / "bert-classification", backbone=base("gpt2"))
    with pytest.raises(jp.UserError, match=r"shape \[3, 32\], but this backbone calls for \[3, 48\]"):
        jp.import_peft(DECODERS / "llama-causal-mlp", backbone=base("gemma3_text"))
    folder = shutil.copytree(DECODERS / "llama-causal-mlp", tmp_path / "foreign")
    own = load_file(folder / "adapter_model.safetensors")
    save_file({**own, "base_model.score.weight": np.ones((3, 8), np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(jp.UserError, match=r"tensors base_model\.score\.weight have no place"):
        jp.import_peft(folder, backbone=base("llama"))
    table = {"prefix_encoder.embedding.weight": own["prompt_embeddings"]}
    with pytest.raises(jp.UserError, match=r"tunes encoders, and .*llama is a decoder"):
        jp.import_p_tuning_v2(table, backbone=base("llama"), kind="tagging")
    with pytest.raises(jp.UserError, match="are imported for encoders"):
        jp.import_adapters({}, backbone=base("llama"), config={"config": {}}, head_config={"config": {}})
