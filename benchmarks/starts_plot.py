"""The curves of benchmarks/starts.py as docs/starts.png (extra `plots`): `python benchmarks/starts_plot.py`."""

import json
from typing import Any

import numpy as np
from common import RESULTS, ROOT

INK, GRID = "#1b1b1b", "#e4e4e4"
COLOURS = ("#1b1b1b", "#8a8a8a", "#c2410c", "#b7950b", "#2a7f62", "#2166ac", "#7b3294")
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8)


def draw(figures: dict[str, Any]) -> None:
    """Validation loss by step, the mean over seeds as a line and the deviation as a band: all steps, and the later ones
    at a scale of their own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    whole, late = figure.subplots(1, 2, width_ratios=(1, 1.3))
    ends: list[tuple[float, str, str]] = []
    for name, colour in zip(figures["starts"], COLOURS, strict=False):
        found = figures["starts"][name]
        if not found["runs"]:
            continue
        curves = np.array([run["curve"] for run in found["runs"].values()])
        steps, losses = curves[0, :, 0], curves[:, :, 1]
        mean, deviation = losses.mean(0), losses.std(0, ddof=1) if len(losses) > 1 else 0 * losses[0]
        for axes, shown in ((whole, steps >= 0), (late, steps >= 0.4 * figures["steps"])):
            band = (mean - deviation)[shown], (mean + deviation)[shown]
            axes.fill_between(steps[shown], *band, color=colour, alpha=0.13, lw=0)
            axes.plot(steps[shown], mean[shown], "-o", color=colour, lw=1.6, markersize=3)
        ends.append((mean[-1], f"{name} ({found['rate']:g})", colour))
    whole.set_yscale("log")
    low, high = whole.get_ylim()
    ticks = [tick for tick in TICKS if low <= tick <= high]
    whole.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    whole.minorticks_off()
    whole.set_ylabel("validation loss, nats per token", color=INK)
    whole.set_title("all steps, log scale", loc="left", fontsize=9, color=INK)
    late.set_title("the later steps; in brackets the learning rate", loc="left", fontsize=9, color=INK)
    low, high = late.get_ylim()
    for place, (_, label, colour) in zip(apart([end for end, *_ in ends], 0.052 * (high - low)), ends, strict=True):
        late.annotate(label, (1.02, place), xycoords=("axes fraction", "data"), color=colour, va="center", fontsize=9)
    for axes in (whole, late):
        axes.set_xlabel("step", color=INK)
        axes.grid(axis="y", color=GRID, lw=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(
        f"Starts of a prefix of {figures['length']} virtual tokens, triples to text: mean and deviation over seeds, "
        "each at its best learning rate",
        x=0.01,
        ha="left",
        fontsize=10,
        color=INK,
    )
    figure.savefig(ROOT / "docs" / "starts.png", dpi=160)


def apart(places: list[float], gap: float) -> list[float]:
    """The places moved so that neighbours are at least a gap apart, around where they were."""
    order = np.argsort(places)
    moved = np.array(places, float)[order]
    for _ in range(100):
        for left in range(len(moved) - 1):
            short = gap - (moved[left + 1] - moved[left])
            if short > 0:
                moved[left : left + 2] += (-short / 2, short / 2)
    found = np.empty_like(moved)
    found[order] = moved
    return found.tolist()


if __name__ == "__main__":
    draw(json.loads((RESULTS / "starts.json").read_text())["figures"])
