"""Fields of every public value: made in Python, or read from JSON that somebody changed."""

import dataclasses
import json
import random
import typing
from pathlib import Path
from typing import Any

from jaxprefix import typed_json
from jaxprefix.methods import LoRA, PTuningV2
from jaxprefix.methods.base import Combined
from jaxprefix.models.decoder_config import DecoderConfig
from tests import decoders
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import dumped, mutate_bytes, mutate_tree, near, value
from tests.test_values import POOL, allowed, classes, of_defaults


class ValuesGate(Gate):
    """What is made has what was given, of the kind that its annotation says, and survives JSON."""

    name = "values"
    first_check = "in Python the first field that is given; of JSON that it is JSON, and its names"

    def __init__(self, folder: Path):
        known = {DecoderConfig: decoders.config("llama"), Combined: Combined((PTuningV2(), LoRA()))}
        found = [cls for cls in classes() if cls.__name__ != "InMemory" and dataclasses.fields(cls)]
        self.usual = [known.get(cls) or of_defaults(cls) for cls in found]

    def draw(self, draw: random.Random, places: Places) -> Trial:
        usual = draw.choice(self.usual)
        return _read(draw, usual) if draw.random() < 0.4 else _made(draw, usual)


def _made(draw: random.Random, usual: Any) -> Trial:
    cls, given = type(usual), {}
    fields = [field for field in dataclasses.fields(cls) if field.init]
    for field in draw.sample(fields, min(len(fields), draw.choice([1, 1, 1, 2]))):
        now = getattr(usual, field.name)
        given[field.name] = draw.choice([now, now, near(draw, now), near(draw, now), draw.choice([*POOL, value(draw)])])
    first = next(iter(given))

    def right(made: Any) -> None:
        hints = typing.get_type_hints(cls, include_extras=True)
        for name, one in given.items():
            assert allowed(hints[name], one), (name, one)
            kept = getattr(made, name)
            assert _same(kept, one), (name, one, kept)
        hash(made)
        assert typed_json.from_json(typed_json.to_json(made), cls) == made

    starts = f"{cls.__name__} has {first} = "
    return Trial(
        (cls.__name__, given),
        1000,
        lambda: dataclasses.replace(usual, **given),
        right,
        lambda said: said.startswith(starts),
    )


def _same(kept: Any, given: Any) -> bool:
    """Whether a field has what was given: a tuple for a list, text for a path, Python's numbers for NumPy's."""
    if isinstance(given, list | tuple) and isinstance(kept, tuple):
        return len(kept) == len(given) and all(map(_same, kept, given))
    if hasattr(given, "__fspath__"):
        return kept == str(given)
    return bool(kept == given)


def _read(draw: random.Random, usual: Any) -> Trial:
    cls, tree = type(usual), json.loads(typed_json.to_json(usual))
    changed = mutate_tree(draw, tree, draw.choice([1, 1, 2, 3]))
    text = dumped(changed)
    if draw.random() < 0.1:
        text = mutate_bytes(draw, text)
    said_by_first = ("the configuration is not valid JSON", "the type ")

    def right(made: Any) -> None:
        again = typed_json.from_json(typed_json.to_json(made))
        assert type(again) is type(made) and typed_json.to_json(again) == typed_json.to_json(made)
        plain = json.loads(text.decode(errors="surrogateescape"))
        if isinstance(plain, dict) and plain.get("type") == cls.__name__:
            for name, one in plain.items():
                if isinstance(one, bool | int | float | str | None) and name != "type":
                    assert _same(getattr(made, name), one), (name, one)

    return Trial(
        (cls.__name__, text.decode(errors="replace")),
        len(text),
        lambda: typed_json.from_json(text.decode(errors="surrogateescape")),
        right,
        lambda said: said.startswith(said_by_first) or "has no field" in said,
    )
