"""Trees of leaves that come out of files: those of our own adapters, and those of PEFT."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save

import jaxprefix as jp
from jaxprefix.trees import flatten
from tests.cli.adapters import write_classifier
from tests.exchange.cases import FIXTURES
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import mutate_bytes, mutate_text, string

DTYPES = ("float16", "float32", "float64", "int8", "int32", "uint8", "bool", "bfloat16")


class TreesGate(Gate):
    """The leaves of what is opened are those of the file; of PEFT's, its export has them again."""

    name = "trees"
    first_check = "that the file has the format of safetensors"

    def __init__(self, folder: Path):
        self.adapter = Path(write_classifier(folder / "adapter"))
        self.peft = FIXTURES / "bert-classification"

    def draw(self, draw: random.Random, places: Places) -> Trial:
        ours = draw.random() < 0.7
        name = "adapter.safetensors" if ours else "adapter_model.safetensors"
        folder = Path(shutil.copytree(self.adapter if ours else self.peft, places.given / "adapter"))
        leaves = dict(load_file(folder / name))
        for _ in range(draw.choice([0, 1, 1, 1, 2])):
            _mutate(draw, leaves)
        content = save({key: np.ascontiguousarray(leaf).reshape(leaf.shape) for key, leaf in leaves.items()})
        damaged = draw.random() < 0.15
        if damaged:
            content = mutate_bytes(draw, content)
        (folder / name).write_bytes(content)
        if ours and draw.random() < 0.9:  # what somebody wrote who knew how
            described = json.loads((folder / "adapter.json").read_text())
            described["sha256"] = hashlib.sha256(content).hexdigest()
            (folder / "adapter.json").write_text(json.dumps(described))

        def call() -> Any:
            if ours:
                return jp.load_adapter(folder)
            found = jp.import_peft(folder, backbone=str(FIXTURES / "bert"))
            return jp.export_peft(found.save(places.out / "ours"), places.out / "theirs")

        def right(found: Any) -> None:
            given = load_file(folder / name) if damaged else leaves
            if not ours:
                again = load_file(Path(found) / name)
                kept = {key for key in given if key in again}
                assert kept == set(again)
                for key in kept:
                    np.testing.assert_array_equal(again[key], given[key].astype(again[key].dtype))
                return
            trees = {"trainable": found.trainable, "initialized": found.frozen["initialized"]}
            opened = flatten(trees)
            assert set(opened) == set(given), set(opened) ^ set(given)
            for key, leaf in opened.items():
                kept = np.asarray(leaf)
                assert np.isfinite(kept.astype(np.float64)).all()
                np.testing.assert_array_equal(kept, given[key].astype(kept.dtype))

        def first(said: str) -> bool:
            return any(
                words in said for words in ("safetensors file", "does not match the digest", "header", "damaged (")
            )

        given = {key: f"{leaf.dtype} {leaf.shape}" for key, leaf in leaves.items()}
        return Trial({"ours": ours, "damaged": damaged, **given}, len(content), call, right, first)


def _mutate(draw: random.Random, leaves: dict[str, np.ndarray]) -> None:
    """Changes a leaf, its name or its place."""
    if not leaves:
        return
    name = draw.choice([*leaves])
    leaf, kind = leaves[name], draw.randrange(9)
    if kind == 0:
        del leaves[name]
    elif kind == 1:
        leaves[mutate_text(draw, name).replace("\ud800", "").encode(errors="replace").decode()] = leaves.pop(name)
    elif kind == 2:
        new = draw.choice([string(draw), f"{name}/x", name.rsplit("/", 1)[0], "trainable", "a/b", "/", ""])
        leaves[new.encode(errors="replace").decode()] = draw.choice([leaf, np.zeros((), np.float32), np.ones(3)])
    elif kind == 3:
        shapes = [
            leaf[None],
            leaf[..., None],
            leaf.reshape(-1),
            leaf[:0],
            leaf[:1],
            leaf.T,
            np.concatenate([leaf, leaf]),
        ]
        leaves[name] = draw.choice(shapes) if leaf.ndim else leaf[None]
    elif kind < 6:
        with np.errstate(all="ignore"):
            leaves[name] = leaf.astype(np.dtype(getattr(ml_dtypes, (dtype := draw.choice(DTYPES)), dtype)))
    elif leaf.size:
        changed = leaf.copy()
        with np.errstate(all="ignore"):
            if np.issubdtype(leaf.dtype, np.floating):
                changed.reshape(-1)[draw.randrange(leaf.size)] = draw.choice(
                    [np.nan, np.inf, -np.inf, 1e30, 1e38, -0.0]
                )
        leaves[name] = changed
