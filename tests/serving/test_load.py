"""Adapter folders as one callable: texts in, each with the labels of its own adapter out."""

import json

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.cli import main as cli
from jaxprefix.distributed.mesh import make_mesh
from jaxprefix.errors import UserError
from jaxprefix.serving.bank import bank_forward
from jaxprefix.training.setup import read_run_backbone
from tests.methods.test_matrix import shaken
from tests.training.worlds import make_world

TEXTS = ["the good cat", "a bad dog ran on the mat in paris and london visited alice far away", "kind", "it was dark"]
LABELS = {"mood": ("bad", "good"), "topic": ("art", "law", "sport"), "pair": ("no", "yes")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        yield make_world(folder)


def adapter(run, labels, seed):
    found = read_run_backbone(run, make_mesh(jp.MeshShape(data=1), jax.devices()[:1]))
    model = jp.TunedModel(found.module, run.method, run.resolve_head(len(labels)))
    trainable, frozen = model.init(jax.random.key(seed), found.tree)
    return jp.Adapter(model, shaken(trainable, seed), frozen, found, run, {"labels": list(labels)}, {})


@pytest.fixture(scope="module")
def folders(world):
    """Adapters of three tasks with columns, lengths and labels of their own, as runs leave them."""
    pair = jp.Classification(world.source, text="first", text_pair="second", max_length=24)
    runs = {
        "mood": world.run("unused"),
        "topic": world.run("unused", method=jp.LoRA(rank=2), task=jp.Classification(world.source, max_length=12)),
        "pair": world.run("unused", method=jp.AdaptivePrefix(length=2), task=pair),
    }
    return {
        name: adapter(run, LABELS[name], seed).save(world.folder / name / "adapter")
        for seed, (name, run) in enumerate(runs.items())
    }


def mixed():
    rows, names = [], []
    for index, text in enumerate(TEXTS):
        rows += [text, {"first": text, "second": TEXTS[index - 1]}, text]
        names += ["topic", "pair", "mood"]
    return rows, names


def assert_as_alone(found, rows, names, folders):
    for name in set(names):
        own = [index for index, other in enumerate(names) if other == name]
        alone = jp.load_adapter(folders[name]).predict([rows[index] for index in own])
        for index, expected in zip(own, alone, strict=True):
            assert found[index]["label"] == expected["label"] and list(found[index]["scores"]) == list(LABELS[name])
            np.testing.assert_allclose(
                list(found[index]["scores"].values()), list(expected["scores"].values()), atol=1e-5
            )


def test_each_row_gets_the_labels_of_its_adapter(folders):
    bank = jp.load_adapters(list(folders.values()))
    assert bank.names == tuple(folders)  # those of the runs' folders
    assert all(member.adapter.backbone is bank.backbone for member in bank._state.members.values())
    rows, names = mixed()
    found = bank(rows, names, batch_size=8)
    assert_as_alone(found, rows, names, folders)
    before = bank_forward._cache_size()
    again = bank(rows[:7], names[:7], batch_size=8)  # fewer rows, the same program
    assert [row["label"] for row in again] == [row["label"] for row in found[:7]]
    bank.replace("mood", folders["topic"])
    assert bank(rows[:8], names[:8])[2]["label"] in LABELS["topic"]
    assert bank_forward._cache_size() == before
    assert bank([], []) == []


def test_words_get_the_tags_of_their_adapter(world):
    adapters = {
        "names": adapter(world.run("unused", task=world.tagging()), ("O", "B-NAME"), 1),
        "colours": adapter(world.run("unused", task=world.tagging(), method=jp.HeadOnly()), ("O", "B", "I"), 2),
    }
    bank = jp.Bank(adapters)
    rows = ["the cat saw alice", {"tokens": ["london", "is", "far"]}, "bob ran"]
    names = ["names", "colours", "names"]
    found = bank(rows, names)
    for row, name, one in zip(rows, names, found, strict=True):
        assert one == adapters[name].predict([row])[0]


def test_the_command_line_takes_further_adapters(folders, capsys):
    rows = [{"adapter": str(folders["mood"]), "text": "a good dog"}]
    rows += [{"adapter": str(folders["pair"]), "first": "the cat", "second": "the mat"}]
    args = ["predict", "--beside", str(folders["pair"]), str(folders["mood"]), *map(json.dumps, rows)]
    assert cli.main(args) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(one["scores"]) for one in found] == [LABELS["mood"], LABELS["pair"]]
    assert cli.main([*args, "a text"]) == 2
    assert "the row 'a text' names no adapter; give it the field 'adapter'." in capsys.readouterr().err


def test_names_are_given_once_and_rows_fit_their_task(folders, world):
    with pytest.raises(UserError, match=r"would both be named 'mood'; give a dict of names and folders"):
        jp.load_adapters([folders["mood"], folders["mood"]])
    bank = jp.load_adapters({"first": folders["mood"], "second": folders["pair"]})
    assert bank.names == ("first", "second")
    with pytest.raises(UserError, match=r"of the rows for the adapter 'second': Text 0 is one string"):
        bank(["a text", "another"], ["first", "second"])


def test_another_backbone_is_named(folders, world):
    other = adapter(world.run("unused", backbone=world.roberta), LABELS["mood"], 1).save(world.folder / "other")
    with pytest.raises(UserError, match=rf"{world.folder / 'other'} was trained on .*roberta, and .*bert holds other"):
        jp.load_adapters([folders["mood"], other])
