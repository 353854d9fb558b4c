"""The token cache: no flipped bit is read as other examples; a damaged entry is made anew, and that is said."""

import json
import logging
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprefix.data.store import Store

ARRAYS = {"ids": np.arange(40, dtype=np.int32), "offsets": np.array([0, 10, 40])}
ABOUT = {"facts": {"labels": ["no", "yes"]}, "vocabulary": {"size": 60}}


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path)
    found.write("key", ARRAYS, ABOUT)
    return found


def same(read):
    arrays, about = read
    return about == ABOUT and all((arrays[name] == ARRAYS[name]).all() for name in ARRAYS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_flipped_bit_is_found(store, data):
    if store.read("key") is None:
        store.write("key", ARRAYS, ABOUT)
    file = store.folder / "key" / data.draw(st.sampled_from(["ids.npy", "offsets.npy", "meta.json"]))
    content = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    found = store.read("key")
    # a bit of meta.json's own white space or of a letter's case in an escape changes nothing that is read
    assert found is None or (file.name == "meta.json" and same(found))
    store.write("key", ARRAYS, ABOUT)
    assert same(store.read("key"))


def test_damage_is_said_and_absence_is_not(store, caplog):
    with caplog.at_level(logging.WARNING, "jaxprefix"):
        assert store.read("other") is None and not caplog.messages
        (store.folder / "key" / "ids.npy").write_bytes(b"")
        assert store.read("key") is None
    (said,) = caplog.messages
    assert "token cache is damaged (ids.npy does not match its digest); it is made anew" in said


def test_what_no_read_would_come_back_from_is_damage(store):
    file = store.folder / "key" / "ids.npy"
    file.unlink()
    os.mkfifo(file)
    assert store.read("key") is None
    file = store.folder / "key" / "meta.json"
    file.unlink()
    os.mkfifo(file)
    assert store.read("key") is None


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '{"sha256": 1}', "[" * 100_000, '{"sha256": "", "meta": {"arrays": 3}}']
)
def test_a_description_that_is_none(store, text):
    (store.folder / "key" / "meta.json").write_text(text)
    assert store.read("key") is None


def test_an_entry_of_a_version_without_digests_is_made_anew_without_a_word(store, caplog):
    meta = json.loads((store.folder / "key" / "meta.json").read_text())["meta"]
    (store.folder / "key" / "meta.json").write_text(json.dumps(meta))
    assert store.read("key") is None and not caplog.messages
    store.write("key", ARRAYS, ABOUT)
    assert same(store.read("key"))
