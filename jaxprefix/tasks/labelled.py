"""What tasks with a list of labels have in common."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from jaxprefix.contract import required
from jaxprefix.data.examples import Examples
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError
from jaxprefix.tasks.base import Facts, Task
from jaxprefix.tasks.labels import checked_labels, label_finder, label_names, named_labels


def label_probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the labels, `[N, C]`; by NumPy, which compiles nothing for another number of rows."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class LabelledTask(Task):
    """A task whose logits are for labels with names, which it lists or its training rows tell.

    Attributes:
      labels: the labels in the order of the logits, or None.
      fewest: how many labels there must be.
    """

    labels: tuple[str, ...] | None
    fewest: ClassVar[int] = 2

    @property
    @required
    def label_column(self) -> str:
        """Where the labels are."""
        raise NotImplementedError

    @property
    @override
    def target_columns(self) -> tuple[str, ...]:
        return (self.label_column,)

    def label_finder(self, rows: Rows, facts: Facts) -> Callable[[Any, int], int]:
        """From a label of these rows, and its row's number, to its index among the names."""
        return label_finder(rows, self.label_column, facts["labels"], self.raw_labels)

    @required
    def raw_labels(self, rows: Rows, row: Mapping[str, Any], index: int) -> Iterable[Any]:
        """The labels of a row as they stand there."""
        raise NotImplementedError

    @override
    def learns_from_rows(self, rows: Rows) -> bool:
        return self.labels is None and self.label_column not in rows.class_names

    @override
    def fit(self, rows: Rows) -> Facts:
        return {"labels": list(label_names(self.labels, self.label_column, rows, self.raw_labels))}

    @override
    def count(self, facts: Facts | None) -> int | None:
        names = self.labels if facts is None else facts["labels"]
        return None if names is None else len(names)

    @override
    def with_names(self, names: Sequence[str] | None, otherwise: Sequence[str] | None = None) -> "Task":
        found = names or self.labels or otherwise
        this: Any = self  # of a subclass, which is a dataclass
        return this if found is None else dataclasses.replace(this, labels=tuple(found))

    @override
    def imported_facts(self, count: int | None) -> Facts:
        named = self.labels or tuple(f"LABEL_{index}" for index in range(count or 0))
        if count is not None and count < self.fewest:
            raise UserError(
                "the head has one output, as for a regression; import an adapter that chooses among labels."
            )
        if len(named) != count or len(set(named)) != count:
            raise UserError(f"the head has {count} labels, but these are given: {', '.join(named)}; name each once.")
        return {"labels": list(named)}

    @override
    def report_targets(self, examples: Examples) -> dict[str, Any]:
        """How often each label is there."""
        names, target = examples.labels, examples.targets.get("labels")
        if target is None or target.values.dtype.kind not in "bi":
            return super().report_targets(examples)
        values = target.values
        counts = values.sum(0) if values.dtype == bool else np.bincount(values[values >= 0], minlength=len(names))
        return {"labels": dict(zip(names, counts.tolist(), strict=False))}

    @override
    def hf_config(self, facts: Facts) -> dict[str, Any]:
        """`id2label` and `label2id`."""
        return named_labels(facts["labels"])

    @override
    def check(self) -> None:
        if self.labels is not None:
            checked_labels(self.labels)
