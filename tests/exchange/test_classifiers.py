"""Whole classifiers of transformers by their `problem_type`, without torch: equations, answers, and refusals."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.cli import main as cli
from jaxprefix.exchange.converted import NO_ROWS
from jaxprefix.methods import HeadOnly, PTuningV2
from jaxprefix.tasks.foreign import find_kind, problem_types
from tests.exchange.cases import FIXTURES, TYPES, backbone, batch, drawn_adapter, logits

DECODERS = FIXTURES.with_name("decoder_fixtures")
NAMES = ("red", "green", "blue")
TEXTS = ["hello world", "world"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def heads(kind, outputs=3):
    """Tensors of transformers' classifiers by hand."""
    random = np.random.default_rng(0)
    shapes = {
        "bert": {"classifier.weight": (outputs, 8), "classifier.bias": (outputs,)},
        "roberta": {
            "classifier.dense.weight": (8, 8),
            "classifier.dense.bias": (8,),
            "classifier.out_proj.weight": (outputs, 8),
            "classifier.out_proj.bias": (outputs,),
        },
        "gpt2": {"score.weight": (outputs, 8)},
        "llama": {"score.weight": (outputs, 8)},
    }[kind]
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def folder_of(kind, place, names=NAMES, problem_type=None, changes=None, **settings):
    """A whole classifier: the backbone of a fixture with a head; a tensor of None is left out, and so is a setting."""
    source = (FIXTURES if kind in ("bert", "roberta") else DECODERS) / kind
    folder = shutil.copytree(source, place)
    tensors = load_file(folder / "model.safetensors")
    if kind in ("bert", "roberta"):
        tensors = {f"{kind}.{name}": tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head")}
    tensors |= heads(kind, len(names)) | (changes or {})
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    auto = {"bert": "Bert", "roberta": "Roberta", "gpt2": "GPT2", "llama": "Llama"}[kind]
    config |= {
        "architectures": [f"{auto}ForSequenceClassification"],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "problem_type": problem_type,
        **settings,
    }
    said = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(said))
    return folder


# Which kinds there are


def test_every_problem_type_is_a_kinds():
    assert problem_types("SEQ_CLS") == tuple(sorted(TYPES))
    kinds = [find_kind("SEQ_CLS", word) for word in TYPES]
    assert kinds == [jp.Regression, jp.Classification, jp.MultiLabelClassification]
    assert (find_kind("TOKEN_CLS"), find_kind("CAUSAL_LM")) == (jp.Tagging, jp.CausalLanguage)
    assert find_kind("SEQ_CLS", "ranking") is None


# Whole classifiers


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
def test_a_whole_classifier_is_an_adapter_with_its_head(kind, tmp_path, capsys):
    """Its logits are the head's equations on the backbone's hidden states."""
    folder = folder_of(kind, tmp_path / "theirs", problem_type="multi_label_classification")
    assert cli.main(["import", str(folder), "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a'}\n"
    adapter = jp.load_adapter(tmp_path / "a")
    assert (adapter.run.method, adapter.run.backbone, adapter.labels) == (HeadOnly(), str(folder), NAMES)
    inputs = batch("bert") if kind == "bert" else {**batch("roberta")}
    if kind in ("gpt2", "llama"):
        inputs.pop("token_type_ids")
    bare = dataclasses.replace(adapter.model, head=None)
    hidden = np.asarray(bare.apply(adapter.trainable, adapter.frozen, inputs).hidden)
    tensors, mask = heads(kind), inputs["attention_mask"]
    if kind == "bert":
        stored = load_file(folder / "model.safetensors")
        pooled = np.tanh(hidden[:, 0] @ stored["bert.pooler.dense.weight"].T + stored["bert.pooler.dense.bias"])
        wanted = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    elif kind == "roberta":
        pooled = np.tanh(hidden[:, 0] @ tensors["classifier.dense.weight"].T + tensors["classifier.dense.bias"])
        wanted = pooled @ tensors["classifier.out_proj.weight"].T + tensors["classifier.out_proj.bias"]
    else:
        wanted = hidden[np.arange(len(mask)), mask.sum(1) - 1] @ tensors["score.weight"].T
    np.testing.assert_allclose(logits(adapter, inputs), wanted, atol=1e-5, rtol=0)
    assert ("backbone" in adapter.trainable) == (kind == "roberta")
    for answer in adapter.predict(TEXTS):
        assert answer["labels"] == [name for name in NAMES if answer["scores"][name] >= 0.5]


def test_the_three_types_answer_from_the_same_logits(tmp_path):
    told = {}
    for word in TYPES:
        adapter = jp.import_transformers(folder_of("bert", tmp_path / word, problem_type=word))
        told[word] = adapter.predict(["hello"])[0]
    numbers = np.array([told["regression"]["values"][name] for name in NAMES])
    shares = np.exp(numbers) / np.exp(numbers).sum()
    np.testing.assert_allclose([told[TYPES[1]]["scores"][name] for name in NAMES], shares, rtol=1e-5)
    np.testing.assert_allclose(
        [told[TYPES[2]]["scores"][name] for name in NAMES], 1 / (1 + np.exp(-numbers)), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("names", "kind"), [(("score",), jp.Regression), (("a", "b"), jp.Classification), (NAMES, jp.Classification)]
)
def test_transformers_rule_where_nothing_is_said(names, kind, tmp_path):
    adapter = jp.import_transformers(folder_of("bert", tmp_path / "theirs", names))
    assert type(adapter.run.task) is kind
    wanted = {"value"} if len(names) == 1 else {"label", "score", "scores"}
    assert set(adapter.predict(["hello"])[0]) == wanted


def test_what_nothing_says_a_person_or_a_task_says(tmp_path):
    folder = folder_of("bert", tmp_path / "theirs")
    by_name = jp.import_transformers(folder, problem_type="multi_label_classification", labels=("a", "b", "c"))
    assert by_name.labels == ("a", "b", "c")
    task = jp.Regression(NO_ROWS, text="body", target=("x", "y", "z"))
    by_task = jp.import_transformers(folder, task=task)
    assert by_task.run.task == task
    (answer,) = by_task.predict([{"body": "hello"}])
    assert list(answer["values"]) == ["x", "y", "z"]
    assert list(jp.import_transformers(folder, task=task, labels=NAMES).predict([{"body": "hello"}])[0]["values"]) == [
        *NAMES
    ]


def test_a_number_is_measured_in_its_own_units(tmp_path):
    adapter = jp.import_transformers(folder_of("bert", tmp_path / "theirs", ("score",)))
    rows = [{"text": text, "score": 5.0 + index} for index, text in enumerate(TEXTS)]
    errors = [row["score"] - answer["value"] for row, answer in zip(rows, adapter.predict(TEXTS), strict=True)]
    np.testing.assert_allclose(adapter.evaluate(rows=rows)["mse"], np.mean(np.square(errors)), rtol=1e-5)


BAD = [
    ({"problem_type": "foo"}, ["config.json has problem_type = 'foo'", *TYPES]),
    ({"changes": {"classifier.weight": None}}, ["the tensor classifier.weight is missing"]),
    ({"changes": {"classifier.bias": None}}, ["the tensor classifier.bias is missing"]),
    ({"changes": {"classifier.bias": np.ones(4, np.float32)}}, ["tensor classifier.bias has shape [4]", "[3]"]),
    ({"changes": {"classifier.weight": np.ones((3, 9), np.float32)}}, ["classifier.weight has shape [3, 9]", "[3, 8]"]),
    ({"id2label": {"0": "a", "1": "b"}}, ["classifier.weight has shape [3, 8]", "[2, 8]"]),
    ({"id2label": {"0": "a", "1": "b", "3": "c"}}, ["config.json has id2label", "0, 1, 2"]),
    ({"id2label": ["a", "b", "c"]}, ["config.json has id2label", "0, 1, 2"]),
    ({"id2label": {"0": "a", "1": "a", "2": "b"}}, ["a, a, b", "name each once"]),
    ({"id2label": {"0": "a", "1": "a", "2": "b"}, "problem_type": "regression"}, ["a, a, b", "name each once"]),
    ({"id2label": None, "num_labels": "many"}, ["num_labels = 'many'"]),
    ({"changes": {"adapter.weight": np.ones(3, np.float32)}}, ["tensors adapter.weight have no place"]),
    ({"changes": {"bert.pooler.dense.weight": None, "bert.pooler.dense.bias": None}}, ["bert.pooler.dense.weight"]),
    ({"architectures": ["BertForMultipleChoice"]}, ["BertForMultipleChoice", "ForSequenceClassification"]),
    ({"auto_map": {"AutoModelForSequenceClassification": "evil.Model"}}, ["auto_map", "is not run"]),
    ({"thresholds": [0.5], "problem_type": "multi_label_classification"}, ["thresholds = [0.5] for 3 labels"]),
    ({"thresholds": [0.5, 2, 0], "problem_type": "multi_label_classification"}, ["a number between 0 and 1"]),
]


@pytest.mark.parametrize(("settings", "words"), BAD)
def test_a_whole_classifier_that_cannot_be_read(settings, words, tmp_path):
    folder = folder_of("bert", tmp_path / "theirs", **settings)
    with pytest.raises(jp.UserError) as error:
        jp.import_transformers(folder)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_asked_for_and_is_not_there(tmp_path):
    folder = folder_of("bert", tmp_path / "theirs", problem_type="regression")
    with pytest.raises(jp.UserError, match="problem_type = 'foo' is not known; it must be one of"):
        jp.import_transformers(folder, problem_type="foo")
    with pytest.raises(jp.UserError, match=r"config\.json has problem_type = 'regression', and not 'multi_label"):
        jp.import_transformers(folder, task=jp.MultiLabelClassification(NO_ROWS))
    with pytest.raises(jp.UserError, match="Regressor does not answer the task Tagging"):
        jp.import_transformers(folder, task=jp.Tagging(NO_ROWS))
    one = folder_of("bert", tmp_path / "one", ("score",))
    with pytest.raises(jp.UserError, match="one output, as for a regression"):
        jp.import_transformers(one, problem_type="single_label_classification")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(jp.UserError, match="which is a pickle"):
        jp.import_transformers(folder)


def test_the_command_says_what_does_not_fit(tmp_path, capsys):
    folder = folder_of("bert", tmp_path / "theirs")
    out = ["--out", str(tmp_path / "a")]
    assert cli.main(["import", str(folder), *out, "--backbone", backbone("bert")]) == 2
    assert "is its own backbone; remove --backbone" in capsys.readouterr().err
    assert cli.main(["import", str(folder), *out, "--problem-type", "regression", "--labels", "a", "b", "c"]) == 0
    assert jp.load_adapter(tmp_path / "a").run.task.target == ("a", "b", "c")
    checkpoint = folder_of("bert", tmp_path / "p", architectures=["BertPrefixForSequenceClassification"])
    assert cli.main(["import", str(checkpoint), *out, "--backbone", backbone("bert"), "--problem-type", "foo"]) == 2
    assert "--problem-type is for folders of peft and transformers" in capsys.readouterr().err


def test_the_folder_of_an_untied_decoders_classifier_writes_no_text(tmp_path):
    folder = folder_of("llama", tmp_path / "theirs")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    with pytest.raises(jp.UserError, match="no head of a language model"):
        drawn_adapter(str(folder), PTuningV2(length=2), jp.CausalLM(), jp.CausalLanguage(NO_ROWS), {})
