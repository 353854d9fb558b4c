"""Adapters and banks that many threads call at once answer as one thread is answered, and nothing piles up."""

import dataclasses
import json
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.serving import bank as banks
from tests import house
from tests.past import asking
from tests.serving import calling


@pytest.fixture(scope="module", autouse=True)
def in_the_past(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(asking.PAST)
        patch.setenv("JAXPREFIX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    calling.callers.cache_clear()
    calling.served.cache_clear()


@pytest.mark.parametrize("name", ["predict", "tags", "generate", "bank", "bank.generate"])
def test_eight_threads_are_answered_as_one(name):
    calls, call = calling.texts(2), calling.callers()[name]
    first = calling.at_once(call, calls * 4)  # nothing is traced or compiled yet
    alone = [call(rows) for rows in calls]
    assert first == alone * 4
    arrays = calling.living()
    assert calling.at_once(call, calls * 4) == alone * 4
    assert calling.living() == arrays


@pytest.mark.slow
def test_a_thousand_calls_leave_nothing_behind():
    about = {**os.environ, "PYTHONPATH": str(house.ROOT)}
    found = subprocess.run([sys.executable, "-m", "tests.serving.calling"], env=about, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    for name, told in json.loads(found.stdout).items():
        before, after = told["memory"]
        print(f"{name}: {before / 1e6:.0f} MB after 100 calls, {after / 1e6:.0f} MB after 1,000")
        assert told["right"], name
        assert abs(after - before) <= 0.05 * before, name
        assert told["arrays"][0] == told["arrays"][1], name


def moved(factor):
    """The classifier of P-Tuning v2 with other leaves."""
    one = calling.served()["p_tuning_v2"]
    return dataclasses.replace(one, trainable=jax.tree.map(lambda leaf: factor * leaf, one.trainable))


def test_who_asks_while_an_adapter_is_replaced_has_the_old_or_the_new_one():
    adapters = (moved(1.0), moved(-3.0), calling.served()["lora"])  # the last one makes the bank grow
    rows = calling.texts(1)[0][:1] * 6
    bank = jp.Bank({"one": adapters[0], "beside": adapters[0]})
    expected = []
    for adapter in adapters:
        bank.replace("one", adapter)
        expected.append(bank(rows, ["one"] * 6, batch_size=2)[0]["scores"])
    bank = jp.Bank({"one": adapters[0], "beside": adapters[0]})
    found, done = [], threading.Event()

    def ask():
        while not done.is_set():
            found.append(bank(rows, ["one"] * 6, batch_size=2))  # three batches, to be of one adapter

    threads = [threading.Thread(target=ask) for _ in range(calling.THREADS)]
    for thread in threads:
        thread.start()
    try:
        for place in (1, 0, 1, 2, 0, 1, 2):
            so_far = len(found)
            bank.replace("one", adapters[place])
            while len(found) < so_far + calling.THREADS and any(thread.is_alive() for thread in threads):
                done.wait(0.001)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    answered = [[which_of(expected, row["scores"]) for row in answer] for answer in found]
    assert all(len(set(answer)) == 1 for answer in answered)
    assert {answer[0] for answer in answered} == {0, 1, 2}


def which_of(expected, scores):
    """The only one of the expected scores that these are."""
    near = [
        index for index, one in enumerate(expected) if all(abs(one[label] - scores[label]) < 1e-5 for label in scores)
    ]
    assert len(near) == 1, (expected, scores)
    return near[0]


def test_of_two_replacements_at_once_none_is_lost(monkeypatch):
    one, two = moved(2.0), moved(3.0)
    bank = jp.Bank({"a": moved(1.0), "b": moved(1.0)})
    inside, go_on, real = threading.Event(), threading.Event(), banks.replaced

    def slow(*args):
        inside.set()
        assert go_on.wait(10)
        return real(*args)

    monkeypatch.setattr(banks, "replaced", slow)
    threads = [threading.Thread(target=bank.replace, args=given) for given in (("a", one), ("b", two))]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.1)
    assert bank.names == ("a", "b")  # nobody who asks waits for them
    go_on.set()
    for thread in threads:
        thread.join(10)
    expected = jp.Bank({"a": one, "b": two})._state
    assert all(bank._state.members[name].adapter is new for name, new in (("a", one), ("b", two)))
    jax.tree.map(np.testing.assert_array_equal, bank._state.stacks, expected.stacks)
