"""What is killed: commands of a second or a few, what they write, and what must be the same in the end."""

import csv
import hashlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxprefix as jp
from jaxprefix.cli.main import main

CONFIG = """from killing.subjects import {kind}


def config():
    return {kind}({base!r})
"""
WORDS = ["the", "cat", "saw", "a", "dog", "in", "paris", "and", "it", "ran", "far", "away", "from", "london"]
MEMBERS = ({"seed": 1}, {"seed": 2, "optimizer.learning_rate": 3e-2})


@dataclass(frozen=True)
class Subject:
    """A command that is killed.

    Attributes:
      kills: how many are wanted.
      call: runs it for a base folder, and gives its exit code.
      outputs: what is there as a whole or not at all, below the folder that it writes to.
      old: a prepared output that lies in the place of the first in half of the trials; "" for none.
      pauses: whether it is stopped for a while, and not killed.
    """

    kills: int
    call: Callable[[Path], int]
    outputs: tuple[str, ...]
    old: str = ""
    pauses: bool = False


def encoder_run(base: str, name: str = "work/run", **changes: Any) -> jp.Run:
    """A classifier on the encoder in the package, of eight steps, four checkpoints and two evaluations."""
    folder = Path(base)
    rows = [str(folder / f"data/{split}.jsonl") for split in ("train", "validation", "test")]
    usual = {"steps": 8, "checkpoint_every": 2, "evaluate_every": 4, "log_every": 1, "batch_size": 8, "buckets": (16,)}
    return jp.Run(
        jp.Classification(jp.Files(*rows), max_length=16),
        "tiny-encoder",
        jp.PTuningV2(length=2),
        head=jp.SequenceClassifier(pooling="trained_pooler"),  # which PEFT has
        optimizer=jp.Optimizer(learning_rate=1e-2),
        folder=str(folder / name),
        **{**usual, **changes},
    )


def short_run(base: str) -> jp.Run:
    """The same in four steps, for comparisons."""
    return encoder_run(base, steps=4)


def decoder_run(base: str, name: str, **changes: Any) -> jp.Run:
    """A writer of texts on the decoder in the package, of two steps."""
    folder = Path(base)
    return jp.Run(
        jp.ConditionalGeneration(
            jp.Files(str(folder / "data/train.jsonl")),
            prompt="label",
            target="text",
            max_prompt_length=16,
            max_target_length=32,
        ),
        "tiny-decoder",
        jp.PTuningV2(length=2),
        steps=2,
        batch_size=4,
        decoding=jp.Decoding(max_new_tokens=8),
        folder=str(folder / name),
        **changes,
    )


def _population(base: Path) -> int:
    jp.train_population(encoder_run(str(base)), MEMBERS)
    return 0


def _export(base: Path, number: int = 0, to: str = "work/peft") -> int:
    return main(["export", str(base / f"prepared/encoder{number}/adapter"), str(base / to)])


def _import(base: Path, number: int = 0, to: str = "work/imported") -> int:
    return main(["import", str(base / f"prepared/peft{number}"), "--out", str(base / to)])


def _predict(base: Path, number: int = 0, to: str = "work/predicted.jsonl") -> int:
    adapter, rows = str(base / f"prepared/encoder{number}/adapter"), str(base / "data/test.jsonl")
    return main(["predict", adapter, "--file", rows, "--out", str(base / to)])


def _generate(base: Path, number: int = 0, to: str = "work/generated.jsonl") -> int:
    adapter, rows = str(base / f"prepared/decoder{number}/adapter"), str(base / "data/prompts.txt")
    return main(["generate", adapter, "--file", rows, "--out", str(base / to)])


def _compare(base: Path) -> int:
    options = ["--methods", "p_tuning_v2", "lora", "--seeds", "2", "--rates-scale", "1", "3"]
    return main(["compare", str(base / "compare.py"), *options])


def _train(base: Path) -> int:
    return main(["train", str(base / "train.py")])


SUBJECTS = {
    "train": Subject(200, _train, ("run/adapter",)),
    "compare": Subject(200, _compare, ()),
    "train_population": Subject(50, _population, ("run/0/adapter", "run/1/adapter")),
    "export": Subject(50, _export, ("peft",), "peft1"),
    "import": Subject(50, _import, ("imported",), "imported1"),
    "predict --out": Subject(50, _predict, ("predicted.jsonl",), "predicted1.jsonl"),
    "generate --out": Subject(50, _generate, ("generated.jsonl",), "generated1.jsonl"),
    "train, stopped and continued": Subject(20, _train, ("run/adapter",), pauses=True),
}


def write_inputs(base: Path) -> None:
    """Rows and configs, without JAX."""
    draw = random.Random(0)
    (base / "data").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 32), ("validation", 16), ("test", 16)):
        rows = []
        for index in range(count):
            label = ("bad", "good")[index % 2]
            text = [*draw.choices(WORDS, k=draw.randint(2, 8)), label]
            draw.shuffle(text)
            rows.append({"text": " ".join(text), "label": label})
        (base / f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (base / "data/prompts.txt").write_text("good\nbad\n")
    for name, kind in (("train", "encoder_run"), ("compare", "short_run")):
        (base / f"{name}.py").write_text(CONFIG.format(kind=kind, base=str(base)))


def prepare(base: Path) -> int:
    """Makes the adapters that commands read, and their older outputs; in a process of its own."""
    for number in (0, 1):
        jp.train(encoder_run(str(base), f"prepared/encoder{number}", steps=2, seed=number))
        jp.train(decoder_run(str(base), f"prepared/decoder{number}", seed=number))
    codes = [_export(base, number, f"prepared/peft{number}") for number in (0, 1)]
    codes.append(_import(base, 1, "prepared/imported1"))
    codes.append(_predict(base, 1, "prepared/predicted1.jsonl"))
    codes.append(_generate(base, 1, "prepared/generated1.jsonl"))
    return max(codes)


def place_old(base: Path, subject: Subject) -> None:
    """Puts an older output where a command writes its own."""
    source, target = base / "prepared" / subject.old, base / "work" / subject.outputs[0]
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


TIMES = ("tokens_per_second", "milliseconds/", "memory/")  # how names of what is measured begin in metrics.jsonl
MEASURED = ("step_seconds", "peak_bytes")  # in what a comparison writes


ENTRY = re.compile(r"cache/tokens/[0-9a-f]{32}(/|$)")


def snapshot(place: Path) -> dict[str, str] | None:
    """What a file or a folder holds: for each path within it a digest of what must be the same; None if it is absent.

    Measured times are left out, as are the bytes in which Orbax keeps arrays, whose digests are in the records, and
    whole entries of the token cache: a run that is resumed keeps rows under the key of what its checkpoint knows.
    """
    if place.is_file():
        return {"": _digest(place)}
    if not place.exists():
        return None
    found = {}
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if "/arrays/" not in name and not ENTRY.match(name):
            found[name] = _digest(path) if path.is_file() else "folder"
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(json.dumps(_content(path), sort_keys=True).encode()).hexdigest()[:16]


def _content(path: Path) -> Any:
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]
    if path.name == "record.json":
        record = json.loads(content)["record"]
        return [record[name] for name in ("step", "metric", "leaves", "digests")]
    if path.name == "comparison.json":
        return _without(json.loads(content))
    if path.name == "table.csv":
        return [_without(row) for row in csv.DictReader(io.StringIO(content.decode()))]
    if path.name == "table.md":  # the same rows, with times among them
        return content.count(b"\n")
    if path.suffix == ".png":
        return content.endswith(b"IEND\xaeB\x60\x82")
    return hashlib.sha256(content).hexdigest()


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in MEASURED}
    return value
