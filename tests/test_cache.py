"""The cache folder, and writes that are whole or not there at all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprefix.paths import cache_folder, write_atomically


def test_the_folder_is_the_variables_or_the_homes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAXPREFIX_CACHE", "~/here")
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("JAXPREFIX_CACHE")
    assert cache_folder() == Path(tmp_path) / ".cache" / "jaxprefix"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_alone(monkeypatch, tmp_path, step):
    path = tmp_path / "new" / "entry.json"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "entry.json"
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    beside = [f".entry.json.{socket.gethostname()}.{number}.abc" for number in (ended.pid, os.getpid())]
    others = [f".other.json.{socket.gethostname()}.{ended.pid}.abc", f".entry.json.elsewhere.{ended.pid}.abc"]
    for name in (*beside, *others):
        (tmp_path / name).write_text("half")
    write_atomically(path, b"new")
    assert {found.name for found in tmp_path.iterdir()} == {"entry.json", beside[1], *others}
