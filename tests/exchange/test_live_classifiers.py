"""Sequence classifiers of all three problem types against live transformers and PEFT: logits, and what people are told.

The oracle of answers is transformers' own pipeline, which takes sigmoids, a softmax or nothing by `problem_type`.
"""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.exchange.converted import NO_ROWS
from jaxprefix.methods import IA3, HeadOnly, PTuningV2
from tests.exchange.cases import drawn_adapter, logits
from tests.models.folders import write_tokenizer

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
encoders = pytest.importorskip("tests.exchange.make_fixtures")
decoders = pytest.importorskip("tests.exchange.make_decoder_fixtures")

SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
SIZES = {
    "bert": {**encoders.SIZES, "pad_token_id": 0},
    "roberta": {**encoders.SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {**encoders.SIZES, "type_vocab_size": 1, "pad_token_id": 1},
    **{kind: {**decoders.KINDS[kind], **SPECIAL} for kind in ("gpt2", "llama", "mistral", "gemma2")},
}
TYPES = {
    "number": ("regression", ("score",)),
    "numbers": ("regression", ("weight", "height", "age")),
    "one": ("single_label_classification", ("no", "maybe", "yes")),
    "several": ("multi_label_classification", ("red", "green", "blue")),
    "one of several": ("multi_label_classification", ("red",)),
}
TEXTS = ["hello world", "world", "hello hello hello world"]
ENCODERS = ("bert", "roberta", "xlm-roberta")
PREFIXED = ("bert", "roberta", "gpt2", "llama")

if "past_key_values" not in inspect.signature(transformers.BertModel.forward).parameters:
    pytest.skip("this transformers gives PEFT no prefix-tuning of BERT; take one below 5.24", allow_module_level=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def drawn(kind, folder, names=("a", "b"), problem_type=None, whole=True):
    """A model whose every parameter is random, as `save_pretrained` writes it."""
    named = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    config = transformers.AutoConfig.for_model(kind, **SIZES[kind], **named, problem_type=problem_type)
    base = "AutoModel" if kind in ENCODERS else "AutoModelForCausalLM"
    auto = getattr(transformers, "AutoModelForSequenceClassification" if whole else base)
    model = auto.from_config(config, attn_implementation="eager").eval()
    encoders.randomise(model, seed=3)
    model.save_pretrained(folder)
    write_tokenizer(Path(folder))
    return model


def batch(kind):
    found = encoders.inputs("bert" if kind == "bert" else "roberta") if kind in ENCODERS else decoders.inputs()
    return found if kind == "bert" else {name: found[name] for name in ("input_ids", "attention_mask")}


def theirs(model, inputs):
    with torch.no_grad():
        tensors = {name: torch.tensor(np.asarray(array).astype(np.int64)) for name, array in inputs.items()}
        return model(**tensors).logits.numpy()


def told(model, problem_type, names, tokenizer):
    """What transformers' pipeline, which takes no model of PEFT, would make of the logits of each text, by name."""
    found = [theirs(model, tokenizer(text, return_tensors="np"))[0].astype(np.float64) for text in TEXTS]
    shares = {
        "regression": lambda row: row,
        "multi_label_classification": lambda row: 1 / (1 + np.exp(-row)),
        "single_label_classification": lambda row: np.exp(row) / np.exp(row).sum(),
    }[problem_type]
    return [dict(zip(names, shares(row).tolist(), strict=True)) for row in found]


def assert_answers(answers, wanted, problem_type, names, threshold=0.5):
    for answer, scores in zip(answers, wanted, strict=True):
        if problem_type == "regression":
            assert set(answer) == {"value" if len(names) == 1 else "values"}
            found = {names[0]: answer["value"]} if len(names) == 1 else answer["values"]
        elif problem_type == "multi_label_classification":
            found = answer["scores"]
            assert answer["labels"] == [name for name in names if scores[name] >= threshold]
        else:
            found = answer["scores"]
            assert answer["label"] == max(scores, key=scores.__getitem__)
        assert list(found) == list(names)
        np.testing.assert_allclose(list(found.values()), list(scores.values()), atol=1e-4, rtol=1e-5)


PAIRS = [(kind, type_) for kind in SIZES for type_ in TYPES if kind in ("bert", "llama") or type_.startswith("several")]
PAIRS += [("roberta", "number"), ("gpt2", "numbers")]


@pytest.mark.parametrize(("kind", "type_"), PAIRS)
def test_a_whole_classifier(kind, type_, tmp_path):
    problem_type, names = TYPES[type_]
    model = drawn(kind, tmp_path / "theirs", names, problem_type)
    adapter = jp.import_transformers(tmp_path / "theirs")
    np.testing.assert_allclose(logits(adapter, batch(kind)), theirs(model, batch(kind)), atol=1e-4, rtol=0)
    assert adapter.run.method == HeadOnly()
    assert adapter.run.backbone == str(tmp_path / "theirs")
    pipe = transformers.pipeline(
        "text-classification", model=model, tokenizer=adapter.backbone.tokenizer, top_k=None, device="cpu"
    )
    said = [{one["label"]: one["score"] for one in pipe([text])[0]} for text in TEXTS]
    wanted = [{name: scores[name] for name in names} for scores in said]
    assert_answers(adapter.predict(TEXTS), wanted, problem_type, names)
    adapter.save(tmp_path / "ours")
    assert jp.load_adapter(tmp_path / "ours").predict(TEXTS) == adapter.predict(TEXTS)


@pytest.mark.parametrize(("outputs", "kind"), [(1, jp.Regression), (2, jp.Classification), (3, jp.Classification)])
def test_where_no_problem_type_is_said_transformers_rule_holds(outputs, kind, tmp_path):
    names = [f"LABEL_{index}" for index in range(outputs)]
    model = drawn("bert", tmp_path, names)
    adapter = jp.import_transformers(tmp_path)
    assert type(adapter.run.task) is kind
    labels = torch.zeros(3) if outputs == 1 else torch.zeros(3, dtype=torch.long)
    model(**{name: torch.tensor(array.astype(np.int64)) for name, array in batch("bert").items()}, labels=labels)
    assert model.config.problem_type == adapter.model.head.problem_type  # which transformers settles at the first loss


@pytest.mark.parametrize("type_", ["number", "numbers", "several"])
@pytest.mark.parametrize("kind", PREFIXED)
def test_a_folder_of_pefts(kind, type_, tmp_path):
    """Either the base model's `config.json` says what is asked, or the person."""
    problem_type, names = TYPES[type_]
    by_base = kind in ("bert", "llama")
    drawn(kind, tmp_path / "base", names, problem_type if by_base else None, whole=False)
    if not by_base:
        names = tuple(f"LABEL_{index}" for index in range(len(names)))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=len(names), problem_type=problem_type, attn_implementation="eager"
    )
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    model = peft.get_peft_model(base, config).eval()
    for name, module in model.named_modules():
        if name.split(".")[-1] in ("prompt_encoder", "modules_to_save"):
            encoders.randomise(module, seed=2)
    model.save_pretrained(tmp_path / "theirs")
    options = {} if by_base else {"problem_type": problem_type}
    if not by_base:
        path = tmp_path / "base" / "config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in settings.items() if "label" not in key}))
    adapter = jp.import_peft(tmp_path / "theirs", **options)
    np.testing.assert_allclose(logits(adapter, batch(kind)), theirs(model, batch(kind)), atol=1e-4, rtol=0)
    wanted = told(model, problem_type, names, adapter.backbone.tokenizer)
    assert_answers(adapter.predict(TEXTS), wanted, problem_type, names)


def carded(folder):
    """The model that the code in the card of an exported folder makes."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    space = {"FOLDER": str(folder)}
    exec(code, space)
    return space["model"]


NUMBERS = {"mean": [40.0, -3.0], "scale": [12.0, 0.5]}
OWN = {
    "regression": (jp.Regression(NO_ROWS, target=("a", "b"), max_length=10), NUMBERS, ("a", "b")),
    "multi_label_classification": (
        jp.MultiLabelClassification(NO_ROWS, max_length=10, thresholds=0.3),
        {"labels": ["x", "y", "z"]},
        ("x", "y", "z"),
    ),
}


METHODS = {kind: IA3() if kind == "gpt2" else PTuningV2(length=4) for kind in PREFIXED}


@pytest.mark.parametrize("problem_type", OWN)
@pytest.mark.parametrize("kind", PREFIXED)
def test_what_is_exported(kind, problem_type, tmp_path):
    """Opened by the code in the folder's own card."""
    decoder = kind not in ENCODERS
    drawn(kind, tmp_path / "base", whole=False)
    task, facts, names = OWN[problem_type]
    if decoder and problem_type == "regression":
        facts = {**facts, "mean": [0.0, 0.0]}
    options = {"pooling": "last", "bias": False} if decoder else {"pooling": "trained_pooler"}
    head = type(task.default_head())(**options)
    adapter = drawn_adapter(str(tmp_path / "base"), METHODS[kind], head, task, facts)
    jp.export_peft(adapter, tmp_path / "peft")
    model = carded(tmp_path / "peft")
    assert model.config.problem_type == problem_type
    assert tuple(model.config.id2label.values()) == names
    wanted = told(model, problem_type, names, adapter.backbone.tokenizer)
    assert_answers(adapter.predict(TEXTS), wanted, problem_type, names, threshold=0.3)
    again = jp.import_peft(tmp_path / "peft")
    assert_answers(again.predict(TEXTS), wanted, problem_type, names, threshold=0.3)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "peft").problem_type == problem_type
