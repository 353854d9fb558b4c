"""Shards read from the files are the shards of the whole leaf, and cost no more than their own bytes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxprefix.errors import UserError
from jaxprefix.hf import safetensors_files
from jaxprefix.hf.safetensors_files import PAGE, TensorFiles
from jaxprefix.hf.shards import read_shard
from jaxprefix.models.leaves import Leaf
from tests.models import decoder_folders, folders

ROOT = Path(__file__).parents[2]
EIGHT = {"V": 16, "D": 8, "L": 2, "N": 8}  # sizes that divide among eight devices
FAMILIES = {
    "bert": (folders, lambda: folders.model(prefix="bert.", mlm=True, untied=True), lambda: folders.config()),
    "gpt2": (decoder_folders, lambda: decoder_folders.model("gpt2"), lambda: decoder_folders.config("gpt2")),
    "llama": (decoder_folders, lambda: decoder_folders.model("llama"), lambda: decoder_folders.config("llama")),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def family_folder(path, family, monkeypatch):
    module, model, settings = FAMILIES[family]
    inner = {"F": 16} if module is folders else {}
    for name, size in {**EIGHT, **inner}.items():
        monkeypatch.setattr(module, name, size)
    return folders.write(path, model()[0], settings())


def start(module, *arguments, **changes):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **changes}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT)


def finished(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("bert", "float32"), ("gpt2", "float32"), ("llama", "bfloat16")])
def test_every_sharding_gives_the_whole(tmp_path, monkeypatch, cache, family, dtype):
    folder = family_folder(tmp_path / "m", family, monkeypatch)
    finished(start("tests.models.shards_on_devices", folder, dtype, cache))


def together(folders_of, caches, quantize=""):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [
        start("tests.models.loading_processes", port, i, len(folders_of), folder, quantize, JAXPREFIX_CACHE=str(cache))
        for i, (folder, cache) in enumerate(zip(folders_of, caches, strict=True))
    ]
    answers = [finished(process).splitlines() for process in running]  # among what the collectives' library says
    return [json.loads(next(line for line in lines if line.startswith("{"))) for lines in answers]


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["", "int8"])
def test_two_processes_share_reading_and_hashing(tmp_path, monkeypatch, quantize):
    # process 0 has a cache of its own, in which its first load left every fingerprint; later that is gone
    folder = family_folder(tmp_path / "m", "bert", monkeypatch)
    caches = tmp_path / "one", tmp_path / "two"
    warm = together([folder, folder], caches, quantize)
    assert [one["hashed"] for one in warm] == [[], []]  # what one process knows counts for all
    names = list(warm[0]["fingerprint"])
    assert len(names) == len(folders.model(prefix="bert.", mlm=True, untied=True)[0])
    for first in warm:
        assert {**first, "hashed": 0} == {**warm[0], "hashed": 0} and first["share"] == 0.5


@pytest.mark.slow
def test_processes_without_a_cache_hash_a_share_each(tmp_path, monkeypatch):
    folder = family_folder(tmp_path / "m", "bert", monkeypatch)
    blocked = tmp_path / "file"
    blocked.write_text("")
    one, two = together([folder, folder], [blocked / "cache"] * 2)
    names = sorted(one["fingerprint"])
    assert one["fingerprint"] == two["fingerprint"] and one["paths"] == two["paths"]
    assert sorted(one["hashed"]) == names[::2] and sorted(two["hashed"]) == names[1::2]


@pytest.mark.slow
def test_processes_with_other_files_are_told(tmp_path, monkeypatch):
    first = family_folder(tmp_path / "a", "bert", monkeypatch)
    tensors, _ = folders.model(prefix="bert.", mlm=True)
    second = folders.write(tmp_path / "b", tensors, folders.config())
    said = together([first, second], [tmp_path / "one", tmp_path / "two"])
    assert all("process 1 reads another" in one["error"] and "same files" in one["error"] for one in said)


def wide_folder(tmp_path, rows, columns, layers=2):
    random = np.random.default_rng(0)
    tensors = {f"x.{layer}": random.standard_normal((rows, columns), np.float32) for layer in range(layers)}
    return TensorFiles(folders.write(tmp_path / "m", tensors, {})), tensors


@pytest.fixture
def counted(monkeypatch):
    """Bytes that were read in pieces."""
    sizes, fill = [], safetensors_files._fill
    monkeypatch.setattr(
        safetensors_files,
        "_fill",
        lambda file, raw, start, path: (sizes.append(raw.size), fill(file, raw, start, path)),
    )
    return sizes


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("block", "rest"),
    [
        (((0, 300), (0, 2048)), 0),  # everything but the first layer
        (((30, 50), (0, 2048)), 0),  # rows
        (((0, 300), (512, 1024)), 0),  # columns: rows have more than a page beside them
        (((7, 8), (3, 5)), 0),  # one row
        (((0, 300), (100, 2000)), 2048 * 4 - 1900 * 4),  # less than a page beside them
        (((5, 5), (0, 2048)), 0),
    ],
)
def test_a_shard_reads_its_own_bytes(tmp_path, counted, transposed, block, rest):
    files, tensors = wide_folder(tmp_path, 300, 2048)
    own = block[::-1] if transposed else block
    leaf = Leaf("x", (), (2048, 300) if transposed else (300, 2048), stacked=True, transposed=transposed)
    if block == ((0, 300), (0, 2048)):
        own = tuple((0, size - 1) for size in leaf.shape)  # almost whole, so that it is read in pieces
        block = own[::-1] if transposed else own
        rest = 4
    names = sorted(tensors)
    found = read_shard(leaf, names, files, np.float32, ((1, 2), *own))
    index = tuple(slice(*part) for part in block)
    expected = tensors["x.1"][index]
    np.testing.assert_array_equal(found[0], expected.T if transposed else expected)
    rows = block[0][1] - block[0][0]
    assert sum(counted) == found.nbytes + rows * rest and rest < PAGE


def test_pieces_are_bounded(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(safetensors_files, "CHUNK", 2**14)
    files, tensors = wide_folder(tmp_path, 300, 1000)
    out = np.empty((299, 999), np.float32)
    files.read_block("x.0", ((1, 300), (1, 1000)), out)
    np.testing.assert_array_equal(out, tensors["x.0"][1:, 1:])
    files.fingerprints(["x.0"])
    assert max(counted) <= 2**14 and len(counted) > 100


def test_a_part_of_a_fused_tensor(tmp_path, counted):
    files, tensors = wide_folder(tmp_path, 64, 6144)
    leaf = Leaf("q", (), (64, 2048), stacked=True, part=(2048, 4096), whole=6144)
    found = read_shard(leaf, ["x.0", "x.1"], files, np.float32, ((0, 2), (0, 64), (1024, 2048)))
    np.testing.assert_array_equal(found, np.stack([tensors[name][:, 3072:4096] for name in ("x.0", "x.1")]))
    assert sum(counted) == found.nbytes


def test_files_that_become_shorter_or_hold_integers(tmp_path):
    files, _ = wide_folder(tmp_path, 10, 10)
    place = files.places["x.1"]
    out = np.empty((9, 9), np.float32)
    os.truncate(place.file, place.start + 20)
    for read in (lambda: files.read_block("x.1", ((1, 10), (1, 10)), out), lambda: files.fingerprints(["x.1"])):
        with pytest.raises(UserError, match=r"model\.safetensors is damaged: it became shorter.*copy or download"):
            read()
    place.file.unlink()
    with pytest.raises(UserError, match=r"cannot read .*model\.safetensors \(No such file"):
        files.read_block("x.0", ((1, 10), (1, 10)), out)
    files = TensorFiles(folders.write(tmp_path / "i", {"x": np.zeros((4, 4), np.int8)}, {}))
    with pytest.raises(UserError, match="holds x as I8"):
        files.read_block("x", ((1, 2), (1, 2)), out)
