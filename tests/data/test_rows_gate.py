"""Random and mutated rows through every kind of task: one sentence, or what a few lines of an oracle say is right."""

import csv
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.tasks import encode_texts, prepare
from tests.data.conftest import letters

TRIALS = 60  # of each seed
STRINGS = [
    "a",
    "the cat",
    "",
    " ",
    "a\u200bb",
    "\ud800",
    "['a', 'b']",
    "[1, 2]",
    "['a' 'b']",
    "é",
    "x" * 300,
    "1",
    "1.0",
]
STRINGS += ["0.5", "O", "B-PER", "[", "]", "[]", "['\\ud800']", "nan", "True", "[None]", "\x00", "a\nb", "['a', 'b'"]
GOOD = {
    "text": ["a", "the cat"],
    "label": ["no", "yes", 1, 0],
    "tokens": [["a", "b"], "a b", ["alice"]],
    "tags": [["O", "B-PER"], "O O", ["O"]],
    "labels": [["x"], ["x", "y"], []],
    "score": [1, 0.5, "3"],
    "prompt": ["ab", "c"],
    "target": ["d", "ab"],
}
TASKS = [
    lambda source: jp.Classification(source),
    lambda source: jp.Classification(source, labels=("neg", "pos")),
    lambda source: jp.Classification(source, template="{text} {prompt}"),
    lambda source: jp.MultiLabelClassification(source),
    lambda source: jp.Regression(source),
    lambda source: jp.Tagging(source),
    lambda source: jp.Tagging(source, metric="accuracy", max_length=3),
    lambda source: jp.MaskedLanguage(source),
    lambda source: jp.CausalLanguage(source),
    lambda source: jp.ConditionalGeneration(source, max_prompt_length=3),
    lambda source: jp.ConditionalGeneration(source, format=jp.E2E()),
]


def value(draw, depth=0):
    kind = draw.randrange(16)
    if kind < 6:
        return draw.choice(STRINGS)
    if kind < 8:
        return draw.choice([0, 1, -1, 10**30])
    if kind < 10:
        return draw.choice([0.0, 1.0, 0.5, float("nan"), float("inf"), 1e300])
    if kind == 10:
        return draw.choice([True, False, None])
    if kind == 11 and depth < 3:
        return {draw.choice("ab"): value(draw, depth + 1)}
    return [value(draw, depth + 1) for _ in range(draw.randrange(4))] if depth < 3 else "a"


def stored(draw, rows, folder, number):
    """The rows as a source of some kind, and as it gives them; None where Arrow itself refuses them."""
    kind = draw.choice(["jsonl", "csv", "parquet", "memory"])
    path = folder / f"{number}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8", errors="replace") as stream:
            writer = csv.DictWriter(stream, list(GOOD))
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        try:
            pq.write_table(pa.Table.from_pylist(rows), path)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):
            return None
    else:
        return jp.InMemory(rows)
    return jp.Files(str(path))


def right(task, examples, source, tokenizer):
    """What is right of accepted rows, where it is said in a few lines."""
    rows = [*source.open("train")]
    if isinstance(task, jp.Classification) and task.template is None:
        for index, row in enumerate(rows):
            text, label = row["text"], row["label"]
            assert (
                isinstance(text, str)
                and examples.row(index)["ids"].tolist() == tokenizer(text, truncation=True, max_length=128)["input_ids"]
            )
            name = str(int(label)) if isinstance(label, float) else str(label)
            found = int(examples.targets["labels"].values[index])
            assert name == name.strip() and name in (examples.labels[found], str(found))
    if isinstance(task, jp.Regression):
        numbers = [float(row["score"]) for row in rows]
        found = examples.targets["values"].values[:, 0] * examples.facts["scale"][0] + examples.facts["mean"][0]
        assert found == pytest.approx(numbers, rel=1e-5, abs=1e-5)
    if isinstance(task, jp.MultiLabelClassification):
        for index, row in enumerate(rows):
            has = examples.targets["labels"].values[index]
            named = {str(int(name)) if isinstance(name, float) else str(name) for name in row["labels"]}
            assert {name for name, had in zip(examples.labels, has, strict=True) if had} == named


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_rows_of_any_kind_are_right_or_refused_in_a_sentence(tokenizer, tmp_path, seed):
    draw, outcomes = random.Random(seed), {"right": 0, "refused": 0}
    for number in range(TRIALS):
        rows = [{name: draw.choice(values) for name, values in GOOD.items()} for _ in range(draw.randrange(2, 6))]
        for _ in range(draw.randrange(3)):
            draw.choice(rows)[draw.choice(list(GOOD))] = value(draw)
        for make in draw.sample(TASKS, 3):
            source = stored(draw, rows, tmp_path, number)
            if source is None:
                continue
            task = make(source)
            decoder = isinstance(task, jp.CausalLanguage | jp.ConditionalGeneration)
            own = letters() if decoder else tokenizer
            asked = [{name: row.get(name) for name in task.columns} for row in rows]
            for prepared in (lambda: prepare(task, own), lambda: encode_texts(task, own, asked)):  # noqa: B023
                try:
                    examples = prepared()
                except UserError as error:
                    outcomes["refused"] += 1
                    said = str(error)
                    assert "\n" not in said and len(said) < 1500 and said.endswith(".")
                    said.encode("utf-8")
                    continue
                outcomes["right"] += 1
                if examples.targets and examples.facts:
                    right(task, examples, source, own)
    assert min(outcomes.values()) > 60, outcomes
