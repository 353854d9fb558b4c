"""One label for a text, or for a pair of texts."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.data.examples import Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.models.heads import LabelHead, PooledHead, cross_entropy, example_weights, label_targets, register_head
from jaxprefix.models.heads.base import label_outputs
from jaxprefix.tasks.base import Evaluated, Facts, Metric, register_task
from jaxprefix.tasks.labelled import LabelledTask, label_probabilities
from jaxprefix.tasks.metrics import ACCURACY, LOSS, f1_macro, predicted
from jaxprefix.tasks.text_task import TextTask
from jaxprefix.tasks.tokenizing import Chunk
from jaxprefix.values import Count

log = logging.getLogger("jaxprefix")


@register_head
@dataclasses.dataclass(frozen=True)
class SequenceClassifier(LabelHead, PooledHead):
    """One label for a row, by a linear map of one vector."""

    task: ClassVar[str] = "classification"
    task_type: ClassVar[str | None] = "SEQ_CLS"
    problem_type: ClassVar[str | None] = "single_label_classification"

    @override
    def loss(
        self, logits: Float[Array, "B C"], batch: Mapping[str, Any], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of losses and of weights over the rows."""
        labels, weight = label_targets(batch, logits.shape[:-1]), example_weights(batch, len(logits))
        return cross_entropy(logits, labels, weight, self.class_weights, smoothing)

    @override
    def outputs(self, logits: Float[Array, "B C"], batch: Mapping[str, Any]) -> dict[str, Array]:
        """`predictions` int32 `[B]`, `logits` `[B, C]` and, with labels, `losses` `[B]`."""
        return {**label_outputs(logits, batch), "logits": logits}


@register_task
@dataclasses.dataclass(frozen=True)
class Classification(TextTask, LabelledTask):
    """One label for a text, or for a pair of texts."""

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text, or of the first text of a pair; not read where `template` is given."""
    text_pair: str | None = None
    """Column of the second text; not read where `template_pair` is given."""
    label: str = "label"
    """Column of the label."""
    labels: tuple[str, ...] | None = None
    """The labels in the order of the logits; by default the dataset's own, else the training rows' own, sorted."""
    template: str | None = None
    """Makes the first text out of columns: `{question} {passage}`."""
    template_pair: str | None = None
    """Makes the second text out of columns."""
    max_length: Count = 128
    """Longest input in tokens, special tokens included; of a pair the longer text is cut first."""
    truncation: bool = True
    """Whether longer inputs are cut; if not, they are an error."""
    metric: Literal["accuracy", "f1_macro"] = "accuracy"
    """The metric that chooses the best checkpoint."""

    question: ClassVar[str] = "classification"
    cache_version: ClassVar[int | None] = 1

    @property
    @override
    def label_column(self) -> str:
        return self.label

    @override
    def raw_labels(self, rows: Rows, row: Mapping[str, Any], index: int) -> list[Any]:
        return [rows.value(row, index, self.label)]

    @override
    def target_reader(self, rows: Rows, facts: Facts) -> Callable[[Chunk], dict[str, np.ndarray]]:
        find = self.label_finder(rows, facts)

        def read(chunk: Chunk) -> dict[str, np.ndarray]:
            labels = [find(rows.value(row, index, self.label), index) for index, row in chunk]
            return {"labels": np.array(labels, np.int32)}

        return read

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        return {"labels": TargetSpec("row")}

    @classmethod
    @override
    def default_head(cls) -> SequenceClassifier:
        return SequenceClassifier()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": ACCURACY, "f1_macro": Metric(lambda found: f1_macro(*predicted(found))), "loss": LOSS}

    @override
    def answers(self, evaluated: Evaluated, inputs: Sequence[Any], scores: bool) -> list[dict[str, Any]]:
        """`{"label", "score", "scores": {label: probability}}` for each row."""
        names = evaluated.facts["labels"]
        probabilities = label_probabilities(evaluated.outputs["logits"])
        return [
            {"label": names[best], "score": float(row[best]), "scores": dict(zip(names, row.tolist(), strict=True))}
            for row, best in zip(probabilities, probabilities.argmax(-1).tolist(), strict=True)
        ]

    @override
    def check_training_rows(self, examples: Examples, name: str) -> None:
        refuse_one_class(examples, name)
        tell_many_classes(examples, name)


def tell_many_classes(examples: Examples, name: str) -> None:
    """Says where labels are so many that the column may not be one of labels."""
    if 2 * len(examples.labels) > len(examples):
        log.warning(
            "the training split %s has %d labels for %d rows; is the column one of labels?",
            *(name, len(examples.labels), len(examples)),
        )


def refuse_one_class(examples: Examples, name: str) -> None:
    """Refuses, as UserError, training rows that all have one label."""
    seen = np.unique(examples.targets["labels"].values)
    seen = seen[seen >= 0]
    if len(seen) < 2:
        only = examples.labels[seen[0]] if len(seen) else "none"
        raise UserError(
            f"All rows of the training split {name} have one label ({only}); give rows of two classes or more."
        )
