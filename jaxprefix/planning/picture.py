"""Memory per device as a picture: a bar for each step, a colour for each kind, a line for what there is."""

from collections.abc import Sequence
from pathlib import Path

from jaxprefix.analysis.memory import KINDS
from jaxprefix.errors import UserError
from jaxprefix.planning.plan import Plan, Step
from jaxprefix.planning.table import GIB, LABELS

INK, LIMIT = "#1b1b1b", "#b3261e"
COLOURS = ("#1f4e79", "#d98c2b", "#e8c07d", "#7a9e7e", "#9db7d5", "#c9c9c9", "#6b6b6b")


def draw_plans(plans: Sequence[tuple[str, Plan]], path: Path, *, title: str) -> None:
    """Writes the picture.

    Args:
      plans: with their names.
      path: a `.png`, `.svg` or `.pdf` file.
      title: above it.

    Raises:
      UserError: matplotlib is missing, or no plan has anything to show.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need their extra; run `pip install 'jaxprefix[plots]'`.") from error
    bars: list[tuple[str, Step]] = [
        (f"{name}{part}", step)
        for name, plan in plans
        for part, step in ((" training", plan.train), (" evaluation", plan.evaluate))
        if step is not None and (step.memory is not None or step.needed is not None)
    ]
    if not bars:
        raise UserError("the compiler said nothing of memory, so there is no picture; remove --picture.")
    figure = Figure(figsize=(7.6, 1.8 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for place, (_, step) in enumerate(bars):
        left = 0.0
        if step.memory is None:
            assert step.needed is not None  # else there is no bar
            axes.barh(place, step.needed / GIB, color="none", edgecolor=LIMIT, hatch="///", height=0.6)
            continue
        for kind, colour in zip(KINDS, COLOURS, strict=True):
            size = getattr(step.memory, kind) / GIB
            axes.barh(place, size, left=left, color=colour, height=0.6, label=LABELS[kind] if place == 0 else None)
            left += size
    capacities = {plan.capacity for _, plan in plans if plan.capacity is not None}
    for capacity in capacities:
        axes.axvline(capacity / GIB, color=LIMIT, lw=1.4)
        axes.text(capacity / GIB, -0.55, f" {capacity / GIB:.2f} GiB", color=LIMIT, fontsize=8, va="bottom")
    axes.set_yticks(range(len(bars)), [name.strip() for name, _ in bars], color=INK)
    axes.set_ylim(len(bars) - 0.4, -0.8)
    axes.set_xlabel("GiB per device", color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.grid(axis="x", color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=160)
