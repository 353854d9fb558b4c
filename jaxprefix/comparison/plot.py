"""A comparison as a picture: the mean of every method with its deviation, and every seed (extra `plots`)."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from jaxprefix.comparison.table import Row
from jaxprefix.errors import UserError
from jaxprefix.paths import write_atomically

INK, MUTED, DOT, BAR = "#1b1b1b", "#6b6b6b", "#9db7d5", "#1f4e79"


def plot_rows(rows: Sequence[Row], path: Path, *, title: str, metric: str, reference: str) -> None:
    """Writes the picture, the best method on top.

    Args:
      rows: best first.
      path: a `.png`, `.svg` or `.pdf` file.
      title: above it.
      metric: names the axis.
      reference: its mean is the dotted line.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plots need their extra; run `pip install 'jaxprefix[plots]'`.") from error
    shown = [row for row in rows if not math.isnan(row.mean)]
    figure = Figure(figsize=(7.2, 1.4 + 0.36 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(shown):
        known = [value for value in row.values if math.isfinite(value)]
        axes.plot(known, [place + 0.24] * len(known), "o", color=DOT, markersize=3.5, zorder=2)
        spread = 0.0 if math.isnan(row.deviation) else row.deviation
        axes.errorbar(row.mean, place, xerr=spread, fmt="D", color=BAR, markersize=5, capsize=3, lw=1.4, zorder=3)
        if row.name == reference:
            axes.axvline(row.mean, color=MUTED, lw=0.8, ls=":", zorder=1)
    labels = [f"{row.name}  ({row.percent:.3g} %)" for row in shown]
    axes.set_yticks(range(len(shown)), labels, color=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(metric, color=INK)
    axes.set_title(f"{title}\nmean and deviation over seeds; dots are seeds", loc="left", fontsize=10, color=INK)
    axes.grid(axis="x", color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    content = io.BytesIO()
    figure.savefig(content, dpi=160, format=path.suffix.removeprefix("."))
    write_atomically(path, content.getvalue())
