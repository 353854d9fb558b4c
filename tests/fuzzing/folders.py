"""Folders of models and adapters: files that are missing, damaged, of another kind, or code."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import jaxprefix as jp
from jaxprefix.hf.loading import load_pretrained
from jaxprefix.trees import flatten
from tests.cli.adapters import write_classifier
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import dumped, mutate_bytes, mutate_tree, string
from tests.fuzzing.talk import talk
from tests.models import decoder_folders, folders
from tests.training.worlds import write_encoder

SOURCE = "import pathlib\npathlib.Path(__file__).with_name('ran').write_text('')\nclass C: pass\n"
MAP = {"AutoConfig": "code.C", "AutoModel": "code.C", "AutoTokenizer": ["code.C", "code.C"]}


class FoldersGate(Gate):
    """What is opened has the words of the file and the ids of its tokenizer, or the leaves that were saved."""

    name = "folders"
    first_check = "that there are the files, none of them a FIFO or a folder, and that JSON is JSON"

    def __init__(self, folder: Path):
        self.folders = {
            "encoder": write_encoder(folder / "encoder"),
            "decoder": Path(folders.write(folder / "decoder", *_decoder())),
            "adapter": Path(write_classifier(folder / "adapter")),
        }

    def draw(self, draw: random.Random, places: Places) -> Trial:
        kind = draw.choice([*self.folders, "adapter"])
        place = Path(shutil.copytree(self.folders[kind], places.given / "m"))
        done = [_mutate(draw, place) for _ in range(draw.choice([0, 1, 1, 1, 2]))]
        told = kind == "adapter" and draw.random() < 0.4
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())

        def call() -> Any:
            if told:
                return talk(["describe", str(place)])
            return jp.load_adapter(place) if kind == "adapter" else load_pretrained(place)

        def right(found: Any) -> None:
            if told:
                assert found.code == 0 and found.out.strip()
            elif kind == "adapter":
                again = jp.load_adapter(found.save(places.out / "again"))
                for one, other in ((found.trainable, again.trainable), (found.frozen, again.frozen)):
                    first, second = flatten(one), flatten(other)
                    assert first.keys() == second.keys()
                    assert all(np.array_equal(first[key], second[key]) for key in first)
                assert (found.run, found.facts, found.metrics) == (again.run, again.facts, again.metrics)
            else:
                _check_model(found, place)

        first_words = (
            *("is no file", "it has no config.json", "not JSON", "it is missing", "JSONDecodeError", "no adapter.json"),
            *("is damaged", "has no safetensors", "no model folder", "there is no folder", "nested too deep"),
        )
        given = {"kind": kind, "told": told, "done": done}
        return Trial(given, size, call, right, lambda said: any(words in said for words in first_words))


def _decoder() -> tuple[dict, dict]:
    return decoder_folders.model("llama")[0], decoder_folders.config("llama")


def _mutate(draw: random.Random, place: Path) -> str:
    """Changes one file; says how."""
    files = [path for path in sorted(place.iterdir()) if path.is_file()]
    if not files:
        return "none"
    file, kind = draw.choice(files), draw.randrange(14)
    if kind == 0:
        file.unlink()
    elif kind == 1:
        file.unlink()
        draw.choice(
            [file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to(file.name), lambda: file.write_bytes(b"")]
        )()
    elif kind == 2:
        (place / "code.py").write_text(SOURCE)
        for name in ("config.json", "tokenizer_config.json", "adapter.json"):
            if (place / name).is_file():
                _change(place / name, lambda tree: {**tree, "auto_map": MAP} if isinstance(tree, dict) else tree)
    elif kind == 3:
        extra = draw.choice(["pytorch_model.bin", "model.safetensors.index.json", "added_tokens.json", "x.safetensors"])
        (place / extra).write_bytes(
            draw.choice([b"", b"{}", b"\x80\x02cos\nsystem\n.", dumped([1]), draw.randbytes(50)])
        )
        return extra
    elif kind == 4:
        file.write_bytes(
            draw.choice(
                [
                    b"[" * 50_000,
                    b"null",
                    b"3",
                    b"[]",
                    b"{}",
                    b"\xff" * 8 + b"{}",
                    string(draw).encode("utf-8", "replace"),
                ]
            )
        )
    elif kind < 7 or file.suffix != ".json":
        file.write_bytes(mutate_bytes(draw, file.read_bytes()))
    else:
        _change(file, lambda tree: mutate_tree(draw, tree, draw.choice([1, 1, 2])))
    return f"{kind} {file.name}"


def _change(file: Path, change: Any) -> None:
    try:
        tree = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    file.write_bytes(dumped(change(tree)))


def _check_model(found: Any, place: Path) -> None:
    """The words are the file's, and the tokenizer gives what the library of its file gives."""
    tensors = load_file(place / "model.safetensors")
    name = next(key for key in tensors if key.endswith(("word_embeddings.weight", "embed_tokens.weight")))
    words = np.asarray(found.frozen["embeddings"]["word"]["embedding"])
    np.testing.assert_array_equal(words, tensors[name].astype(words.dtype))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in flatten(found.frozen).values())
    if found.tokenizer is not None and (place / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        plain = Tokenizer.from_file(str(place / "tokenizer.json"))
        plain.no_truncation()
        plain.no_padding()
        for text in ("alice sat on a mat", ""):
            ids = found.tokenizer(text)["input_ids"]
            assert all(0 <= token < len(words) for token in ids)
            assert ids == plain.encode(text).ids, (ids, plain.encode(text).ids)
