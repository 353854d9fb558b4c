"""`jaxprefix export` and `jaxprefix import`: arguments, guesses, and what they print."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxprefix as jp
from jaxprefix.cli import main as cli
from jaxprefix.methods import PTuningV2
from jaxprefix.tasks import SequenceClassifier
from tests.exchange.cases import FIXTURES, LABELS, backbone, batch, expected, files, logits, own_adapter


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_peft_comes_in_and_goes_out(tmp_path, capsys):
    adapter, out = str(tmp_path / "adapter"), str(tmp_path / "peft")
    args = ["import", str(FIXTURES / "bert-classification"), "--backbone", backbone("bert"), "--out", adapter]
    assert cli.main([*args, "--labels", *LABELS, "--text-pair", "other"]) == 0
    assert capsys.readouterr().out == f"{adapter}\n"
    assert cli.main(["predict", adapter, '{"text": "hello", "other": "world"}']) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"]) == set(LABELS)
    assert cli.main(["export", adapter, out]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    again = jp.import_peft(out)
    np.testing.assert_allclose(logits(again, batch("bert")), expected("bert-classification"), atol=1e-5, rtol=0)


def test_the_files_tell_whose_they_are(tmp_path, capsys):
    theirs, _ = files("bert-tagging")
    names = {"prompt_embeddings": "prefix_encoder.embedding.weight"}
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    renamed = {names.get(name, name.removeprefix("base_model.")): tensor for name, tensor in theirs.items()}
    save_file(renamed, checkpoint / "model.safetensors")
    args = ["import", str(checkpoint), "--out", str(tmp_path / "a")]
    assert cli.main(args) == 2
    assert "does not name its backbone; give --backbone" in capsys.readouterr().err
    args += ["--backbone", backbone("bert")]
    assert cli.main(args) == 2
    assert "do not tell sequences from tokens" in capsys.readouterr().err
    assert cli.main([*args, "--kind", "tagging"]) == 0
    found = jp.load_adapter(tmp_path / "a")
    np.testing.assert_allclose(logits(found, batch("bert")), expected("bert-tagging"), atol=1e-5, rtol=0)
    assert cli.main([*args, "--kind", "tagging", "--text-pair", "b"]) == 2
    assert "is a column that Tagging does not read" in capsys.readouterr().err

    library = tmp_path / "library"
    library.mkdir()
    name = "bert.prefix_tuning.prefix_tunings.a.self_prefix.control_trans"
    save_file({name: theirs["prompt_embeddings"].ravel()}, library / "adapter.safetensors")
    head = {f"heads.a.1.{leaf}": theirs[f"base_model.classifier.{leaf}"] for leaf in ("weight", "bias")}
    save_file(head, library / "model_head.safetensors")
    (library / "adapter_config.json").write_text('{"config": {"architecture": "prefix_tuning"}}')
    (library / "head_config.json").write_text('{"config": {"head_type": "tagging", "layers": 1}, "name": "a"}')
    args = ["import", str(library), "--backbone", backbone("bert"), "--out", str(tmp_path / "b")]
    assert cli.main(args) == 0
    assert jp.load_adapter(tmp_path / "b").run.method == PTuningV2(length=3, position_offset=False, dropout=0.0)


def test_a_folder_without_a_tokenizer_opens_with_one_that_is_named(tmp_path, capsys):
    bare = shutil.copytree(backbone("bert"), tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    out = str(tmp_path / "adapter")
    args = ["import", str(FIXTURES / "bert-tagging"), "--backbone", str(bare), "--out", out]
    assert cli.main(args) == 2
    assert "has no tokenizer" in (said := capsys.readouterr().err) and "--tokenizer" in said
    assert cli.main([*args, "--tokenizer", backbone("bert"), "--labels", *LABELS]) == 0
    with_one = jp.import_peft(FIXTURES / "bert-tagging", backbone=backbone("bert"), labels=LABELS)
    rows = [{"tokens": ["hello", "world"]}]
    assert jp.load_adapter(out).predict(rows) == with_one.predict(rows)  # the adapter keeps the place
    assert jp.load_adapter(out, backbone=backbone("bert")).predict(rows) == with_one.predict(rows)
    capsys.readouterr()


def test_what_nothing_tells_is_said(tmp_path, capsys):
    assert cli.main(["import", str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    assert "say --format (peft, p-tuning-v2, adapters, transformers)" in capsys.readouterr().err
    folder = shutil.copytree(FIXTURES / "bert-tagging", tmp_path / "theirs")
    (folder / "adapter_config.json").write_text("{")
    assert cli.main(["import", str(folder), "--out", str(tmp_path / "a")]) == 2
    assert "adapter_config.json is damaged" in capsys.readouterr().err


def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path, capsys):
    own_adapter("bert", PTuningV2(length=2), SequenceClassifier()).save(tmp_path / "adapter")
    assert cli.main(["export", str(tmp_path / "adapter"), str(tmp_path / "peft")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("jaxprefix: transformers has no head with pooling=")
    assert "\n" not in said
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize("command", ["export", "import"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, "--help"])
    assert exit.value.code == 0
    assert "where to write" in capsys.readouterr().out
