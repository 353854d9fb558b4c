"""One label for a long text, which is read in windows whose answers are put together for each row."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

import jaxprefix as jp
from jaxprefix.tasks.labelled import LabelledTask
from jaxprefix.tasks.labels import label_finder


@jp.register_task
@dataclasses.dataclass(frozen=True)
class LongText(LabelledTask):
    """Rows `{"text": ..., "label": ...}`; every window of `max_length` tokens is an example of its row."""

    source: jp.Files
    max_length: int = 10
    labels: tuple[str, ...] | None = None
    metric: str = "accuracy"

    question: ClassVar[str] = "classification"
    cache_version: ClassVar[int | None] = 1

    @property
    def columns(self):
        return ("text",)

    @property
    def label_column(self):
        return "label"

    def raw_labels(self, rows, row, index):
        return [rows.value(row, index, "label")]

    def encode(self, tokenizer, rows, facts):
        find = None if facts is None else label_finder(rows, "label", facts["labels"])
        tokenizing, room = jp.Tokenizing(tokenizer, self.max_length, False), self.max_length - 2
        for index, row in enumerate(rows):
            words = rows.value(row, index, "text").split()
            windows = [" ".join(words[at : at + room]) for at in range(0, max(len(words), 1), room)]
            found = tokenizing(windows, [rows.locate(index)] * len(windows))
            number = np.full(len(windows), index)
            targets = {}
            if find is not None:
                targets["labels"] = np.full(len(windows), find(rows.value(row, index, "label"), index), np.int32)
            yield tokenizing.encoded(found, targets, rows=number, groups=number)

    def targets(self, count):
        return {"labels": jp.TargetSpec("row")}

    @classmethod
    def default_head(cls):
        return jp.SequenceClassifier()

    @property
    def metrics(self):
        def accuracy(evaluated):
            logits, first = merged(evaluated)
            return float(np.mean(logits.argmax(-1) == evaluated.targets["labels"][first]))

        return {"accuracy": jp.Metric(accuracy)}

    def answers(self, evaluated, inputs, scores):
        logits, _ = merged(evaluated)
        assert len(logits) == len(inputs)
        names, shares = evaluated.facts["labels"], np.asarray(jax.nn.softmax(logits, axis=-1))
        return [{"label": names[share.argmax()], "score": float(share.max())} for share in shares]


def merged(evaluated):
    """The sum of the windows' logits of each row, in the order of the rows, and each row's first example."""
    numbers, first, place = np.unique(evaluated.rows, return_index=True, return_inverse=True)
    total = np.zeros((len(numbers), evaluated.outputs["logits"].shape[-1]), np.float64)
    np.add.at(total, place, evaluated.outputs["logits"])
    return total, first


def rows(count, seed):
    """Long and short texts, whose label is told by most of their words."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        label = ("bad", "good")[index % 2]
        told = ["good", "kind", "sweet"] if label == "good" else ["bad", "dark", "cruel"]
        words = [*random.choice(told, 3 + index % 9), *random.choice(["the", "cat", "sat", "on"], 2 + index % 7)]
        found.append({"text": " ".join(map(str, random.permutation(words))), "label": label})
    return found
