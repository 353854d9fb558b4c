"""Where a prefix begins: random numbers, zeros, masses of 0, words or a text, each at its best learning rate.

    python benchmarks/starts.py

P-Tuning v2 of one length on the embedded triples-to-text task. Every start has the same method but for the scale of its
random numbers and, in the no-op start, the masses; positions are not shifted in any of them, because the no-op start
cannot have that. One population of learning rates chooses a start's rate by the validation loss of one seed, and is
widened while the best rate is the lowest or the highest that was tried; then a population of seeds is trained at it. A
seed stands for the random numbers (or the drawn words) and for the order of the data, so that the starts are paired by
the order of their data. Test losses are those of the leaves with the best validation loss. What was measured already
is not made again. The curves are drawn into docs/starts.png (extra `plots`).
"""

import argparse
import dataclasses
import json
import logging
import math
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import RESULTS, ROOT, save, versions
from starts_plot import draw

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers
from jaxprefix.cli.configs import load_config
from jaxprefix.comparison.table import paired_interval
from jaxprefix.population.loop import Population
from jaxprefix.population.members import member_of, member_runs
from jaxprefix.starts import Start

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
FIRST = slice(3, 7)  # of RATES; the others are tried where the best of these is the lowest or the highest
SEARCH_SEED = 100
REFERENCES = ("random", "random, wide")
SAID = "All that is known is told in sentences."
SHOWN = "Karik | known for | songs\nKarik is known for songs."
STARTS: dict[str, tuple[dict[str, Any], Start | None]] = {
    "random": ({}, None),
    "random, wide": ({"init_std": 0.5}, None),
    "zero": ({"init_std": 0.0}, None),
    "no-op": ({"no_op_start": True}, None),
    "vocabulary": ({}, jp.VocabularyStart()),
    "text, a request": ({}, jp.TextStart(SAID)),
    "text, an example": ({}, jp.TextStart(SHOWN)),
}


def started(run: jp.Run, name: str, seed: int) -> jp.Run:
    """The run of a start; the words of the vocabulary are drawn by the seed."""
    fields, start = STARTS[name]
    if isinstance(start, jp.VocabularyStart):
        start = dataclasses.replace(start, seed=seed)
    return dataclasses.replace(run, method=dataclasses.replace(run.method, **fields), start=start)


def train(run: jp.Run, members: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each member comes to: validation losses by step, from step 0 on, and the losses of its best leaves."""
    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(run, folder=folder)
        population = Population(run, member_runs(run, members), independent_order=True, vmap_size=None)
        born = population.init().train.trainable
        before = [metrics["loss"] for metrics in population.measure(born, "validation")]
        found = jp.train_population(run, members, independent_order=True).members
        return [
            {
                "curve": [(0, loss), *((step, math.log(value)) for step, value in member.history.evaluations)],
                "validation": member.metrics["validation"]["loss"],
                "test": member.metrics["test"],
                "failed": member.history.failed_at is not None,
                "begins": looks(member_of(born, index), run),
                "ends": looks(member.trainable, run),
            }
            for index, (loss, member) in enumerate(zip(before, found, strict=True))
        ]


def looks(trainable: Any, run: jp.Run) -> dict[str, float]:
    """The root mean square of keys and of values, and how far the virtual tokens of a layer are from their mean, as a
    share of it: 0 where all are the same token."""
    seen = {}
    for name in ("keys", "values"):
        leaf = np.asarray(trainable["method"][name], np.float64)
        leaf = leaf.reshape(-1, run.method.length, leaf[0].size)
        size = math.sqrt((leaf**2).mean())
        spread = math.sqrt(((leaf - leaf.mean(1, keepdims=True)) ** 2).mean())
        seen |= {name: size, f"{name}_spread": spread / size if size else 0.0}
    return seen


def search(run: jp.Run, name: str, losses: dict[str, float | None], keep: Any) -> float:
    """The best of the learning rates; `losses` is filled (None for a run that failed), and every population kept."""

    def loss(rate: float) -> float:
        known = losses[f"{rate:g}"]
        return math.inf if known is None else known

    run = dataclasses.replace(started(run, name, SEARCH_SEED), evaluate_every=run.steps)
    wanted = list(RATES[FIRST])
    while True:
        missing = [rate for rate in wanted if f"{rate:g}" not in losses]
        if missing:
            members = [{"seed": SEARCH_SEED, "optimizer.learning_rate": rate} for rate in missing]
            for rate, found in zip(missing, train(run, members), strict=True):
                losses[f"{rate:g}"] = None if found["failed"] else found["validation"]
            keep()
        best = min(wanted, key=loss)
        place = RATES.index(best)
        if best == min(wanted) and place > 0:
            wanted.append(RATES[place - 1])
        elif best == max(wanted) and place + 1 < len(RATES):
            wanted.append(RATES[place + 1])
        else:
            return best


def train_seeds(run: jp.Run, name: str, rate: float, seeds: int, runs: dict[str, Any], keep: Any) -> None:
    """Fills `runs` by seed: one population for all seeds that share a start."""
    run = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, learning_rate=rate))
    groups: dict[jp.Run, list[int]] = {}
    for seed in range(seeds):
        if str(seed) not in runs:
            groups.setdefault(started(run, name, seed), []).append(seed)
    for shared, members in groups.items():
        found = train(shared, [{"seed": seed} for seed in members])
        runs.update(zip(map(str, members), found, strict=True))
        keep()


def summary(starts: dict[str, Any]) -> None:
    """Adds means, deviations and paired differences to the references to every start that has runs."""
    losses = {
        name: {seed: found["test"]["loss"] for seed, found in start["runs"].items()} for name, start in starts.items()
    }
    for name, own in losses.items():
        if not own:
            continue
        start, known = starts[name], list(own.values())
        start["mean"] = statistics.fmean(known)
        start["deviation"] = statistics.stdev(known) if len(known) > 1 else None
        start["differences"] = {}
        for reference in REFERENCES:
            theirs = losses.get(reference, {})
            if name != reference and own.keys() <= theirs.keys():
                mean, interval = paired_interval([loss - theirs[seed] for seed, loss in own.items()])
                start["differences"][reference] = {"mean": mean, "interval": interval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--length", type=int, default=16, help="virtual tokens of each layer; the texts have 16")
    options = parser.parse_args()
    logging.getLogger("jaxprefix").setLevel(logging.WARNING)
    keep_large_buffers()
    run = dataclasses.replace(
        load_config(str(ROOT / "configs" / "triples.py")),
        method=jp.PTuningV2(length=options.length, dropout=0.0, position_offset=False),
        batch_size=options.batch,
        steps=options.steps,
        evaluate_every=max(options.steps // 10, 1),
    )
    path = RESULTS / "starts.json"
    kept = json.loads(path.read_text())["figures"] if path.exists() else {}
    sizes = {"steps": options.steps, "batch": options.batch, "length": options.length}
    same = all(kept.get(name) == value for name, value in sizes.items())
    figures = kept if same else {**sizes, "starts": {}}
    before = json.dumps(kept)
    figures["texts"] = {name: start.text for name, (_, start) in STARTS.items() if isinstance(start, jp.TextStart)}

    def keep() -> None:
        summary(figures["starts"])
        save("starts", figures, versions(("jax", "jaxlib", "flax", "transformers")))

    for name in options.starts:
        found = figures["starts"].setdefault(name, {"rates": {}, "runs": {}})
        found["rate"] = search(run, name, found["rates"], keep)
        train_seeds(run, name, found["rate"], options.seeds, found["runs"], keep)
        print(name, found["rate"], round(found["mean"], 4), flush=True)
    summary(figures["starts"])
    if json.dumps(figures) != before:
        keep()
    draw(figures)


if __name__ == "__main__":
    main()
