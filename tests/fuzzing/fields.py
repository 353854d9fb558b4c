"""Fields of a run on the command line: `train CONFIG --field value`, before any backend of JAX is made."""

import dataclasses
import random
import typing
from pathlib import Path
from typing import Any

from jax._src import xla_bridge

import jaxprefix as jp
import jaxprefix.training.loop
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import mutate_text, string
from tests.fuzzing.talk import Reached, Said, talk
from tests.test_values import allowed

CONFIG = """import jaxprefix as jp


def config():
    return jp.Run(
        jp.Classification(jp.Files("rows.jsonl"), max_length=16),
        method=jp.PTuningV2(length=4),
        optimizer=jp.Optimizer(learning_rate=0.01),
        folder="run",
    )
"""
TEXTS = [
    "0",
    "1",
    "2",
    "7",
    "-1",
    "0.5",
    "1.5",
    "1e-3",
    "1e400",
    "nan",
    "inf",
    "None",
    "True",
    "False",
    "linear",
    "mean",
]
TEXTS += ["cosine", "bfloat16", "int8", "full", "accuracy", "", "text", "many", "2 3", "1e3", "0x10", "[1]", "{}"]


class FieldsGate(Gate):
    """The run that training gets is the file's, with the fields that were given."""

    name = "fields"
    first_check = "the names of the fields"

    def __init__(self, folder: Path):
        self.config = folder / "config.py"
        self.config.write_text(CONFIG)

        def train(run: Any) -> Any:
            raise Reached(run)

        jaxprefix.training.loop.train = train
        self.usual = jp.Run(
            jp.Classification(jp.Files("rows.jsonl"), max_length=16),
            method=jp.PTuningV2(length=4),
            optimizer=jp.Optimizer(learning_rate=0.01),
            folder="run",
        )
        self.fields = {
            "".join(path): annotation for path, annotation in _simple(self.usual) if not isinstance(annotation, str)
        }

    def draw(self, draw: random.Random, places: Places) -> Trial:
        names = draw.sample([*self.fields], draw.choice([1, 1, 1, 2]))
        given = {name: self._text(draw, name) for name in names}
        args = []
        for name, text in given.items():
            option = f"--{name if draw.random() < 0.5 else name.replace('_', '-')}"
            if draw.random() < 0.05:
                option, given = mutate_text(draw, option), {}
            args += [f"{option}={text}"] if draw.random() < 0.3 or text.startswith("-") else [option, text]

        def call() -> Said:
            said = talk(["train", str(self.config), *args])
            assert not xla_bridge._backends, "a backend was made"
            return said

        def right(said: Said) -> None:
            if any(word in ("-h", "--help") for word in args) and said.reached is None:
                return
            assert said.reached is not None, said
            run = said.reached.args[0]
            for name, text in given.items():
                kept, annotation = _at(run, name), self.fields[name]
                assert allowed(annotation, kept), (name, kept)
                assert kept in _meant(text), (name, text, kept)
            others = {name for name in self.fields if name not in given} if given else ()
            assert all(_at(run, name) == _at(self.usual, name) for name in others)

        return Trial(args, sum(map(len, args)), call, right, lambda said: "nrecognized" in said)

    def _text(self, draw: random.Random, name: str) -> str:
        annotation = self.fields[name]
        good = [text for text in TEXTS if any(allowed(annotation, one) for one in _meant(text))]
        if good and draw.random() < 0.5:
            return draw.choice(good)
        return draw.choice([*TEXTS, string(draw).replace("\0", "")])


def _simple(value: Any, before: str = "") -> Any:
    """The paths of fields that are numbers, texts and truth values, and their annotations."""
    hints = typing.get_type_hints(type(value), include_extras=True)
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from _simple(inner, f"{before}{field.name}.")
        elif "tuple" not in str(hints[field.name]) and not any(map(_is_value, _parts(hints[field.name]))):
            yield f"{before}{field.name}", hints[field.name]


def _is_value(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _parts(annotation: Any) -> list[Any]:
    inner = [part for one in typing.get_args(annotation) for part in _parts(one)]
    return [annotation, *inner]


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _meant(text: str) -> list[Any]:
    """What a text may mean: itself, a whole number, a number, a truth value or nothing."""
    found: list[Any] = [text]
    for read in (int, float):
        try:
            found.append(read(text))
        except (ValueError, OverflowError):
            continue
    return found + {"True": [True], "False": [False], "None": [None]}.get(text, [])
