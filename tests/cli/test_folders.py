"""What the command line says of folders: an adapter described, a backbone elsewhere, silence where nothing is amiss."""

import json
import logging
import os
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.cli.main import main
from jaxprefix.errors import UserError
from jaxprefix.hf.loading import read_backbone
from tests.cli.adapters import classifier
from tests.exchange.cases import FIXTURES, backbone
from tests.models import decoder_folders, folders

WILD = "[red]no\x1b"


def test_an_adapter_is_described_without_its_backbone(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    folder = classifier(labels=[WILD, "yes"]).save(tmp_path / "adapter")
    assert main(["describe", str(folder)]) == 0
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    for words in ("PTuningV2(length=2)", "method/keys", "[red]no\\x1b, yes", "bert"):
        assert words in out
    assert "\x1b" not in out
    assert main(["describe", str(tmp_path)]) == 2
    assert "is not an adapter folder" in capsys.readouterr().err


def test_a_backbone_that_is_not_there_is_asked_for_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    base = shutil.copytree(backbone("bert"), tmp_path / "base")
    adapter = classifier(source=str(base)).save(tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    assert main(["predict", str(adapter), "tea"]) == 2
    said = capsys.readouterr().err
    assert f"there is no folder {base}" in said and "by --backbone" in said
    assert main(["predict", str(adapter), "tea", "--backbone", str(tmp_path / "moved")]) == 0


def test_paths_of_an_adapter_hold_from_any_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    shutil.copytree(backbone("bert"), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    adapter = classifier(source="base").save("adapter")
    monkeypatch.chdir("/")
    assert main(["predict", str(tmp_path / adapter), "tea"]) == 0


def test_a_folder_without_pooler_or_head_is_opened_in_silence(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO, "jaxprefix"):
        jp.load_pretrained("tiny-encoder")
    assert caplog.messages == []


def test_an_untied_decoder_without_head_serves_a_classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    tensors, _ = decoder_folders.model("llama", tied=False)
    del tensors["lm_head.weight"]
    settings = decoder_folders.config("llama", architectures=["LlamaModel"])
    loaded = jp.load_pretrained(folders.write(tmp_path / "m", tensors, settings))
    assert "lm_head" not in loaded.frozen and loaded.tokenizer is None
    head = jp.SequenceClassifier(pooling="last", num_labels=2)
    model = jp.TunedModel(loaded.backbone, jp.PTuningV2(length=2), head)
    import jax

    jax.eval_shape(model.init, jax.random.key(0), loaded.frozen)
    with pytest.raises(UserError, match="has no head of a language model"):
        other = jp.TunedModel(loaded.backbone, jp.PTuningV2(length=2), jp.CausalLM())
        jax.eval_shape(other.init, jax.random.key(0), loaded.frozen)


@pytest.mark.parametrize(("kind", "name"), [("gpt2", "AutoModelForCausalLM"), ("bert", "AutoModelForMaskedLM")])
def test_pickles_are_converted_by_the_class_of_their_kind(tmp_path, kind, name):
    if kind == "bert":
        folder = folders.write(tmp_path / "m", folders.model()[0], folders.config())
    else:
        folder = folders.write(tmp_path / "m", decoder_folders.model(kind)[0], decoder_folders.config(kind))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"{name}.from_pretrained"):
        read_backbone(str(folder))


@pytest.mark.parametrize("value", [["SEQ_CLS"], {"a": 1}, 3, True])
def test_a_task_type_of_peft_that_is_no_text(tmp_path, capsys, value):
    folder = shutil.copytree(FIXTURES / "bert-classification", tmp_path / "theirs")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "task_type": value}))
    args = ["import", str(folder), "--backbone", backbone("bert"), "--out", str(tmp_path / "a")]
    assert main(args) == 2
    assert "task_type" in capsys.readouterr().err
    file.write_text('{"a":' * 100_000)
    assert main(args) == 2
    assert "nested too deep" in capsys.readouterr().err


def test_values_of_an_imported_folder_are_finite(tmp_path, capsys):
    folder = shutil.copytree(FIXTURES / "bert-classification", tmp_path / "theirs")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["prompt_embeddings"].reshape(-1)[:3] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    args = ["import", str(folder), "--backbone", backbone("bert"), "--out", str(tmp_path / "a")]
    assert main(args) == 2
    assert "that are not finite" in capsys.readouterr().err
    (folder / "adapter_model.safetensors").unlink()
    os.mkfifo(folder / "adapter_model.safetensors")
    assert main(args) == 2
    assert "is no file (a FIFO" in capsys.readouterr().err
