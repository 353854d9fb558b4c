"""Methods times seeds on one task: a learning rate for each method by equal effort, then the seeds, then the cost."""

import dataclasses
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxprefix.checkpoints.lock import only_run
from jaxprefix.comparison.entries import LARGEST, Entry, entries_for, find_entry, parameters
from jaxprefix.comparison.plot import plot_rows
from jaxprefix.comparison.stages import of_method, run_trials, step_cost, stopped
from jaxprefix.comparison.state import State, write_whole
from jaxprefix.comparison.table import Row, comma_separated, make_rows, markdown
from jaxprefix.distributed.processes import one_process_only
from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.hf.loading import load_pretrained
from jaxprefix.methods import PromptTuning
from jaxprefix.methods.base import Method
from jaxprefix.signals import RESUMED, StopSignal
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.trees import count

log = logging.getLogger("jaxprefix")

FACTORS = (0.3, 1.0, 3.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Attributes:
      folder: with `comparison.json`, `table.md`, `table.csv` and `plot.png`.
      metric: the metric that is compared.
      split: the rows that it is of: `test` where the source has them, else `validation`.
      reference: the method that differences are taken from.
      rows: one for each method, best first.
      text: the table in Markdown.
    """

    folder: Path
    metric: str
    split: str
    reference: str
    rows: tuple[Row, ...]
    text: str


def compare(
    run: Run,
    methods: Sequence[str | Entry],
    *,
    seeds: int = 5,
    budget: float = 0.02,
    rates: Sequence[float] = FACTORS,
    reference: str | None = None,
) -> Comparison:
    """Compares methods on one task, all with the same number of tried learning rates, steps and seeds.

    For each method the rate is the one whose best evaluation on the validation rows is highest, among `rates` times the
    method's usual rate, tried with the run's own seed; then other seeds, the same for all methods, train with it. Both
    are populations, except that full fine-tuning is run after run. A comparison that is started again in its folder
    goes on where it was.

    Args:
      run: the task, the backbone, the steps, and everything else that is common; its method matters only as a
        template of prefixes (`entries_for`), its learning rate not at all.
      methods: names that `ENTRIES` has, or entries of your own.
      seeds: how many, from `run.seed + 1` on.
      budget: share of the backbone's parameters that sized methods train, the head apart.
      rates: factors of each method's usual learning rate.
      reference: the method that the others are compared with, seed by seed; None for `p_tuning_v2`, or the first
        where that is not among them.

    Raises:
      UserError: something must be corrected, or the folder holds another comparison.
      Stopped: by SIGTERM or SIGHUP.
      KeyboardInterrupt: by SIGINT (Ctrl-C, or a notebook's stop button); it goes on in its folder as well.
      RunFailed: its folder was renamed or removed.
    """
    _check(run, methods, seeds, budget, rates)
    assert not isinstance(run.backbone, NewBackbone)  # `_check` refuses it
    backbone, tree, _ = load_pretrained(run.backbone)
    dims, size = backbone.dims, count(tree)
    del tree
    known = entries_for(run.method)
    entries = [find_entry(entry, known) if isinstance(entry, str) else entry for entry in methods]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise UserError(f"the methods {', '.join(names)} name one twice; remove it.")
    if reference is None:
        reference = "p_tuning_v2" if "p_tuning_v2" in names else names[0]
    if reference not in names:
        raise UserError(f"the reference {reference} is not among the methods {', '.join(names)}; add it.")
    sized = {entry.name: _sized(entry, round(budget * size), dims, run) for entry in entries}
    for name, method in sized.items():
        log.info("%s: %s parameters beside the head's, %s", name, f"{parameters(method, dims):,}", method)
    usual = {entry.name: entry.rate for entry in entries}
    with only_run(run.folder) as place, StopSignal() as stop:
        state = State(run, sized, usual, seeds, tuple(rates), place)
        for number, name in enumerate(names, start=1):
            log.info("%d of %d: %s", number, len(names), name)
            for _ in _stages(state, run, name, sized[name], [factor * usual[name] for factor in rates], seeds):
                if stop.came is not None:
                    said = f"stopped while comparing {name}; {RESUMED}"
                    log.info(said)
                    raise KeyboardInterrupt(said) if stop.came == signal.SIGINT else stopped(stop.came)
        with place.held():
            return _write(state, run, names, reference, size)


def _check(run: Run, methods: Sequence[Any], seeds: int, budget: float, rates: Sequence[float]) -> None:
    run.check()
    one_process_only("a comparison")
    if isinstance(run.backbone, NewBackbone):
        raise UserError("a comparison tunes a pretrained backbone; name a folder or a hub name.")
    if "validation" not in run.task.source.splits:
        raise UserError("a comparison chooses learning rates on validation rows; give the source a validation split.")
    if not methods:
        raise UserError("the comparison has no methods; name some.")
    if seeds < 1 or not 0 < budget < 1 or not rates or min(rates) <= 0:
        raise UserError(
            f"seeds {seeds}, budget {budget} and rates {tuple(rates)} cannot be; give at least one seed, a share "
            "between 0 and 1, and factors above 0."
        )


def _sized(entry: Entry, budget: int, dims: Dims, run: Run) -> Method:
    largest = LARGEST
    if not isinstance(entry.method, Method) and isinstance(entry.method(1), PromptTuning):
        largest = dims.positions - run.task.max_length  # the prompt takes positions from the text
    return entry.sized(budget, dims, largest)


def _stages(state: State, run: Run, name: str, method: Method, rates: list[float], seeds: int) -> Iterator[None]:
    """The three stages of a method, those that are not finished yet; yields after each."""
    folder, metric = Path(run.folder) / name, run.task.metric
    first = of_method(run, method, rates[0], folder / "rates")
    members = [{"optimizer.learning_rate": rate} for rate in rates]
    tried = state.stage(name, "rates", lambda: run_trials(first, members))
    yield
    scores = [trial["metrics"].get("validation", {}).get(metric) for trial in tried]
    sign = 1 if run.task.higher_is_better else -1
    ranked = sorted((-sign * score, place) for place, score in enumerate(scores) if score is not None)
    rate = state.stage(name, "rate", lambda: rates[ranked[0][1] if ranked else 0])
    tried_ones = ", ".join(f"{one:.3g} ({score})" for one, score in zip(rates, scores, strict=True))
    log.info("%s: learning rate %.3g of %s, validation %s in brackets", name, rate, tried_ones, metric)
    chosen = of_method(run, method, rate, folder / "seeds")
    others = [{"seed": run.seed + 1 + index} for index in range(seeds)]
    state.stage(name, "seeds", lambda: run_trials(chosen, others))
    yield
    state.stage(name, "cost", lambda: step_cost(chosen))
    yield


def _write(state: State, run: Run, names: list[str], reference: str, size: int) -> Comparison:
    """The tables and the picture of what is finished."""
    metric, folder = run.task.metric, Path(run.folder)
    split = "test" if "test" in run.task.source.splits else "validation"
    stages = {name: state.stages[name] for name in names}
    rows = make_rows(stages, reference, metric, split, size, run.task.higher_is_better)
    tried = len(state.content["settings"]["rates"])
    notes = (
        f"{metric} on the {split} rows over {len(rows[0].values)} seeds. Differences are to {reference}, seed by seed, "
        f"with 95 % intervals by Student's t. Rates: the best of {tried} on the validation rows, for every method; * "
        "is the lowest or the highest that was tried, so that a better one may lie beyond it. "
        "Parameters with the head's. A step is an update of a single run at the longest padded length; its MiB are "
        f"arguments and temporaries of the compiled program. The process had {state.content['peak_bytes'] / 2**20:.0f} "
        "MiB at its peak."
    )
    text = markdown(rows, notes)
    write_whole(folder / "table.md", text)
    write_whole(folder / "table.csv", comma_separated(rows))
    try:
        title = f"{type(run.task).__name__} on {Path(str(run.backbone)).name}, {len(rows[0].values)} seeds"
        plot_rows(rows, folder / "plot.png", title=title, metric=f"{split} {metric}", reference=reference)
    except UserError as error:
        log.info("no plot: %s", error)
    return Comparison(folder, metric, split, reference, rows, text)
