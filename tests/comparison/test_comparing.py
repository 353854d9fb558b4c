"""A comparison from its methods to its table: equal effort, going on after an interruption, refusals."""

import csv
import dataclasses
import functools
import json
import math
import os
import signal
import sys

import numpy as np
import pytest
from scipy import stats

from jaxprefix.adapters.adapter import load_adapter
from jaxprefix.cli import main as cli
from jaxprefix.comparison import ENTRIES, Entry, compare, comparing, entries
from jaxprefix.comparison.entries import entries_for, parameters
from jaxprefix.comparison.plot import plot_rows
from jaxprefix.comparison.table import comma_separated, make_rows, markdown, paired_interval
from jaxprefix.errors import RunFailed, UserError
from jaxprefix.methods import HeadOnly, LoRA, PTuningV2
from jaxprefix.signals import StopSignal
from jaxprefix.trees import flatten
from tests import tiny
from tests.training.worlds import WIDTH


def run_of(world, folder, **changes):
    return world.run(folder, **{"steps": 4, "evaluate_every": 2, **changes})


def two(world, folder, **options):
    return compare(run_of(world, folder), ["p_tuning_v2", "lora"], **{"seeds": 2, "rates": (0.3, 1.0), **options})


@pytest.fixture(scope="module")
def compared(world, tmp_path_factory):
    """Two methods, two rates, two seeds; nobody may change its folder."""
    return two(world, tmp_path_factory.mktemp("compared"))


@pytest.mark.slow
def test_every_method_gets_the_same_effort(compared):
    stored = json.loads((compared.folder / "comparison.json").read_text())
    for name, usual in (("p_tuning_v2", 2e-2), ("lora", 5e-3)):
        stages = stored["stages"][name]
        rates = [trial["fields"]["optimizer.learning_rate"] for trial in stages["rates"]]
        assert rates == pytest.approx([0.3 * usual, usual])
        scores = [trial["metrics"]["validation"]["accuracy"] for trial in stages["rates"]]
        assert stages["rate"] == rates[int(np.argmax(scores))]
        assert [trial["fields"] for trial in stages["seeds"]] == [{"seed": 1}, {"seed": 2}]
        for index, trial in enumerate(stages["seeds"]):
            adapter = load_adapter(compared.folder / name / "seeds" / str(index) / "adapter")
            assert adapter.run.seed == index + 1
            assert adapter.run.optimizer.learning_rate == stages["rate"]
            assert adapter.metrics["test"] == trial["metrics"]["test"]


@pytest.mark.slow
def test_the_table_says_what_was_measured(compared):
    assert (compared.metric, compared.split, compared.reference) == ("accuracy", "test", "p_tuning_v2")
    rows = {row.name: row for row in compared.rows}
    stored = json.loads((compared.folder / "comparison.json").read_text())["stages"]
    for name, row in rows.items():
        assert row.values == tuple(trial["metrics"]["test"]["accuracy"] for trial in stored[name]["seeds"])
        assert row.mean == pytest.approx(np.mean(row.values))
        assert row.deviation == pytest.approx(np.std(row.values, ddof=1))
        leaves = flatten(load_adapter(compared.folder / name / "seeds/0/adapter").trainable)
        assert row.trained == sum(leaf.size for leaf in leaves.values())
        assert row.step_seconds > 0
        assert row.step_bytes > 4 * 12 * WIDTH * WIDTH
    assert math.isnan(rows["p_tuning_v2"].difference)
    paired = np.subtract(rows["lora"].values, rows["p_tuning_v2"].values)
    assert rows["lora"].difference == pytest.approx(paired.mean())
    text = (compared.folder / "table.md").read_text()
    assert text == compared.text
    assert text.startswith("| method | trained |")
    assert "MiB at its peak" in text
    lines = list(csv.DictReader((compared.folder / "table.csv").open()))
    assert [line["name"] for line in lines] == [row.name for row in compared.rows]
    assert float(lines[0]["seed_1"]) == compared.rows[0].values[1]


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_where_it_was(world, tmp_path, compared, monkeypatch):
    """Interrupted between two stages, it repeats none that was finished, and ends in the same table."""
    real, calls = comparing.run_trials, []

    def counted(run, members):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(run.folder)
        return real(run, members)

    monkeypatch.setattr(comparing, "run_trials", counted)
    with pytest.raises(KeyboardInterrupt):
        two(world, tmp_path)
    again = []
    monkeypatch.setattr(comparing, "run_trials", lambda run, members: again.append(run.folder) or real(run, members))
    found = two(world, tmp_path)
    assert calls == [str(tmp_path / name) for name in ("p_tuning_v2/rates", "p_tuning_v2/seeds", "lora/rates")]
    assert again == [str(tmp_path / "lora/seeds")]
    assert [(row.name, row.values) for row in found.rows] == [(row.name, row.values) for row in compared.rows]
    with pytest.raises(UserError, match=r"other settings.*seeds: 2 -> 3"):
        two(world, tmp_path, seeds=3)
    with pytest.raises(UserError, match=r"other settings.*steps: 4 -> 5"):
        compare(run_of(world, tmp_path, steps=5), ["lora"], seeds=2, rates=(0.3, 1.0))
    with pytest.raises(UserError, match=r"other settings.*lora"):
        two(world, tmp_path, budget=0.2)


@pytest.mark.slow
def test_full_fine_tuning_is_run_after_run_and_methods_may_be_ones_own(world, tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "import jaxprefix as jp\n\n\ndef methods():\n    return (jp.Entry('mine', jp.LoRA(rank=1), 1e-2),)\n"
    )
    config = world.config_file(tmp_path / "config.py", tmp_path / "run")
    args = ["compare", config, "--methods", "full", str(file), "--seeds", "1", "--rates-scale", "1", "--steps", "2"]
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert out.startswith("| method | trained |")
    assert "| mine |" in out
    stored = json.loads((tmp_path / "run/comparison.json").read_text())
    assert stored["settings"] == {"seeds": 1, "rates": [1.0]}
    assert (tmp_path / "run/full/seeds/0/adapter").is_dir()
    assert (tmp_path / "run/mine/seeds/0/adapter").is_dir()
    assert "steps=2" in str(load_adapter(tmp_path / "run/mine/seeds/0/adapter").run)


def test_a_run_that_is_stopped_ends_the_comparison(world, tmp_path, monkeypatch):
    from jaxprefix.comparison import stages
    from jaxprefix.population.population import PopulationResult

    monkeypatch.setattr(stages, "train_population", lambda *_, **__: PopulationResult(tmp_path, 1, (), math.nan, 15))
    with pytest.raises(RunFailed, match="start it again"):
        two(world, tmp_path)
    assert not (tmp_path / "comparison.json").exists()


def test_a_signal_that_a_finished_stage_heard_ends_the_comparison(world, tmp_path, monkeypatch):
    """It comes while a run listens that has no step left to stop before: the stage is kept, the next not begun."""

    def run_trials(run, members):
        with StopSignal() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner.came
        return [{"fields": dict(fields), "metrics": {}, "failed": False} for fields in members]

    monkeypatch.setattr(comparing, "run_trials", run_trials)
    with pytest.raises(RunFailed, match="start it again"):
        two(world, tmp_path)
    assert list(json.loads((tmp_path / "comparison.json").read_text())["stages"]["p_tuning_v2"]) == ["rates"]


@pytest.mark.parametrize("name", ENTRIES)
def test_sizes_come_nearest_to_the_budget(name, monkeypatch):
    dims = tiny.encoder_dims()
    entry = entries_for(PTuningV2(init_std=0.5))[name]
    monkeypatch.setattr(entries, "parameters", functools.cache(parameters))
    small = parameters(entry.sized(0, dims), dims)
    sizes, largest = [], 3 * small
    while callable(entry.method) and max(sizes, default=0) < largest:
        sizes.append(parameters(entry.method(len(sizes) + 1), dims))
    assert sizes == sorted(sizes)  # so that none beyond is nearer to a budget
    for budget in (small, 2 * small + 7, largest):
        found = abs(parameters(entry.sized(budget, dims), dims) - budget)
        if callable(entry.method):
            assert found == min(abs(size - budget) for size in sizes)


def test_prefixes_take_their_options_from_the_config():
    template = PTuningV2(length=3, init_std=0.5, dropout=0.25, position_offset=False)
    known = entries_for(template)
    assert known["p_tuning_v2"].method(7) == dataclasses.replace(template, length=7)
    assert known["adaptive_prefix"].method(7).init_std == 0.5
    assert known["mam"].method(7).parts[0] == known["p_tuning_v2"].method(7)
    assert entries_for(LoRA())["p_tuning_v2"].method(7) == PTuningV2(length=7, position_offset=False)


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(world, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "run_trials", None)
    run = run_of(world, tmp_path)
    source = dataclasses.replace(world.source, validation=None)
    cases = {
        "the nearest is lora": {"methods": ["loar"]},
        "name one twice": {"methods": ["lora", "lora"]},
        "reference bitfit is not among": {"methods": ["lora"], "reference": "bitfit"},
        "has no methods": {"methods": []},
        "between 0 and 1": {"methods": ["lora"], "budget": 2.0},
        "a validation split": {
            "methods": ["lora"],
            "run": dataclasses.replace(run, task=dataclasses.replace(run.task, source=source)),
        },
    }
    for message, options in cases.items():
        with pytest.raises(UserError, match=message):
            compare(**{"run": run, **options})


# The table alone


def stage(values, trained=100, failed=(), rate=1e-2):
    trials = [
        {"metrics": {} if value is None else {"test": {"accuracy": value}}, "failed": index in failed}
        for index, value in enumerate(values)
    ]
    rates = [{"fields": {"optimizer.learning_rate": tried}} for tried in (1e-3, 1e-2, 1e-1)]
    return {
        "rates": rates,
        "rate": rate,
        "seeds": trials,
        "cost": {"trained": trained, "step_seconds": 0.01, "step_bytes": 2**20},
    }


def test_intervals_are_those_of_a_paired_t_test():
    one, other = np.array([0.9, 0.8, 0.85, 0.95]), np.array([0.8, 0.75, 0.9, 0.85])
    mean, interval = paired_interval(list(one - other))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert mean == pytest.approx((one - other).mean())
    assert interval == pytest.approx((expected.low, expected.high))
    assert all(math.isnan(end) for end in paired_interval([0.1])[1])
    assert math.isnan(paired_interval([])[0])


def test_rows_are_sorted_and_failures_are_told():
    stages = {"a": stage([0.5, 0.7]), "b": stage([0.9, None], failed=(1,)), "c": stage([None, None], failed=(0, 1))}
    rows = make_rows(stages, "a", "accuracy", "test", 1000, True)
    assert [row.name for row in rows] == ["b", "a", "c"]
    assert [row.failed for row in rows] == [1, 0, 2]
    assert (rows[0].mean, rows[0].difference) == (0.9, pytest.approx(0.4))
    assert (rows[1].percent, rows[1].best) == (10.0, 0.7)
    assert math.isnan(rows[2].mean)
    assert "nan" not in markdown(rows, "").lower() + comma_separated(rows).lower()
    lower = make_rows({"a": stage([2.0]), "b": stage([1.0])}, "a", "accuracy", "test", 1000, False)
    assert [(row.name, row.best) for row in lower] == [("b", 1.0), ("a", 2.0)]


def test_a_rate_at_the_edge_of_those_tried_is_marked():
    rows = make_rows({"a": stage([0.5]), "b": stage([0.4], rate=1e-1)}, "a", "accuracy", "test", 1000, True)
    assert [row.at_edge for row in rows] == [False, True]
    assert "| 0.01 |" in markdown(rows, "")
    assert "| 0.1* |" in markdown(rows, "")


def test_the_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    stages = {"a": stage([0.5, 0.7]), "b": stage([0.9, None], failed=(1,)), "c": stage([None, None], failed=(0, 1))}
    rows = make_rows(stages, "a", "accuracy", "test", 1000, True)
    plot_rows(rows, tmp_path / "plot.png", title="title", metric="accuracy", reference="a")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="jaxprefix\\[plots\\]"):
        plot_rows((), tmp_path / "plot.png", title="", metric="", reference="")


def test_the_head_alone_is_an_entry():
    assert entries_for(LoRA())["head_only"].sized(100, tiny.encoder_dims()) == HeadOnly()
    assert Entry("mine", LoRA(rank=3), 1e-2).sized(100, tiny.encoder_dims()) == LoRA(rank=3)
