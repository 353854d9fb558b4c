"""What was written at commit 0f4559f still opens, and answers as it did then."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.tasks.formats import FORMATS
from jaxprefix.data.store import Store
from jaxprefix.methods import METHODS
from jaxprefix.starts import STARTS
from jaxprefix.training.config import HEADS
from jaxprefix.typed_json import from_json
from tests.past import asking

LOGITS = np.load(asking.PAST / "logits.npz")
ANSWERS = json.loads((asking.PAST / "answers.json").read_text())

# One of each way in which leaves reach the model; the others are slow.
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
    assert found >= {*METHODS, *FORMATS, *STARTS, *HEADS, *HEADS.values()}


def test_the_checkpoint_of_a_run_midway_can_be_read(tmp_path):
    folder = shutil.copytree(asking.PAST / "midway", tmp_path / "midway")
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 3 and not (folder / "adapter").exists()
        info = checkpoints.read_info()
    assert from_json(info["run"], jp.Run).steps == 6 and info["labels"] == ["bad", "good"]


def test_the_entries_of_the_token_cache_can_be_read():
    entries = [Store(asking.PAST / "tokens").read(folder.name) for folder in (asking.PAST / "tokens").iterdir()]
    assert entries and all(entry is not None and "ids" in entry[0] for entry in entries)
