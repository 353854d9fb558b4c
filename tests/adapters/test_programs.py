"""The compiled programs of an adapter stay with it: a call of a shape that it knows compiles nothing."""

import contextlib

import jax
import numpy as np
import pytest

from jaxprefix.adapters import adapter as adapters
from jaxprefix.training import step
from tests.past import asking

COMPILING = "/jax/core/compile/"  # tracing, lowering and compiling each have an event below it
WORDS = ["good", "bad", "cat", "sat", "ran", "saw", "the", "on", "in", "far"]
NAMES = ("p_tuning_v2", "tagging")  # of rows and of words


@pytest.fixture(scope="module")
def backbones():
    return {}


@pytest.fixture
def adapter(request, backbones, monkeypatch, tmp_path):
    """A new object each time, so that no call was made before."""
    monkeypatch.chdir(asking.PAST)
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(adapters, "make_eval_step", step.make_eval_step)  # whatever another file's fixtures remember
    return asking.open_adapter(request.param, backbones)


@contextlib.contextmanager
def compiled():
    """Collects what JAX traces, lowers and compiles inside."""
    found = []

    def listen(event, duration, **about):
        if event.startswith(COMPILING):
            found.append((event, about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def rows_of(adapter, count, call, length=5):
    """So many rows of so many words, other ones in every call."""
    words = [[WORDS[(call + 3 * row + place) % len(WORDS)] for place in range(length)] for row in range(count)]
    column = getattr(adapter.run.task, "words", None)
    return [" ".join(row) if column is None else {column: row} for row in words]


# The other two pairs are the same code; tags without probabilities have the next test.
@pytest.mark.parametrize(("adapter", "probabilities"), [(NAMES[0], False), (NAMES[1], True)], indirect=["adapter"])
def test_the_tenth_call_of_a_known_shape_compiles_nothing(adapter, probabilities):
    counts, answers = [], []
    for call in range(10):
        with compiled() as found:
            answers.append(adapter.predict(rows_of(adapter, 4, call), probabilities=probabilities))
        counts.append(len(found))
    assert counts[0] > 0 and counts[1:] == [0] * 9
    assert any(answer != answers[0] for answer in answers)  # they were computed
    with compiled() as found:
        adapter.predict(rows_of(adapter, 3, 11), probabilities=probabilities)  # padded to eight
    assert found == []
    with compiled() as found:
        adapter.predict(rows_of(adapter, 9, 12), probabilities=probabilities)  # and these to 32
    assert found != []


@pytest.mark.parametrize("adapter", NAMES[:1], indirect=True)
def test_rows_of_any_number_and_length_have_twelve_programs(adapter):
    longest = adapter.model.backbone.dims.positions - adapter.run.method.length - 2  # words that it can serve
    shapes = [(rows, length) for rows in (1, 2, 7, 9, 32) for length in (1, longest // 5, longest // 3, longest)]
    order = np.random.default_rng(0).permutation(len(shapes))
    with compiled() as found:
        once = [adapter.predict(rows_of(adapter, shapes[at][0], 0, shapes[at][1])) for at in order]
    assert sum(event.endswith("backend_compile_duration") for event, _ in found) <= 12
    with compiled() as found:
        again = [adapter.predict(rows_of(adapter, shapes[at][0], 0, shapes[at][1])) for at in order]
    assert found == [] and again == once


@pytest.mark.parametrize("adapter", NAMES[1:], indirect=True)
def test_calls_with_and_without_probabilities_share_no_program_and_keep_both(adapter):
    def call(number, probabilities):
        with compiled() as found:
            adapter.predict(rows_of(adapter, 4, number), probabilities=probabilities)
        return len(found)

    assert call(0, False) > 0 and call(1, True) > 0
    assert [call(number, number % 2 == 0) for number in range(2, 10)] == [0] * 8
