"""The table of a comparison: means, deviations, paired differences; as Markdown and CSV."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = (
    *("method", "trained", "% of backbone", "rate", "mean", "deviation", "best", "difference", "95 % from", "to"),
    *("ms per step", "MiB of a step", "failed"),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A method's line.

    Attributes:
      name: of the method.
      trained: parameters, the head's among them.
      percent: these as percent of the backbone's.
      rate: the learning rate that the development set chose.
      at_edge: whether it is the lowest or the highest of several that were tried.
      values: the metric of every seed, in the order of the seeds; NaN where a run gave none.
      mean, deviation, best: of the values; the deviation is the sample's, NaN for a single seed.
      difference: mean of the differences to the reference, seed by seed; NaN for the reference itself.
      interval: ends of its 95 % interval by Student's t; NaN for fewer than two seeds.
      step_seconds, step_bytes: of one update of a single run.
      failed: seeds whose training was not finite any more.
    """

    name: str
    trained: int
    percent: float
    rate: float
    at_edge: bool
    values: tuple[float, ...]
    mean: float
    deviation: float
    best: float
    difference: float
    interval: tuple[float, float]
    step_seconds: float
    step_bytes: int
    failed: int


def make_rows(
    stages: Mapping[str, Mapping[str, Any]], reference: str, metric: str, split: str, backbone: int, maximise: bool
) -> tuple[Row, ...]:
    """The lines of a finished comparison, best mean first.

    Args:
      stages: by method, what its stages gave: `rates` (trials), `rate`, `seeds` (trials), `cost`.
      reference: the method that differences are taken from.
      metric: the one that is compared.
      split: of the rows that it was measured on.
      backbone: its parameters.
      maximise: whether more of the metric is better.
    """
    values = {name: _values(found["seeds"], metric, split) for name, found in stages.items()}
    rows = []
    for name, found in stages.items():
        known = [value for value in values[name] if math.isfinite(value)]
        paired = [a - b for a, b in zip(values[name], values[reference], strict=True)] if name != reference else []
        difference, interval = paired_interval(paired)
        tried = sorted(trial["fields"]["optimizer.learning_rate"] for trial in found["rates"])
        rows.append(
            Row(
                name=name,
                trained=found["cost"]["trained"],
                percent=100 * found["cost"]["trained"] / backbone,
                rate=found["rate"],
                at_edge=len(tried) > 1 and found["rate"] in (tried[0], tried[-1]),
                values=values[name],
                mean=statistics.fmean(known) if known else math.nan,
                deviation=statistics.stdev(known) if len(known) > 1 else math.nan,
                best=(max if maximise else min)(known, default=math.nan),
                difference=difference,
                interval=interval,
                step_seconds=found["cost"]["step_seconds"],
                step_bytes=found["cost"]["step_bytes"],
                failed=sum(trial["failed"] for trial in found["seeds"]),
            )
        )
    worst = -math.inf if maximise else math.inf
    return tuple(sorted(rows, key=lambda row: worst if math.isnan(row.mean) else row.mean, reverse=maximise))


def _values(trials: Sequence[Mapping[str, Any]], metric: str, split: str) -> tuple[float, ...]:
    found = (trial["metrics"].get(split, {}).get(metric) for trial in trials)
    return tuple(math.nan if value is None else value for value in found)


def paired_interval(differences: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean of paired differences and its 95 % interval by Student's t; pairs with a NaN are left out."""
    known = [value for value in differences if math.isfinite(value)]
    if not known:
        return math.nan, (math.nan, math.nan)
    mean = statistics.fmean(known)
    if len(known) < 2:
        return mean, (math.nan, math.nan)
    from scipy.stats import t

    half = float(t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) / math.sqrt(len(known))
    return mean, (mean - half, mean + half)


def markdown(rows: Sequence[Row], notes: str) -> str:
    """The table with its notes below."""
    lines = [HEAD, ("---",) * len(HEAD), *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{notes}\n"


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.interval
    return (
        *(row.name, f"{row.trained:,}", f"{row.percent:.2f}", f"{row.rate:.2g}{'*' if row.at_edge else ''}"),
        *(_number(value) for value in (row.mean, row.deviation, row.best)),
        *(_number(value, signed=True) for value in (row.difference, low, high)),
        *(f"{1000 * row.step_seconds:.0f}", f"{row.step_bytes / 2**20:.0f}", str(row.failed)),
    )


def _number(value: float, signed: bool = False) -> str:
    return "" if math.isnan(value) else f"{value:{'+' if signed else ''}.4f}"


def comma_separated(rows: Sequence[Row]) -> str:
    """The same in full precision, with the value of every seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    seeds = max((len(row.values) for row in rows), default=0)
    names = [field.name for field in dataclasses.fields(Row) if field.name not in ("values", "interval")]
    writer.writerow([*names, "low", "high", *(f"seed_{index}" for index in range(seeds))])
    for row in rows:
        cells = [*(getattr(row, name) for name in names), *row.interval, *row.values]
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells])
    return text.getvalue()
