"""The token cache: found again, never mistaken for other data, whole or absent whatever happens to its writer."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxprefix.data import Files
from jaxprefix.data.store import Store
from jaxprefix.errors import UserError
from jaxprefix.tasks import Classification, MaskedLanguage, prepare
from jaxprefix.tasks import prepare as prepare_function
from tests.data.conftest import write_rows

ROOT = Path(__file__).parents[2]
FIELDS = ("ids", "token_type_ids", "offsets")


@pytest.fixture
def task(tmp_path, rows_of_text):
    return Classification(Files(*(write_rows(tmp_path / f"{split}.jsonl", rows_of_text) for split in ("one", "two"))))


@pytest.fixture
def encodings(monkeypatch):
    """Counts how often rows are tokenised."""
    module = sys.modules[prepare_function.__module__]
    calls, encode = [], module._arrays
    monkeypatch.setattr(module, "_arrays", lambda *arguments: calls.append(1) or encode(*arguments))
    return calls


def same(one, other):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.targets["labels"].values, other.targets["labels"].values)


def test_rows_are_tokenised_once(task, tokenizer, encodings):
    first, second = prepare(task, tokenizer), prepare(task, tokenizer)
    same(first, second)
    assert len(encodings) == 1 and second.labels == first.labels and second.vocabulary == first.vocabulary
    assert not second.ids.flags.writeable  # memory-mapped
    tokenizer(["a cat"], truncation=True, max_length=2, padding=True)  # leaves its settings in the tokenizer
    prepare(task, tokenizer)
    prepare(replace(task, metric="f1_macro"), tokenizer)
    prepare(task, tokenizer, "validation")  # equal content, hence equal tokens
    assert len(encodings) == 1


def test_the_key_holds_whatever_changes_the_arrays(task, tokenizer, encodings, rows_of_text, tmp_path):
    prepare(task, tokenizer)
    variants = [
        replace(task, max_length=9),
        replace(task, template="{text} {text}"),
        replace(task, labels=("yes", "no")),
        replace(task, text="label", label="text"),
        replace(task, text_pair="text"),
        MaskedLanguage(task.source),
    ]
    for count, variant in enumerate(variants, start=2):
        prepare(variant, tokenizer)
        assert len(encodings) == count
    prepare(MaskedLanguage(task.source, mask_rate=0.4, focus=("cat",), focus_rate=0.9), tokenizer)
    assert len(encodings) == 7
    for _ in range(2):
        prepare(task, tokenizer, facts={"labels": ["yes", "no"]})
    assert len(encodings) == 8
    rows_of_text[3]["text"] += " cat"
    write_rows(tmp_path / "one.jsonl", rows_of_text)
    assert prepare(task, tokenizer).row(3)["ids"].tolist() == tokenizer(rows_of_text[3]["text"])["input_ids"]
    assert len(encodings) == 9


def test_another_tokenizer_has_another_key(task, tokenizer, encodings):
    prepare(task, tokenizer)
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = description["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    swapped = type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(description)), pad_token="[PAD]")
    prepare(task, swapped)
    assert len(encodings) == 2


def test_label_names_of_the_training_rows_are_part_of_the_key(tokenizer, tmp_path):
    rows = [{"text": "a", "label": label} for label in "bc"]
    validation = write_rows(tmp_path / "validation.jsonl", rows)
    numbered = {}
    for label in "az":
        train = write_rows(tmp_path / f"{label}.jsonl", [*rows, {"text": "a", "label": label}])
        numbered[label] = (
            prepare(Classification(Files(train, validation)), tokenizer, "validation").targets["labels"].values.tolist()
        )
    assert numbered == {"a": [1, 2], "z": [0, 1]}


@pytest.mark.parametrize("name", ["ids.npy", "target.labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_entries_are_made_again(task, tokenizer, encodings, cache, name, damage):
    good = [np.array(getattr(prepare(task, tokenizer), field)) for field in FIELDS]
    (file,) = cache.rglob(name)
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    for _ in range(2):
        again = prepare(task, tokenizer)
        for field, array in zip(FIELDS, good, strict=True):
            np.testing.assert_array_equal(getattr(again, field), array)
    assert len(encodings) == 2 and len(list((cache / "tokens").iterdir())) == 1


def test_an_unwritable_cache_folder_is_named(task, tokenizer, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cache folder .*tokens cannot be written .* JAXPREFIX_CACHE"):
        prepare(task, tokenizer)


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch):
    store = Store(cache)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"No space left on device"):
        store.write("key", {"a": np.arange(3)}, {})
    assert list(cache.iterdir()) == [] and store.read("key") is None


def test_of_two_writers_the_first_stands(cache):
    store = Store(cache)
    store.write("key", {"a": np.arange(3)}, {"writer": 1})
    store.write("key", {"a": np.arange(3)}, {"writer": 2})
    arrays, about = store.read("key")
    assert about == {"writer": 1} and arrays["a"].tolist() == [0, 1, 2]
    assert [path.name for path in cache.iterdir()] == ["key"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from jaxprefix.data.store import Store

at, calls, kill = int(sys.argv[2]), 0, lambda: os.kill(os.getpid(), signal.SIGKILL)

def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at:  # half of what the call would have done, then the kill
            if function is np.save:
                arguments[0].write(b"half"); arguments[0].flush()
            kill()
        return function(*arguments, **options)
    return call

np.save, os.fsync, Path.rename = counted(np.save), counted(os.fsync), counted(Path.rename)
Store(Path(sys.argv[1])).write("key", {"ids": np.arange(5), "labels": np.arange(2)}, {"by": "first"})
print(calls)
"""


def run_killed(folder, at):
    command = [sys.executable, "-c", KILLED, str(folder), str(at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_a_writer_killed_at_any_moment_leaves_all_or_nothing(tmp_path):
    whole = run_killed(tmp_path / "whole", 0)
    moments = int(whole.stdout)
    assert moments == 8  # two arrays, meta.json and two folders flushed, two arrays saved, one rename
    for at in range(1, moments + 1):
        folder = tmp_path / str(at)
        killed = run_killed(folder, at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        store = Store(folder)
        found = store.read("key")
        assert (found is not None) == (at == moments)  # the last moment is after the rename
        store.write("key", {"ids": np.arange(5), "labels": np.arange(2)}, {"by": "second"})
        arrays, about = store.read("key")
        assert about == {"by": "first" if at == moments else "second"}
        assert arrays["ids"].tolist() == [0, 1, 2, 3, 4] and arrays["labels"].tolist() == [0, 1]
        assert [path.name for path in folder.iterdir()] == ["key"]  # what the killed writer left has been swept


PREPARING = """
import sys
from tests.data.test_token_cache import slow_prepare
slow_prepare(*sys.argv[1:])
"""


def slow_prepare(tokenizer_file, rows):
    """Runs in a process of its own: writes as `prepare` does, but stands still after the second array."""
    from transformers import PreTrainedTokenizerFast

    save, saved = np.save, []

    def slow(file, array):
        save(file, array)
        saved.append(1)
        if len(saved) == 2:
            print("writing", flush=True)
            time.sleep(120)

    np.save = slow
    prepare(Classification(Files(rows)), PreTrainedTokenizerFast(tokenizer_file=tokenizer_file, pad_token="[PAD]"))


def test_a_killed_preparation_is_done_again_rightly(task, tokenizer, tmp_path, cache, rows_of_text):
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-c", PREPARING, str(tmp_path / "tokenizer.json"), task.source.train]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(list((cache / "tokens").iterdir())) == 1
        process.kill()
    examples = prepare(task, tokenizer)
    for index, row in enumerate(rows_of_text):
        assert examples.row(index)["ids"].tolist() == tokenizer(row["text"])["input_ids"]
