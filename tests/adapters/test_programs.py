"""The compiled programs of an adapter stay with it: a call of a shape that it knows compiles nothing."""

import contextlib

import jax
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


def rows_of(adapter, count, call):
    """So many rows of five words, other ones in every call."""
    words = [[WORDS[(call + 3 * row + place) % len(WORDS)] for place in range(5)] for row in range(count)]
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
        adapter.predict(rows_of(adapter, 3, 11), probabilities=probabilities)  # padded to four
    assert found == []
    with compiled() as found:
        adapter.predict(rows_of(adapter, 5, 12), probabilities=probabilities)  # and these to eight
    assert found != []


@pytest.mark.parametrize("adapter", NAMES[1:], indirect=True)
def test_calls_with_and_without_probabilities_share_no_program_and_keep_both(adapter):
    def call(number, probabilities):
        with compiled() as found:
            adapter.predict(rows_of(adapter, 4, number), probabilities=probabilities)
        return len(found)

    assert call(0, False) > 0 and call(1, True) > 0
    assert [call(number, number % 2 == 0) for number in range(2, 10)] == [0] * 8
