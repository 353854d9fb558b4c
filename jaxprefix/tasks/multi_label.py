"""Any number of labels for a text, or for a pair of texts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float
from typing_extensions import override

from jaxprefix.data.examples import Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.models.heads import REAL, PooledHead, example_weights, read_target, register_head
from jaxprefix.tasks.base import Evaluated, Facts, Metric, register_task
from jaxprefix.tasks.cells import read_label
from jaxprefix.tasks.labelled import LabelledTask
from jaxprefix.tasks.text_task import TextTask
from jaxprefix.tasks.tokenizing import Chunk
from jaxprefix.values import Count, Fraction

USUAL = 0.5  # threshold of a label of which nothing is known


@register_head
@dataclasses.dataclass(frozen=True)
class MultiLabelClassifier(PooledHead):
    """Whether a row has each label, by a linear map of one vector; the loss is the binary cross entropy, a mean over
    the labels, as that of transformers' classifiers with `problem_type = "multi_label_classification"`."""

    task: ClassVar[str] = "multi_label_classification"
    task_type: ClassVar[str | None] = "SEQ_CLS"
    problem_type: ClassVar[str | None] = "multi_label_classification"
    targets: ClassVar[tuple[str, ...] | None] = ("labels",)
    fills: ClassVar[Mapping[str, float]] = {"logits": -np.inf}

    @override
    def loss(
        self, logits: Float[Array, "B C"], batch: Mapping[str, Any], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the rows; with smoothing `s` a target `y` is `(1 - s) y + s / 2`."""
        weight = example_weights(batch, len(logits))
        labels = read_target(batch, "labels", logits.shape, "truth values", REAL)
        return (_binary_cross_entropy(logits, labels, smoothing) * weight).sum(), weight.sum()

    @override
    def outputs(self, logits: Float[Array, "B C"], batch: Mapping[str, Any]) -> dict[str, Array]:
        """`logits` `[B, C]` and, with labels, `losses` `[B]`."""
        losses = {"losses": _binary_cross_entropy(logits, batch["labels"])} if "labels" in batch else {}
        return {"logits": logits, **losses}


def _binary_cross_entropy(
    logits: Float[Array, "B C"], labels: Bool[Array, "B C"], smoothing: float = 0.0
) -> Float[Array, " B"]:
    y = (1 - smoothing) * labels.astype(logits.dtype) + smoothing / 2
    return -(y * jax.nn.log_sigmoid(logits) + (1 - y) * jax.nn.log_sigmoid(-logits)).mean(-1)


@register_task
@dataclasses.dataclass(frozen=True)
class MultiLabelClassification(TextTask, LabelledTask):
    """Any number of labels, none among them, for a text or for a pair of texts."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text, or of the first text of a pair; not read where `template` is given."""
    text_pair: str | None = None
    """Column of the second text; not read where `template_pair` is given."""
    label: str = "labels"
    """Column of the labels: a list of names, which may be empty."""
    labels: tuple[str, ...] | None = None
    """The labels in the order of the logits; by default the dataset's own, else the training rows' own, sorted."""
    thresholds: Fraction | tuple[Fraction, ...] | Literal["validation"] = USUAL
    """From which probability on a row has a label: a number, one for each label, or those with the best F1 of each
    label on the validation rows, which are kept with the adapter."""
    template: str | None = None
    """Makes the first text out of columns: `{question} {passage}`."""
    template_pair: str | None = None
    """Makes the second text out of columns."""
    max_length: Count = 128
    """Longest input in tokens, special tokens included; of a pair the longer text is cut first."""
    truncation: bool = True
    """Whether longer inputs are cut; if not, they are an error."""
    metric: Literal["f1_micro", "f1_macro", "accuracy"] = "f1_micro"
    """The metric that chooses the best checkpoint; `accuracy` counts rows all of whose labels are right."""

    question: ClassVar[str] = "multi_label_classification"
    fewest: ClassVar[int] = 1
    cache_version: ClassVar[int | None] = 1
    not_cached: ClassVar[tuple[str, ...]] = ("source", "metric", "thresholds")

    @property
    @override
    def label_column(self) -> str:
        return self.label

    @override
    def raw_labels(self, rows: Rows, row: Mapping[str, Any], index: int) -> list[Any]:
        found = rows.value(row, index, self.label)
        if not isinstance(found, list | tuple):
            raise UserError(
                f"{rows.locate(index)} has {found!r} in column {self.label!r}; give a list of labels, [] for none."
            )
        names = [str(read_label(rows, index, self.label, name)) for name in found]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise UserError(
                    f"{rows.locate(index)} has the label {name!r} twice in column {self.label!r}; give each once."
                )
        return list(found)

    @override
    def target_reader(self, rows: Rows, facts: Facts) -> Callable[[Chunk], dict[str, np.ndarray]]:
        find = self.label_finder(rows, facts)

        def read(chunk: Chunk) -> dict[str, np.ndarray]:
            has = np.zeros((len(chunk), len(facts["labels"])), bool)
            for place, (index, row) in enumerate(chunk):
                has[place, [find(name, index) for name in self.raw_labels(rows, row, index)]] = True
            return {"labels": has}

        return read

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        return {"labels": TargetSpec("row", np.bool_, (count or 0,))}

    @classmethod
    @override
    def default_head(cls) -> MultiLabelClassifier:
        return MultiLabelClassifier()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        return {
            "f1_micro": Metric(lambda evaluated: self._f1(evaluated, "micro")),
            "f1_macro": Metric(lambda evaluated: self._f1(evaluated, "macro")),
            "accuracy": Metric(self._rows_right),
            "loss": Metric(lambda evaluated: float(np.mean(evaluated.outputs["losses"], dtype=np.float64)), False),
        }

    def _rows_right(self, evaluated: Evaluated) -> float:
        return float(np.mean((self._has(evaluated) == evaluated.targets["labels"]).all(1)))

    def _f1(self, evaluated: Evaluated, average: str) -> float:
        labels, found = evaluated.targets["labels"], self._has(evaluated)
        axis = None if average == "micro" else 0
        right, named = (labels & found).sum(axis), labels.sum(axis) + found.sum(axis)
        return float(np.mean(2 * right / np.maximum(named, 1)))  # 0 where a label is neither there nor found

    def _has(self, evaluated: Evaluated) -> Bool[np.ndarray, "N C"]:
        return probabilities(evaluated) >= self.thresholds_of(evaluated.facts)

    def thresholds_of(self, facts: Facts) -> Float[np.ndarray, " C"]:
        """The threshold of each label."""
        given = facts.get("thresholds", USUAL if self.thresholds == "validation" else self.thresholds)
        return np.broadcast_to(np.asarray(given, np.float64), (len(facts["labels"]),))

    @override
    def calibrate(self, evaluated: Evaluated) -> Facts:
        """The facts with `thresholds`, where they are chosen on these rows."""
        if self.thresholds != "validation":
            return evaluated.facts
        scores, labels = probabilities(evaluated), evaluated.targets["labels"]
        chosen = [best_threshold(*pair) for pair in zip(scores.T, labels.T, strict=True)]
        return {**evaluated.facts, "thresholds": chosen}

    @override
    def answers(self, evaluated: Evaluated, inputs: Sequence[Any], scores: bool) -> list[dict[str, Any]]:
        """`{"labels": [name, ...], "scores": {label: probability}}` for each row."""
        names = evaluated.facts["labels"]
        return [
            {
                "labels": [name for name, had in zip(names, row, strict=True) if had],
                "scores": dict(zip(names, shares, strict=True)),
            }
            for row, shares in zip(self._has(evaluated), probabilities(evaluated).tolist(), strict=True)
        ]

    @classmethod
    @override
    def imported(
        cls,
        source: Source,
        max_length: int,
        count: int | None,
        names: Sequence[str] | None,
        config: Mapping[str, Any],
    ) -> "MultiLabelClassification":
        """With the thresholds that `hf_config` has put into `config`; 0.5 where there are none, as in transformers."""
        task: Any = super().imported(source, max_length, count, names, config)
        given = config.get("thresholds", [])
        numbers = isinstance(given, list) and all(isinstance(one, int | float) and 0 < one < 1 for one in given)
        if not numbers or len(given) not in (0, count):
            raise UserError(
                f"config.json has thresholds = {given!r} for {count} labels; give a number between 0 and 1 for each."
            )
        return dataclasses.replace(task, thresholds=tuple(map(float, given)) or USUAL)

    @override
    def hf_config(self, facts: Facts) -> dict[str, Any]:
        """`id2label` and `label2id`, and thresholds other than 0.5 as `thresholds`, a field that transformers keeps and
        does not use."""
        thresholds = self.thresholds_of(facts)
        return {
            **super().hf_config(facts),
            **({"thresholds": thresholds.tolist()} if (thresholds != USUAL).any() else {}),
        }

    @override
    def fit(self, rows: Rows) -> Facts:
        facts = super().fit(rows)
        names = facts["labels"]
        if not names:
            raise UserError(f"No row of {rows.name} has a label in column {self.label!r}; give rows that have.")
        if isinstance(self.thresholds, tuple) and len(self.thresholds) != len(names):
            given = len(self.thresholds)
            raise UserError(f"thresholds has {given} numbers for {len(names)} labels; give one for each.")
        return facts

    @override
    def report_targets(self, examples: Examples) -> dict[str, Any]:
        """How often each label is there, how many a row has, and how many rows have none."""
        has = examples.targets["labels"].values.sum(1)
        of_rows = {"labels a row, mean": float(has.mean()), "rows without a label": int((has == 0).sum())}
        return {**of_rows, **super().report_targets(examples)}

    @override
    def check_training_rows(self, examples: Examples, name: str) -> None:
        if not examples.targets["labels"].values.any():
            raise UserError(f"No row of the training split {name} has a label; give rows that have.")

    @override
    def check(self) -> None:
        super().check()
        if self.thresholds == "validation" and "validation" not in self.source.splits:
            raise UserError(
                "thresholds='validation' are chosen on validation rows, and the source has none; name them, or "
                "give numbers."
            )


def probabilities(evaluated: Evaluated) -> Float[np.ndarray, "N C"]:
    """The probability of each label, float64."""
    from scipy.special import expit

    return expit(np.asarray(evaluated.outputs["logits"], np.float64))


def best_threshold(scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> float:
    """The threshold of the best F1, half-way between two scores; of equally good ones that nearest to 0.5, which is
    also taken where no row has the label."""
    if not labels.any():
        return USUAL
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], np.cumsum(labels[order])
    f1 = 2 * right / (np.arange(1, len(scores) + 1) + labels.sum())  # of taking the first 1, 2, ... rows
    below = np.append(ranked[1:], -1.0)
    possible = ranked > below  # rows of one score are taken together
    middle = np.where(possible, (ranked + np.maximum(below, 0)) / 2, np.nan)
    best = possible & (f1 == f1[possible].max(initial=0.0))
    found = middle[best]
    return float(found[np.argmin(np.abs(found - USUAL))]) if len(found) else USUAL
