"""The command line's own options: types and bounds, before JAX is imported; in a process that never imports it."""

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import mutate_text, string
from tests.fuzzing.talk import Reached, Said, talk

NUMBERS = ["0", "1", "2", "7", "-1", "-3", "1.5", "0.5", "1.0", "1e3", "nan", "inf", "-inf", "", " 3", "1e400", "many"]
NUMBERS += ["4294967295", "4294967296", "9" * 400, "0x10", "1_0", "٣", "--", "None", "\x1b[31m"]


def whole(low: int, high: float = math.inf) -> Callable[[str], bool]:
    """Whether a text is a whole number within bounds."""

    def holds(text: str) -> bool:
        try:
            return low <= int(text) <= high
        except ValueError:
            return False

    return holds


def real(low: float, high: float = math.inf, above: bool = False) -> Callable[[str], bool]:
    """Whether a text is a finite number within bounds."""

    def holds(text: str) -> bool:
        try:
            number = float(text)
        except ValueError:
            return False
        return math.isfinite(number) and (number > low if above else number >= low) and number <= high

    return holds


def one_of(*names: str) -> Callable[[str], bool]:
    """Whether a text is one of these."""
    return lambda text: text in names


def anything(text: str) -> bool:
    """Any text will do here."""
    return True


SPLITS, TEXT = one_of("train", "validation", "test"), anything
ROWS = {"--file": TEXT, "--out": TEXT, "--batch-size": whole(1), "--backbone": TEXT}
OPTIONS = {
    "predict": {**ROWS, "--beside": TEXT},
    "generate": {
        **ROWS,
        "--seed": whole(0, 2**32 - 1),
        "--max-new-tokens": whole(1),
        "--min-new-tokens": whole(0),
        "--temperature": real(0),
        "--top-k": whole(1),
        "--top-p": real(0, 1, above=True),
        "--beams": whole(1),
        "--length-penalty": real(-math.inf),
    },
    "evaluate": {"--split": SPLITS, "--batch-size": whole(1), "--file": TEXT},
    "gates": {"--split": SPLITS, "--keep": real(0, 1, above=True), "--tau": real(0, 1), "--batch-size": whole(1)},
    "export": {"--backbone": TEXT},
    "import": {
        "--format": one_of("peft", "p-tuning-v2", "adapters", "transformers"),
        "--kind": one_of("classification", "tagging"),
        "--text": TEXT,
    },
    "compare": {"--seeds": whole(1), "--budget": real(0, 1, above=True), "--rates-scale": real(0, above=True)},
    "plan": {
        "--slices": whole(1),
        "--tokens": whole(1),
        "--labels": whole(1),
        "--most": whole(1),
        "--budget": real(0),
    },
    "train": {
        "--distributed": one_of("auto", "on", "off"),
        "--processes": whole(1),
        "--process": whole(0),
    },
}
NEEDED = {"export": ["folder"], "import": ["--out", "place"], "compare": ["--methods", "head_only"]}


class _Stop:
    """Ends a command where it imports JAX."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "jax":
            raise Reached


class OptionsGate(Gate):
    """JAX is reached where every option is within its bounds, and nowhere else."""

    name = "options"
    first_check = "the names of the command and of its options"

    def __init__(self, folder: Path):
        assert "jax" not in sys.modules
        sys.meta_path.insert(0, _Stop())  # pyright: ignore

    def draw(self, draw: random.Random, places: Places) -> Trial:
        command = draw.choice([*OPTIONS])
        chosen = draw.sample([*OPTIONS[command]], min(len(OPTIONS[command]), draw.choice([0, 1, 1, 2, 3])))
        options = [(name, self._value(draw, command, name, places)) for name in chosen]
        args = ["adapter.py" if command in ("compare", "plan", "train") else "adapter", *NEEDED.get(command, [])]
        for name, text in options:
            args += [f"{name}={text}"] if draw.random() < 0.7 or text.startswith("-") else [name, text]
        named = command
        changed = draw.random() < 0.15
        if changed:
            kind = draw.randrange(4)
            if kind == 0:
                named = mutate_text(draw, command)
            elif kind == 1:
                args.insert(draw.randrange(len(args) + 1), draw.choice(["--", "-", "-x", "--batch-siz", "--\x1b", ""]))
            elif kind == 2:
                args = args[: draw.randrange(len(args))]
            else:
                place = draw.randrange(len(args))
                args[place] = mutate_text(draw, args[place])
        valid = all(OPTIONS[command][name](text) for name, text in options)
        lines = b"tea\nmilk\n"

        def right(said: Said) -> None:
            assert said.code == 0
            helped = any(word in ("-h", "--help") for word in args) or named in ("-h", "--help")
            assert said.reached is not None or helped, said
            assert valid or changed, "JAX was reached with an option outside its bounds"

        def call() -> Said:
            return talk([named, *args], lines)

        def first(said: str) -> bool:
            return "there is no command" in said or "unrecognized" in said or "arguments are required" in said

        return Trial([named, *args], sum(map(len, args)), call, right, first)

    def _value(self, draw: random.Random, command: str, name: str, places: Places) -> str:
        if OPTIONS[command][name] is TEXT:
            place = {"--file": places.given / "rows", "--out": places.out / "answers"}.get(name, places.given)
            if name == "--file":
                place.write_text("tea\n")
            return str(place) if draw.random() < 0.6 else draw.choice([str(place), string(draw)])
        good = [text for text in (*NUMBERS, "train", "test", "peft", "tagging", "auto") if OPTIONS[command][name](text)]
        return draw.choice(good) if draw.random() < 0.5 else draw.choice([*NUMBERS, string(draw)])
