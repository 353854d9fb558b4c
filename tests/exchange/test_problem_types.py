"""The `problem_type` of classifiers in PEFT's folders, without torch: there and back, and who says which it is."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.exchange.converted import NO_ROWS
from jaxprefix.methods import PTuningV2
from tests.exchange.cases import FIXTURES, TYPES, backbone, drawn_adapter, files

DECODERS = FIXTURES.with_name("decoder_fixtures")
NAMES = ("red", "green", "blue")
TEXTS = ["hello world", "world"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


NUMBERS = {"mean": [40.0, -3.0], "scale": [12.0, 0.5]}
OWN = {
    "regression": (jp.Regression(NO_ROWS, target=("a", "b"), max_length=10), NUMBERS),
    "one number": (jp.Regression(NO_ROWS, max_length=10), {"mean": [7.0], "scale": [3.0]}),
    "one label": (jp.Classification(NO_ROWS, max_length=10), {"labels": list(NAMES)}),
    "labels": (jp.MultiLabelClassification(NO_ROWS, max_length=10), {"labels": list(NAMES)}),
    "one of one": (jp.MultiLabelClassification(NO_ROWS, max_length=10), {"labels": ["red"]}),
    "thresholds": (
        jp.MultiLabelClassification(NO_ROWS, max_length=10, thresholds=0.2),
        {"labels": list(NAMES), "thresholds": [0.1, 0.5, 0.9]},
    ),
}


def close(found, wanted):
    """Answers with the same texts and nearly the same numbers."""
    if isinstance(wanted, float):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            close(found[key], value)
    else:
        assert found == wanted


# The kinds on BERT; RoBERTa's head has other names, which do not depend on the kind.
CASES = [
    pytest.param(kind, case, marks=[pytest.mark.slow] * (kind == "roberta" and case != "labels"))
    for kind in ("bert", "roberta")
    for case in OWN
]


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_there_and_back_the_answers_are_the_same(kind, case, tmp_path):
    task, facts = OWN[case]
    head = dataclasses.replace(task.default_head(), pooling="trained_pooler")
    adapter = drawn_adapter(backbone(kind), PTuningV2(length=4), head, task, facts)
    jp.export_peft(adapter, tmp_path / "peft")
    again = jp.import_peft(tmp_path / "peft")
    assert type(again.run.task) is type(task)
    for found, wanted in zip(again.predict(TEXTS), adapter.predict(TEXTS), strict=True):
        close(found, wanted)
    said = json.loads((tmp_path / "peft" / "config.json").read_text())
    assert said["problem_type"] == head.problem_type
    names = again.labels or again.run.task.target_columns
    assert said["id2label"] == {str(index): name for index, name in enumerate(names)}


def test_the_last_map_is_in_the_targets_units(tmp_path):
    """`scale (x W + b) + mean` is `x (W scale) + (b scale + mean)`."""
    task, facts = OWN["regression"]
    adapter = drawn_adapter(backbone("bert"), PTuningV2(length=4), jp.Regressor(pooling="pooler"), task, facts)
    jp.export_peft(adapter, tmp_path / "peft")
    written, own = load_file(tmp_path / "peft" / "adapter_model.safetensors"), adapter.trainable["head"]["classifier"]
    scale, mean = np.array(facts["scale"]), np.array(facts["mean"])
    np.testing.assert_allclose(written["base_model.classifier.weight"], np.asarray(own["kernel"] * scale).T, rtol=1e-6)
    np.testing.assert_allclose(written["base_model.classifier.bias"], own["bias"] * scale + mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("head", "mean", "words"),
    [
        (jp.Regressor(pooling="last", bias=False), [40.0, -3.0], ["mean of the targets (40, -3)", "less their mean"]),
        (jp.Regressor(pooling="last"), [0.0, 0.0], ["have no bias", 'Regressor(pooling="last", bias=False)']),
        (jp.Regressor(pooling="mean"), [0.0, 0.0], ['pooling="mean"', 'Regressor(pooling="last", bias=False)']),
    ],
)
def test_a_decoders_mean_would_have_no_place(head, mean, words, tmp_path):
    task, facts = OWN["regression"]
    adapter = drawn_adapter(str(DECODERS / "llama"), PTuningV2(length=4), head, task, {**facts, "mean": mean})
    with pytest.raises(jp.UserError) as error:
        jp.export_peft(adapter, tmp_path / "peft")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "peft").exists()


def test_a_decoder_with_centred_targets_goes_there_and_back(tmp_path):
    task, facts = OWN["regression"]
    head = jp.Regressor(pooling="last", bias=False)
    centred = {**facts, "mean": [1e-9, -1e-12]}
    adapter = drawn_adapter(str(DECODERS / "llama"), PTuningV2(length=4), head, task, centred)
    jp.export_peft(adapter, tmp_path / "peft")
    for found, wanted in zip(jp.import_peft(tmp_path / "peft").predict(TEXTS), adapter.predict(TEXTS), strict=True):
        close(found, wanted)


def foreign(tmp_path, base_says=None, own_says=None, outputs=3):
    """A folder of PEFT with C outputs, its base model's `config.json`, and perhaps one of its own, saying more."""
    folder, base = shutil.copytree(FIXTURES / "bert-classification", tmp_path / "theirs"), tmp_path / "base"
    shutil.copytree(backbone("bert"), base)
    tensors, config = files("bert-classification")
    cut = {name: tensor[:outputs] if "classifier" in name else tensor for name, tensor in tensors.items()}
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in cut.items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, **(base_says or {})}))
    if own_says is not None:
        (folder / "config.json").write_text(json.dumps(own_says))
    return folder


@pytest.mark.parametrize(
    ("word", "kind"),
    [("regression", jp.Regression), ("multi_label_classification", jp.MultiLabelClassification)],
)
def test_the_base_model_says_what_pefts_classifier_answers(word, kind, tmp_path):
    id2label = {str(index): name for index, name in enumerate(NAMES)}
    adapter = jp.import_peft(foreign(tmp_path, {"problem_type": word, "id2label": id2label}))
    assert type(adapter.run.task) is kind
    (answer,) = adapter.predict(["hello"])
    assert list(answer.get("values", answer.get("scores"))) == [*NAMES]


def test_a_base_models_labels_are_for_as_many_outputs(tmp_path):
    folder = foreign(tmp_path, {"id2label": {"0": "a", "1": "b"}}, outputs=1)
    adapter = jp.import_peft(folder)
    assert (type(adapter.run.task), adapter.run.task.target) == (jp.Regression, "LABEL_0")


def test_the_folders_own_word_comes_first_and_a_persons_before_the_bases(tmp_path):
    word = {"problem_type": "regression"}
    folder = foreign(tmp_path, word, {"problem_type": "multi_label_classification"})
    assert type(jp.import_peft(folder).run.task) is jp.MultiLabelClassification
    with pytest.raises(jp.UserError, match="and not 'regression'"):
        jp.import_peft(folder, problem_type="regression")
    (folder / "config.json").unlink()
    assert type(jp.import_peft(folder).run.task) is jp.Regression
    task = jp.MultiLabelClassification(NO_ROWS, labels=NAMES, thresholds=0.3)
    assert jp.import_peft(folder, task=task).run.task == task


@pytest.mark.parametrize("where", ["base", "theirs"])
def test_an_unknown_type_is_refused_by_file_and_field(where, tmp_path):
    said = {"problem_type": "foo"}
    folder = foreign(tmp_path, said if where == "base" else None, said if where == "theirs" else None)
    with pytest.raises(jp.UserError) as error:
        jp.import_peft(folder)
    words = [str(tmp_path / where / "config.json"), "problem_type = 'foo'", *TYPES]
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_label_says_nothing_of_tokens(tmp_path):
    """The base model's `problem_type` is that of a classifier of sequences."""
    tensors = foreign(tmp_path, {"problem_type": "foo"})
    config = json.loads((tensors / "adapter_config.json").read_text())
    (tensors / "adapter_config.json").write_text(json.dumps({**config, "task_type": "TOKEN_CLS"}))
    assert type(jp.import_peft(tensors).run.task) is jp.Tagging
