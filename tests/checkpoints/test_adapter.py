"""Adapter folders: the same bits back, the old one or the new one at every moment, clear words for what is wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from killed_exporter import export

from jaxprefix.checkpoints import files
from jaxprefix.checkpoints.adapter import read_adapter, write_adapter
from jaxprefix.errors import UserError

ROOT = Path(__file__).parents[2]
EXPORTER = Path(__file__).with_name("killed_exporter.py")
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
FILES = ["README.md", "adapter.json", "adapter.safetensors", "metrics.json"]

LEAVES = {
    "trainable": {
        "prefix": {"keys": jnp.linspace(-1, 1, 24).reshape(2, 3, 4), "half": jnp.arange(5, dtype=jnp.bfloat16) / 3},
        "head": {},
        "nothing": jnp.zeros((2, 0, 3)),
        "scalar": jnp.float32(0.1),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    },
    "initialized": {"rows": jnp.array([jnp.nan, -0.0]), "ids": np.arange(3), "mask": np.array([True, False])},
}
CONFIG = {
    "type": "Run",
    "method": {"type": "PTuningV2", "length": 16, "layers": {"type": "tuple", "items": [0, 1]}, "note": "a|b"},
    "data": {"type": "Files", "train": "train.jsonl"},
}
BACKBONE = {"name": "tiny-encoder", "architecture": "bert", "fingerprint": "abc", "parameters": 1_000_000}


def write(folder: Path, **changes: Any) -> None:
    kwargs = {"leaves": LEAVES, "config_json": json.dumps(CONFIG), "backbone": BACKBONE}
    write_adapter(
        folder,
        **{
            **kwargs,
            "metrics": {"accuracy": np.float32(0.5), "steps": 7},
            "facts": {"labels": ["no", "yes"], "scale": [2.0]},
            **changes,
        },
    )


def test_round_trip_to_the_bit(tmp_path: Path):
    write(tmp_path / "new" / "adapter")
    back = read_adapter(tmp_path / "new" / "adapter")
    assert sorted(path.name for path in (tmp_path / "new" / "adapter").iterdir()) == FILES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["adapter"]
    tree = {"trainable": back.trainable, "initialized": back.initialized}
    assert jax.tree.structure(tree) == jax.tree.structure(LEAVES)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(LEAVES), strict=True):
        b = np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    assert back.trainable["prefix"]["half"].dtype == ml_dtypes.bfloat16
    assert json.loads(back.config_json) == CONFIG
    assert (back.backbone, back.metrics) == (BACKBONE, {"accuracy": 0.5, "steps": 7})
    assert back.facts == {"labels": ["no", "yes"], "scale": [2.0]}


def test_born_may_be_absent(tmp_path: Path):
    write(tmp_path / "a", leaves={"trainable": {"x": np.ones(2)}}, facts={})
    back = read_adapter(tmp_path / "a")
    assert back.initialized == {}
    assert back.facts == {}


@pytest.mark.parametrize(
    "leaves", [{"frozen": {}}, {"trainable": {"a/b": np.ones(1)}}, {"trainable": {"": np.ones(1)}}]
)
def test_trees_that_could_not_come_back_are_refused(tmp_path: Path, leaves: Any):
    with pytest.raises(ValueError, match="trainable"):
        write(tmp_path / "a", leaves=leaves)
    assert not list(tmp_path.iterdir())


def test_the_card_names_what_matters(tmp_path: Path):
    write(tmp_path / "my-adapter")
    card = (tmp_path / "my-adapter" / "README.md").read_text()
    trained = 24 + 5 + 1 + 6
    for words in [
        "# my-adapter",
        "`tiny-encoder`, tuned with PTuningV2",
        f"Trained parameters: {trained}, 0.0036 % of the backbone's 1,000,000",
        "| type | PTuningV2 |",
        "| length | 16 |",
        "| layers | [0, 1] |",
        r"| note | a\|b |",
        "| data.train | train.jsonl |",
        "| accuracy | 0.5 |",
        "`no`, `yes`",
        "jp.load_adapter('my-adapter')",
    ]:
        assert words in card, (words, card)


@pytest.mark.parametrize("exchange", [True, False])
def test_an_older_adapter_is_replaced_and_other_files_stay(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    folder = tmp_path / "a"
    for turn in range(3):
        export(folder, turn)
        if turn == 0:
            (folder / "notes").mkdir()
            (folder / "notes" / "mine.txt").write_text("mine")
        assert read_adapter(folder).metrics == {"turn": turn}
    assert (folder / "notes" / "mine.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_else_is_ever_replaced(tmp_path: Path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("x")
    for name in ("home", "file"):
        with pytest.raises(UserError, match="is not an adapter folder; choose another place"):
            write(tmp_path / name)
    with pytest.raises(UserError, match=r"could not be written to .*file/a \(Not a directory\)"):
        write(tmp_path / "file" / "a")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home"]


LIMITED = """
import resource, sys
from killed_exporter import export
from jaxprefix.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    export(sys.argv[1], 1)
except UserError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_adapter(tmp_path: Path):
    export(tmp_path / "a", 0)
    env = {**ENV, "PYTHONPATH": f"{ROOT}:{EXPORTER.parent}"}
    child = subprocess.run([sys.executable, "-c", LIMITED, tmp_path / "a"], env=env, capture_output=True, text=True)
    assert "could not be written" in child.stdout, child
    assert "(File too large)" in child.stdout
    assert read_adapter(tmp_path / "a").metrics == {"turn": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "adapter.json").unlink(), ["not an adapter folder", "no adapter.json"]),
        (lambda f: (f / "adapter.json").write_text('{"format": 1'), ["adapter.json", "damaged"]),
        (lambda f: (f / "adapter.json").write_text('{"format": 1}'), ["adapter.json", "damaged"]),
        (lambda f: (f / "adapter.json").write_text("[]"), ["adapter.json", "damaged"]),
        (lambda f: (f / "adapter.json").write_text('{"format": 3, "jaxprefix": "9.1"}'), ["9.1", "upgrade jaxprefix"]),
        (lambda f: (f / "metrics.json").unlink(), ["metrics.json", "it is missing"]),
        (lambda f: (f / "adapter.safetensors").unlink(), ["adapter.safetensors", "it is missing"]),
        (lambda f: os.truncate(f / "adapter.safetensors", 50), ["adapter.safetensors", "damaged", "digest"]),
        (lambda f: flip(f / "adapter.safetensors"), ["adapter.safetensors", "damaged", "digest"]),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, damage: Any, words: list[str]):
    write(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(UserError) as error:
        read_adapter(tmp_path / "a")
    assert all(word in str(error.value) for word in [*words, str(tmp_path / "a")]), str(error.value)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_no_folder_at_all(tmp_path: Path):
    with pytest.raises(UserError, match="not an adapter folder"):
        read_adapter(tmp_path / "nowhere")


@pytest.mark.parametrize("how", ["exchange", "rename"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_the_old_or_the_new_one_is_there(tmp_path: Path, how: str, seed: int):
    folder = tmp_path / "a"
    child = subprocess.Popen([sys.executable, EXPORTER, folder, how], env=ENV, stdout=subprocess.PIPE)
    try:
        lines = [child.stdout.readline()]
        if how == "exchange":  # watched from outside, there is no moment without a folder
            for _ in range(2000):
                assert folder.exists()
        time.sleep(random.Random(seed).uniform(0, 0.2))
    finally:
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        child.wait()
    last, back = int(lines[-1]), read_adapter(folder)
    (turn,) = {
        *np.unique(back.trainable["prefix"]["keys"]).tolist(),
        *np.unique(back.trainable["head"]["bias"]).tolist(),
        *np.unique(back.initialized["pooler"]).tolist(),
        back.metrics["turn"],
        back.backbone["turn"],
        json.loads(back.config_json)["seed"],
    }
    assert turn in (last, last + 1)
    export(folder, 9)
    assert read_adapter(folder).metrics == {"turn": 9}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
