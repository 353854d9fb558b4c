"""One number, or several, for a text or for a pair of texts."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float
from typing_extensions import override

from jaxprefix.data.examples import Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.models.heads import REAL, PooledHead, example_weights, read_target, register_head
from jaxprefix.tasks.base import Evaluated, Facts, Metric, register_task
from jaxprefix.tasks.labels import named_labels
from jaxprefix.tasks.text_task import TextTask
from jaxprefix.tasks.tokenizing import Chunk
from jaxprefix.values import Count

LARGEST = 1e150  # of a target: squares of larger ones are infinite


@register_head
@dataclasses.dataclass(frozen=True)
class Regressor(PooledHead):
    """Numbers for a row, by a linear map of one vector; the loss is the squared error, a mean over the numbers, as that
    of transformers' classifiers with `problem_type = "regression"`."""

    task: ClassVar[str] = "regression"
    task_type: ClassVar[str | None] = "SEQ_CLS"
    problem_type: ClassVar[str | None] = "regression"
    targets: ClassVar[tuple[str, ...] | None] = ("values",)
    smooths: ClassVar[bool] = False
    over_labels: ClassVar[tuple[str, ...]] = ("values",)

    @property
    @override
    def padded_bias(self) -> float:
        return np.nan

    @override
    def loss(
        self, logits: Float[Array, "B C"], batch: Mapping[str, Any], smoothing: float = 0.0
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sum of squared errors and of weights over the rows."""
        weight = example_weights(batch, len(logits))
        values = read_target(batch, "values", logits.shape, "numbers", REAL)
        return (_squared_errors(logits, values) * weight).sum(), weight.sum()

    @override
    def outputs(self, logits: Float[Array, "B C"], batch: Mapping[str, Any]) -> dict[str, Array]:
        """`values` `[B, C]`, standardised as the targets are, and, with targets, `losses` `[B]`."""
        losses = {"losses": _squared_errors(logits, batch["values"])} if "values" in batch else {}
        return {"values": logits, **losses}


def _squared_errors(values: Float[Array, "B C"], targets: Float[Array, "B C"]) -> Float[Array, " B"]:
    return jnp.square(values - targets).mean(-1)


@register_task
@dataclasses.dataclass(frozen=True)
class Regression(TextTask):
    """One number, or several, for a text or for a pair of texts.

    Targets are standardised by mean and standard deviation of the training rows, which are kept with the adapter and
    undone in answers and metrics.
    """

    source: Source
    """Where the rows come from."""
    text: str = "text"
    """Column of the text, or of the first text of a pair; not read where `template` is given."""
    text_pair: str | None = None
    """Column of the second text; not read where `template_pair` is given."""
    target: str | tuple[str, ...] = "score"
    """Column of the number, or the columns of several."""
    template: str | None = None
    """Makes the first text out of columns: `{question} {passage}`."""
    template_pair: str | None = None
    """Makes the second text out of columns."""
    max_length: Count = 128
    """Longest input in tokens, special tokens included; of a pair the longer text is cut first."""
    truncation: bool = True
    """Whether longer inputs are cut; if not, they are an error."""
    metric: Literal["pearson", "spearman", "mse"] = "pearson"
    """The metric that chooses the best checkpoint: of several targets its mean."""

    question: ClassVar[str] = "regression"
    cache_version: ClassVar[int | None] = 1

    @property
    @override
    def target_columns(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @override
    def learns_from_rows(self, rows: Rows) -> bool:
        return True

    @override
    def fit(self, rows: Rows) -> Facts:
        """`mean` and `scale`, the standard deviation, of each target over the rows."""
        values = np.array([self._numbers(rows, row, index) for index, row in enumerate(rows)], np.float64)
        for column, found in zip(self.target_columns, values.T, strict=True):
            if np.ptp(found) == 0:
                raise UserError(
                    f"All rows of {rows.name} have the same {column!r} ({found[0]:g}), so nothing can be learned; give "
                    "rows that differ in it."
                )
            if not np.abs(found).max() < LARGEST:
                raise UserError(f"A {column!r} of {rows.name} is {np.abs(found).max():g}; scale the numbers down.")
        return {"mean": values.mean(0).tolist(), "scale": values.std(0).tolist()}

    @override
    def count(self, facts: Facts | None) -> int | None:
        return len(self.target_columns)

    @override
    def target_reader(self, rows: Rows, facts: Facts) -> Callable[[Chunk], dict[str, np.ndarray]]:
        def read(chunk: Chunk) -> dict[str, np.ndarray]:
            numbers = np.array([self._numbers(rows, row, index) for index, row in chunk], np.float64)
            return {"values": ((numbers - facts["mean"]) / facts["scale"]).astype(np.float32)}

        return read

    def _numbers(self, rows: Rows, row: Mapping[str, Any], index: int) -> list[float]:
        return [read_number(rows, row, index, column) for column in self.target_columns]

    @override
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        return {"values": TargetSpec("row", np.float32, (len(self.target_columns),))}

    @override
    def report_targets(self, examples: Examples) -> dict[str, Any]:
        """Mean, standard deviation, least and largest of each target, in its own units."""
        values = examples.targets["values"].values * np.array(examples.facts["scale"]) + examples.facts["mean"]
        names = {"mean": np.mean, "deviation": np.std, "least": np.min, "largest": np.max}
        exact = [5 - math.floor(math.log10(np.abs(found).max() or 1)) for found in values.T]  # as far as float32 is
        return {
            column: {name: float(np.round(of(found), digits)) for name, of in names.items()}
            for column, found, digits in zip(self.target_columns, values.T, exact, strict=True)
        }

    @classmethod
    @override
    def default_head(cls) -> Regressor:
        return Regressor()

    @property
    @override
    def metrics(self) -> dict[str, Metric]:
        return {
            "pearson": Metric(self._each(pearson)),
            "spearman": Metric(self._each(spearman)),
            "mse": Metric(self._each(lambda targets, found: float(np.mean((targets - found) ** 2))), False),
            "loss": Metric(lambda evaluated: float(np.mean(evaluated.outputs["losses"], dtype=np.float64)), False),
        }

    def _each(self, figure: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Evaluated], dict[str, float]]:
        """A figure of every target and, under `""`, their mean."""

        def value(evaluated: Evaluated) -> dict[str, float]:
            standardised = evaluated.targets["values"], evaluated.outputs["values"]
            targets, found = (restored(values, evaluated.facts) for values in standardised)
            each = [figure(*pair) for pair in zip(targets.T, found.T, strict=True)]
            named = dict(zip(self.target_columns, each, strict=True)) if len(each) > 1 else {}
            return {"": float(np.mean(each)), **named}

        return value

    @override
    def answers(self, evaluated: Evaluated, inputs: Sequence[Any], scores: bool) -> list[dict[str, Any]]:
        """`{"value"}` for each row, or `{"values": {column: value}}` of several targets."""
        found = restored(evaluated.outputs["values"], evaluated.facts).tolist()
        if isinstance(self.target, str):
            return [{"value": value} for (value,) in found]
        return [{"values": dict(zip(self.target_columns, values, strict=True))} for values in found]

    @override
    def with_names(self, names: Sequence[str] | None, otherwise: Sequence[str] | None = None) -> "Regression":
        """The task with these columns; its own ones are as good as those of the files."""
        if not names:
            return self
        return dataclasses.replace(self, target=names[0] if len(names) == 1 else tuple(names))

    @override
    def imported_facts(self, count: int | None) -> Facts:
        """Numbers as they are: other libraries do not standardise."""
        columns = self.target_columns
        if len(columns) != count or len(set(columns)) != count:
            raise UserError(f"the head has {count} outputs, but these are named: {', '.join(columns)}; name each once.")
        return {"mean": [0.0] * len(columns), "scale": [1.0] * len(columns)}

    @override
    def hf_config(self, facts: Facts) -> dict[str, Any]:
        """The columns as `id2label` and `label2id`."""
        return named_labels(self.target_columns)

    @override
    def output_units(self, facts: Facts) -> tuple[np.ndarray, np.ndarray]:
        """The targets' own: their standard deviations and means."""
        return np.asarray(facts["scale"], np.float64), np.asarray(facts["mean"], np.float64)

    @override
    def check(self) -> None:
        names = self.target_columns
        if not names or len(set(names)) != len(names):
            raise UserError(f"target names the columns {names}; name one, or several once each.")


def restored(values: Float[np.ndarray, "N C"], facts: Facts) -> Float[np.ndarray, "N C"]:
    """Standardised numbers in the targets' own units, float64."""
    return np.asarray(values, np.float64) * facts["scale"] + facts["mean"]


def read_number(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> float:
    """A finite number, or the text of one; `UserError` names row, column and value otherwise."""
    value = rows.value(row, index, column)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{rows.locate(index)} has {value!r} in column {column!r}, which is no finite number; correct or remove it."
        )
    return number


def pearson(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    """The correlation; NaN where one side is constant, since it is undefined then."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float((a @ b) / math.sqrt((a @ a) * (b @ b)))


def spearman(a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]) -> float:
    """The correlation of ranks, ties having their mean rank; NaN where one side is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(b))
