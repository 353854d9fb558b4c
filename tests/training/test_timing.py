"""Where the time of a run goes, and traces of its steps."""

import json
import logging

import pytest

from jaxprefix.training import timing
from jaxprefix.training.timing import Clock
from tests.training.watching import watched


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still, as a list of one time."""
    time = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: time[0])
    return time


def passes(now, clock, steps, data, step, other=0.0):
    for _ in range(steps):
        with clock.of("data"):
            now[0] += data
        with clock.of("step"):
            now[0] += step
        now[0] += other
        clock.stepped()


def test_a_report_is_of_the_steps_since_the_one_before(now):
    clock = Clock()
    passes(now, clock, 4, data=0.001, step=0.010, other=0.002)
    with clock.of("checkpoint"):
        now[0] += 0.040
    found = clock.report()
    assert found == pytest.approx(
        {"milliseconds/data": 1, "milliseconds/step": 10, "milliseconds/checkpoint": 10, "milliseconds/all": 23}
    )
    passes(now, clock, 2, data=0.003, step=0.001)
    assert clock.report() == pytest.approx({"milliseconds/data": 3, "milliseconds/step": 1, "milliseconds/all": 4})


def test_a_part_that_fails_is_counted(now):
    clock = Clock()
    with pytest.raises(ValueError, match="late"), clock.of("data"):
        now[0] += 0.5
        raise ValueError("late")
    clock.stepped()
    assert clock.report()["milliseconds/data"] == pytest.approx(500)


@pytest.mark.parametrize(("data", "warned"), [(0.012, 1), (0.008, 0)])
def test_a_run_that_waits_for_its_data_says_so_once(now, caplog, data, warned):
    clock = Clock()
    with caplog.at_level(logging.WARNING, "jaxprefix"):
        passes(now, clock, 10, data=1.0, step=0.0)  # the first steps compile, whatever they show
        clock.report()
        for _ in range(6):
            passes(now, clock, 10, data=data, step=0.010)
            clock.report()
    assert caplog.text.count("bound by its input") == warned


def test_a_run_notes_its_time_and_traces_the_steps_that_are_asked_for(world, tmp_path):
    watched(world.run(tmp_path, steps=14, evaluate_every=14, log_every=7, profile=2))
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    timed = [line for line in found if "loss" in line]
    assert [line["step"] for line in timed] == [7, 14]
    for line in timed:
        parts = {name: value for name, value in line.items() if name.startswith("milliseconds/")}
        assert parts["milliseconds/step"] > 0
        assert sum(parts.values()) <= 2 * parts["milliseconds/all"] + 1e-6
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert (tmp_path / "profile" / "memory-0.prof").stat().st_size > 0
