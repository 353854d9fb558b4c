"""Rows, tokenizers and places of what was trained: another one than there was is refused or said, never taken."""

import dataclasses
import json
import logging
import os
import shutil

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.checkpoints.adapter import read_adapter
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.cli.main import main
from jaxprefix.errors import UserError
from jaxprefix.training.provenance import with_absolute_paths
from tests.training.worlds import write_encoder, write_jsonl

ROWS = [{"text": text, "label": label} for text, label in [("good dog", "good"), ("bad cat", "bad")] * 4]
TURNED = [{**row, "label": "bad" if row["label"] == "good" else "good"} for row in ROWS]


@pytest.fixture(scope="module")
def place(tmp_path_factory, shared_steps):
    """A folder with a backbone, rows in three files, and a finished run of two steps; paths relative to it."""
    folder = tmp_path_factory.mktemp("provenance")
    write_encoder(folder / "bert", layers=1)
    for split in ("train", "val", "test"):
        write_jsonl(folder / f"{split}.jsonl", ROWS)
    before = os.getcwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        jp.train(run())
        os.chdir(before)
        yield folder


def run(**changes):
    task = jp.Classification(jp.Files("train.jsonl", "val.jsonl", "test.jsonl"), max_length=8)
    usual = {"task": task, "backbone": "bert", "method": jp.PTuningV2(length=2), "steps": 2, "batch_size": 4}
    return jp.Run(
        **{**usual, "buckets": (8,), "hidden_dropout": 0.0, "attention_dropout": 0.0, "folder": "run", **changes}
    )


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A copy of that folder, which is the working one."""
    copy = shutil.copytree(place, tmp_path / "copy")
    stored = copy / "run" / "adapter" / "adapter.json"
    stored.write_text(stored.read_text().replace(str(place), str(copy)))
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_finished_run_is_not_measured_on_other_rows(here, split):
    before = read_adapter("run/adapter")
    write_jsonl(here / f"{split}.jsonl", TURNED)
    name = {"val": "validation"}.get(split, split)
    with pytest.raises(UserError, match=rf"run holds a run whose {name} split, .*/{split}.jsonl, had other rows than"):
        jp.train(run())
    after = read_adapter("run/adapter")
    assert after.metrics == before.metrics


def test_a_run_whose_folder_was_moved_goes_on(here, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    here.rename(moved)
    monkeypatch.chdir(moved)
    assert jp.train(run()).steps == 2


def test_a_stopped_run_does_not_go_on_with_other_rows(here):
    with Checkpoints(here / "run" / "checkpoints") as checkpoints:
        (newest, *_) = checkpoints.steps()[::-1]
    write_jsonl(here / "train.jsonl", [*ROWS, *ROWS])
    with pytest.raises(UserError, match="give this run another folder, or put the former rows back"):
        jp.train(run())
    write_jsonl(here / "train.jsonl", ROWS)
    assert jp.train(run()).steps == newest == 2


def test_a_population_does_not_go_on_with_other_rows(here):
    members = [{"seed": 0}, {"seed": 1}]
    jp.train_population(run(folder="many"), members)
    write_jsonl(here / "val.jsonl", TURNED)
    with pytest.raises(UserError, match="many holds a run whose validation split"):
        jp.train_population(run(folder="many"), members)


def test_the_same_rows_in_another_place_of_the_working_folder_are_the_same(here, monkeypatch):
    monkeypatch.chdir(here.parent)
    moved = with_absolute_paths(dataclasses.replace(run(), backbone="copy/bert"))
    assert moved.backbone == str(here / "bert")


def test_paths_are_stored_from_the_root(here, place):
    stored = json.loads((here / "run" / "adapter" / "adapter.json").read_text())
    assert stored["config"]["task"]["source"]["validation"] == str(here / "val.jsonl")
    assert stored["config"]["backbone"] == str(here / "bert")
    assert stored["data"]["validation"]["name"] == str(here / "val.jsonl")
    hub = with_absolute_paths(run(backbone="bert-base-cased", start=jp.AdapterStart("there")))
    assert hub.backbone == "bert-base-cased" and hub.start.folder == str(here / "there")
    assert with_absolute_paths(run(backbone="tiny-encoder")).backbone == "tiny-encoder"
    assert with_absolute_paths(run(folder="gs://bucket/x")).folder == "gs://bucket/x"


def test_evaluate_reads_the_rows_of_the_run_from_any_folder_and_says_where_they_changed(
    here, tmp_path, monkeypatch, caplog
):
    adapter = str(here / "run" / "adapter")
    metrics = read_adapter(adapter).metrics["validation"]
    elsewhere = tmp_path / "elsewhere"
    write_jsonl(elsewhere / "val.jsonl", TURNED)
    monkeypatch.chdir(elsewhere)
    with caplog.at_level(logging.INFO, "jaxprefix"):
        found = jp.load_adapter(adapter).evaluate(split="validation", batch_size=4)
        assert found == pytest.approx(metrics, abs=1e-6) and "other rows" not in caplog.text
        write_jsonl(here / "val.jsonl", TURNED)
        jp.load_adapter(adapter).evaluate(split="validation", batch_size=4)
    assert f"the validation split in {here}/val.jsonl has other rows than that in {here}/val.jsonl" in caplog.text


def permute(folder):
    """Another tokenizer of the same words."""
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    file.write_text(json.dumps(settings))


def test_another_tokenizer_is_refused_by_name(here, capsys):
    adapter = str(here / "run" / "adapter")
    assert main(["predict", adapter, "good dog"]) == 0
    permute(here / "bert")
    with pytest.raises(UserError, match=r"run in run was trained with another tokenizer than the one in .*bert is now"):
        jp.train(run())
    for command in (["predict", adapter, "good dog"], ["evaluate", adapter]):
        assert main(command) == 2
        assert "was trained with another tokenizer than the one in" in capsys.readouterr().err


def test_truncation_and_padding_make_no_other_tokenizer(here):
    file = here / "bert" / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(settings))
    jp.load_adapter(here / "run" / "adapter")


def test_an_adapter_without_digests_opens_with_a_word(here, caplog):
    file = here / "run" / "adapter" / "adapter.json"
    stored = json.loads(file.read_text())
    del stored["data"], stored["backbone"]["tokenizer"]
    file.write_text(json.dumps(stored))
    with caplog.at_level(logging.INFO, "jaxprefix"):
        adapter = jp.load_adapter(here / "run" / "adapter")
    assert sum("keeps no digest of its tokenizer" in line for line in caplog.messages) == 1
    assert np.isfinite(list(adapter.evaluate(split="validation", batch_size=4).values())).all()


def test_a_wrong_column_or_file_is_told_before_the_model_is_opened(here, monkeypatch):
    monkeypatch.setattr("jaxprefix.training.setup.open_folder", None)
    files = jp.Files("train.jsonl", "val.jsonl")
    with pytest.raises(UserError, match=r"train.jsonl.* has no column 'sentence'; it has 'text', 'label'"):
        jp.train(run(task=jp.Classification(files, text="sentence"), folder="other"))
    with pytest.raises(UserError, match=r"val.jsonl.* has no column 'tag'"):
        write_jsonl(here / "train.jsonl", [{**row, "tag": row["label"]} for row in ROWS])
        jp.train(run(task=jp.Classification(files, label="tag"), folder="other"))
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        jp.train(run(task=jp.Classification(jp.Files("nowhere.jsonl")), folder="other"))
