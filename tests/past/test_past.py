"""Adapters that were written at commit 0f4559f open and answer as they did then; checkpoints of the past name their
version."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.checkpoints import adapter, records
from jaxprefix.errors import UserError
from jaxprefix.hf.sources import read_tokenizer
from jaxprefix.methods import METHODS
from jaxprefix.renamed import upgraded_path
from jaxprefix.starts import STARTS
from jaxprefix.tasks import prepare
from jaxprefix.tasks.formats import FORMATS
from tests.past import asking

LOGITS = np.load(asking.PAST / "logits.npz")
ANSWERS = json.loads((asking.PAST / "answers.json").read_text())

# One of each way in which leaves reach the model; the others are slow.
LATER = ("IA3", "At")  # methods that were added since
THEN_ASKED = (
    *(jp.Classification, jp.Tagging, jp.MaskedLanguage, jp.CausalLanguage, jp.ConditionalGeneration),
    *(jp.SequenceClassifier, jp.TokenClassifier, jp.MaskedLM, jp.CausalLM),
)
QUICK = ("adaptive_prefix", "bit_fit", "inducer", "lora", "parallel_adapter", "pooler_born", "prefix_tuning")


@pytest.fixture(scope="module")
def backbones():
    """Backbones that were read already, shared by the adapters on them."""
    return {}


@pytest.fixture
def past(tmp_path, monkeypatch):
    """The folder from which configs name backbones and data; nothing is written there."""
    monkeypatch.chdir(asking.PAST)
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def close(found, expected):
    """Whether answers are equal: numbers to 1e-5, all else exactly."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == (pytest.approx(expected, rel=1e-5, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("name", asking.names())
def test_an_adapter_of_the_past_opens_with_the_leaves_that_its_config_makes_today(name, past, backbones):
    adapter = asking.open_adapter(name, backbones)
    assert asking.leaves_of(adapter) == asking.leaves_made_today(adapter)


def compare_logits(adapter, expected):
    with jax.disable_jit():  # operation by operation: most of them are compiled already for another adapter
        found = asking.logits_of(adapter)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", QUICK)
def test_an_adapter_of_each_sort_gives_the_logits_of_the_past(name, past, backbones):
    compare_logits(asking.open_adapter(name, backbones), LOGITS[name])


def test_the_labels_and_scores_are_those_of_the_past(past, backbones):
    adapter = asking.open_adapter("p_tuning_v2", backbones)
    assert close(asking.answers_of(adapter), ANSWERS["p_tuning_v2"])


@pytest.mark.slow
@pytest.mark.parametrize("name", asking.names())
def test_every_adapter_of_the_past_answers_as_it_did(name, past, backbones):
    adapter = asking.open_adapter(name, backbones)
    compare_logits(adapter, LOGITS[name])
    assert close(asking.answers_of(adapter), ANSWERS[name])


def test_every_adapter_has_its_expected_outputs():
    assert set(asking.names()) == set(LOGITS) == set(ANSWERS)


def test_there_is_an_adapter_of_every_method_task_head_format_and_start():
    def classes(value):
        if dataclasses.is_dataclass(value):
            yield type(value)
            value = [getattr(value, field.name) for field in dataclasses.fields(value)]
        for item in value if isinstance(value, list | tuple) else ():
            yield from classes(item)

    found = {cls for name in asking.names() for cls in classes(asking.run_of(name))}
    then = {cls for cls in METHODS if cls.__name__ not in LATER}
    assert found >= {*then, *FORMATS, *STARTS, *THEN_ASKED}


MIDWAY = {
    "midway": r"has format 1 of jaxprefix 0\.1\.0; finish the run with that version",
    "midway_2": r"has format 2 of jaxprefix 0\.2\.0 before its release \(commit aebc939 or earlier\); finish the run",
}


@pytest.mark.parametrize("name", MIDWAY)
@pytest.mark.parametrize("start", [jp.train, lambda run: jp.train_population(run, [{"seed": 1}, {"seed": 2}])])
def test_the_checkpoint_of_a_run_midway_names_the_version_that_finishes_it(start, name, past, tmp_path):
    folder = shutil.copytree(asking.PAST / name, tmp_path / "midway")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = dataclasses.replace(asking.run_of("p_tuning_v2"), folder=str(folder))
    with pytest.raises(UserError, match=MIDWAY[name]):
        start(run)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_entry_of_the_token_cache_is_made_anew(past, tmp_path):
    run, folder = asking.run_of("p_tuning_v2"), tmp_path / "tokens"
    before = {entry.name for entry in shutil.copytree(asking.PAST / "tokens", folder).iterdir()}
    examples = prepare(run.task, read_tokenizer(run.backbone), "train", folder=folder)
    assert len(examples) > 0 and {entry.name for entry in folder.iterdir()} > before


def test_an_older_version_is_told_to_upgrade(tmp_path):
    """What 0.1.0 compares with its own number is the first thing that it reads of a folder."""
    assert records.FORMAT > 1 and adapter.FORMAT > 1


def test_numbered_parts_of_sums_are_renamed_like_the_first():
    assert upgraded_path("trainable/method/new_words_2/words", 1) == "trainable/method/new_tokens_2/words"
    assert upgraded_path("born/pooler/kernel", 1) == "initialized/pooler/kernel"
    assert upgraded_path("trainable/method/new_words_x/born", 2) == "trainable/method/new_words_x/born"
