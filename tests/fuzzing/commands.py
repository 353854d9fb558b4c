"""What commands are asked about: lines, files and arguments, with an adapter that is opened once."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import jaxprefix.adapters.adapter as opening
from tests.cli.adapters import LABELS, write_classifier
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import dumped, mutate_bytes, string, value
from tests.fuzzing.talk import Said, talk

TEXTS = ["tea", "the milk", "hello world", "x", "[1, 2]", "é", "tea the milk hello"]


class CommandsGate(Gate):
    """A line in has a line out, which is what Python's own call gives for its text."""

    name = "commands"
    first_check = "that each line is UTF-8, not empty, and JSON where it begins so"

    def __init__(self, folder: Path):
        self.adapter = write_classifier(folder / "adapter")
        opening.load_adapter = functools.cache(opening.load_adapter)
        self.answers: dict[str, dict[str, Any]] = {}
        self.loaded = opening.load_adapter(self.adapter, backbone=None)

    def _answer(self, texts: list[str]) -> list[dict[str, Any]]:
        for text in texts:
            if text not in self.answers:
                (self.answers[text],) = self.loaded.predict([text])
        return [self.answers[text] for text in texts]

    def draw(self, draw: random.Random, places: Places) -> Trial:
        command = draw.choice(["predict", "predict", "predict", "evaluate", "evaluate", "generate", "describe"])
        if command == "evaluate":
            return self._evaluate(draw, places)
        lines = [draw.choice(TEXTS) for _ in range(draw.choice([1, 2, 2]))]
        rows = [dumped({"text": line}) if draw.random() < 0.4 else line.encode() for line in lines]
        if draw.random() < 0.4:
            odd = [dumped({"text": value(draw)}), dumped({string(draw): "tea"}), string(draw).encode(errors="replace")]
            rows[draw.randrange(len(rows))] = draw.choice([*odd, b"", b"\xff", b"{", b'{"text": "tea"'])
        content = draw.choice([b"\n", b"\r\n"]).join(rows) + draw.choice([b"\n", b""])
        if draw.random() < 0.1:
            content = mutate_bytes(draw, content)
        args, out = [command, self.adapter], None
        way = draw.choice(["input", "input", "file", "arguments"]) if command != "describe" else "none"
        text = way != "none" and draw.random() < 0.15
        if way == "file":
            file = places.given / draw.choice(["rows.jsonl", "rows.txt", "rows"])
            file.write_bytes(content)
            args += ["--file", str(file)]
        elif way == "arguments":
            content = b"\n".join(rows)
            args += [
                f" {line}" if line.startswith("-") else line for line in content.decode(errors="replace").split("\n")
            ]
        if command == "predict" and draw.random() < 0.3:
            out = places.out / "answers"
            args += ["--out", str(out)]
        args += ["--text"] if text else []
        args += ["--batch-size", draw.choice(["1", "2"])] if command == "predict" and draw.random() < 0.3 else []

        def call() -> Said:
            return talk(args, content if way == "input" else b"")

        def right(said: Said) -> None:
            assert said.code == 0, said
            if command == "describe":
                assert all(label in said.out for label in LABELS)
                return
            lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if way != "arguments" else content.split(b"\n")
            lines = lines[:-1] if not lines[-1] and way != "arguments" else lines
            plain = [line.removesuffix(b"\r").decode() if way != "arguments" else line.decode() for line in lines]
            asked = [json.loads(line)["text"] if not text and line.lstrip().startswith("{") else line for line in plain]
            printed = out.read_text() if out is not None else said.out
            found = [json.loads(line) for line in printed.splitlines()]
            assert len(found) == len(asked)
            for one, wanted in zip(found, self._answer(asked), strict=True):
                assert one["label"] == wanted["label"] and abs(one["score"] - wanted["score"]) < 1e-4

        return Trial({"args": args[2:], "content": content}, len(content), call, right, _about_lines)

    def _evaluate(self, draw: random.Random, places: Places) -> Trial:
        rows: list[dict] = [{"text": draw.choice(TEXTS), "label": draw.choice(LABELS)} for _ in range(2)]
        if draw.random() < 0.4:
            rows[-1][draw.choice(["text", "label"])] = value(draw)
        content = b"\n".join(map(dumped, rows))
        if draw.random() < 0.2:
            content = mutate_bytes(draw, content)
        file = places.given / "rows.jsonl"
        file.write_bytes(content)
        args = ["evaluate", self.adapter, "--file", str(file)]

        def right(said: Said) -> None:
            found = [json.loads(line.decode("utf-8-sig")) for line in content.split(b"\n") if line.strip()]
            answers = self._answer([row["text"] for row in found])
            hits = [
                answer["label"] == (row["label"] if row["label"] in LABELS else LABELS[int(row["label"])])
                for answer, row in zip(answers, found, strict=True)
            ]
            assert abs(json.loads(said.out)["accuracy"] - sum(hits) / len(hits)) < 1e-6

        return Trial({"args": args[2:], "content": content}, len(content), lambda: talk(args), right, _about_lines)


def _about_lines(said: str) -> bool:
    return any(
        words in said for words in ("is empty", "not UTF-8", "begins like JSON", "is not JSON", "is a file, and")
    )
