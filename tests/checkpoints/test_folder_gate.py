"""The gate of adapter folders: what is damaged, foreign or waits for ever is a sentence; links are kept."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import jaxprefix as jp
from jaxprefix.checkpoints.files import as_path
from jaxprefix.cli.main import main
from jaxprefix.errors import UserError
from jaxprefix.training.writers import JsonLines
from jaxprefix.tree_check import check_leaves, count_not_finite
from tests.cli.adapters import classifier, write_classifier

DESCRIPTION, TENSORS = "adapter.json", "adapter.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        yield write_classifier(folder / "adapter")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "adapter")


def put_tensors(folder, content):
    """Tensors with a digest that is right: what somebody wrote who knew how."""
    (folder / TENSORS).write_bytes(content)
    description = json.loads((folder / DESCRIPTION).read_text())
    description["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(description))


def describe(folder, **changes):
    (folder / DESCRIPTION).write_text(json.dumps({**json.loads((folder / DESCRIPTION).read_text()), **changes}))


def refusal(folder):
    with pytest.raises(UserError) as caught:
        jp.load_adapter(folder)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said
    return said


def changed(change):
    def apply(folder):
        leaves = load_file(folder / TENSORS)
        change(leaves)
        put_tensors(folder, save(leaves))

    return apply


def renamed(leaves):
    leaves["trainable/method/kees"] = leaves.pop("trainable/method/keys")


HEAD = "trainable/head/classifier/kernel"


def put(name, leaf):
    return lambda leaves: leaves.update({name: leaf})


def set_to(value, *rows):
    return lambda leaves: leaves[HEAD].__setitem__(rows, value)


LEAVES = {
    "another name": (renamed, ["method/keys is missing", "method/kees is not known"]),
    "another length": (put("trainable/method/keys", np.zeros((3, 5, 4, 4), np.float32)), ["method/keys has shape"]),
    "other labels": (put(HEAD, np.zeros((8, 3), np.float32)), ["classifier/kernel has shape [8, 3] and [8, 2]"]),
    "whole numbers": (put(HEAD, np.zeros((8, 2), np.int32)), ["is int32 and float32 is needed"]),
    "NaN": (set_to(np.nan, 0, 0), ["has 1 values in", "that are not finite"]),
    "infinity": (set_to(np.inf, slice(0, 2)), ["has 4 values in head/classifier/kernel"]),
}


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_are_compared_with_what_the_model_needs(folder, name):
    change, words = LEAVES[name]
    changed(change)(folder)
    said = refusal(folder)
    for word in words:
        assert word in said


DAMAGE = {
    "a leaf elsewhere": (
        lambda folder: put_tensors(folder, save({**load_file(folder / TENSORS), "other/leaf": np.ones(2)})),
        "outside 'trainable' and 'initialized' ('other')",
    ),
    "no safetensors": (lambda folder: put_tensors(folder, b"abc"), "it is no safetensors file"),
    "a long header": (lambda folder: put_tensors(folder, b"\xff" * 8 + b"{}"), "it is no safetensors file"),
    "deep": (lambda folder: (folder / DESCRIPTION).write_text("[" * 100_000), "nested too deep"),
    "deep metrics": (lambda folder: (folder / "metrics.json").write_text('{"a":' * 100_000), "nested too deep"),
    "no UTF-8": (lambda folder: (folder / "metrics.json").write_bytes(b'{"a\xff": 1}'), "metrics.json"),
    "metrics": (lambda folder: (folder / "metrics.json").write_text("[]"), "metrics is no table"),
    "backbone": (lambda folder: describe(folder, backbone="x"), "backbone is no table"),
    "facts": (lambda folder: describe(folder, facts=[1]), "facts"),
    "format": (lambda folder: describe(folder, format="2"), "TypeError"),
    "empty": (lambda folder: describe(folder, empty=[3]), "3 is no text"),
    "data": (lambda folder: describe(folder, data=[1]), "data is no table"),
    "config": (lambda folder: describe(folder, config=[1]), ""),
    "labels": (lambda folder: describe(folder, labels=3), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_a_sentence(folder, name):
    damage, words = DAMAGE[name]
    damage(folder)
    assert words in refusal(folder)


@pytest.mark.parametrize("name", [DESCRIPTION, TENSORS, "metrics.json", "README.md", "other"])
def test_a_fifo_is_not_opened(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name} in {folder} is no file" in refusal(folder)
    with pytest.raises(UserError):
        classifier().save(folder)


def test_a_link_is_followed_and_kept(made, tmp_path):
    place = tmp_path / "far" / "place"
    place.parent.mkdir()
    link = tmp_path / "adapter"
    link.symlink_to(place, target_is_directory=True)  # to nothing yet
    adapter = jp.load_adapter(made)
    for _ in range(2):
        adapter.save(link)
        assert link.is_symlink() and (place / DESCRIPTION).is_file()
        assert jp.load_adapter(link).labels == adapter.labels
        assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "far"]
        assert [path.name for path in place.parent.iterdir()] == ["place"]


def test_one_byte_that_is_not_utf8_does_not_keep_a_run_from_its_metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}).encode() for step in (1, 2, 3)]
    file.write_bytes(
        b"\n".join([lines[0], b'{"step": 2, "lo\xffss": 1}', lines[1], b"[" * 99_999, b"3", b"null", lines[2], b'{"st'])
    )
    writer = JsonLines(file, 2)
    writer.scalars(3, {"loss": 2.0})
    writer.close()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 2.0}
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_values_that_are_not_finite_are_counted(dtype):
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = np.random.default_rng(0).standard_normal((40, 7)).astype(dtype)
    for place in (array, array.T, array[:, ::2], array.reshape(-1)[:0]):
        assert count_not_finite(place) == 0
    array[3, 0], array[4, 2], array[5, 4] = np.nan, np.inf, -np.inf
    for place in (array, array.T, array[:, ::2]):
        assert count_not_finite(place) == 3
    assert count_not_finite(np.arange(4)) == count_not_finite(np.array([True])) == 0
    check_leaves("x", {"a": np.ones(2)}, {"a": np.ones(2, np.float32)}, "y")


def test_a_bucket_without_its_library_names_the_extra(made, tmp_path, monkeypatch):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "gcsfs" else find(name, *more))
    with pytest.raises(
        UserError, match=r"gs://bucket/x lies in a bucket, which needs gcsfs; run `pip install -e '.\[gcs\]'`"
    ):
        as_path("gs://bucket/x")
    assert main(["predict", "gs://bucket/x", "tea"]) == 2
    with pytest.raises(UserError, match="foo://"):
        as_path("foo://bucket/x")
