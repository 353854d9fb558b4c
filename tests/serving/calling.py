"""Adapters and banks that threads call, and as a program 1,000 calls of each with the memory after them, as JSON."""

import concurrent.futures
import dataclasses
import functools
import gc
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxprefix as jp
from tests.past import asking

THREADS = 8
WORDS = ("good", "bad", "cat", "sat", "ran", "saw", "the", "on", "in", "far")
DECODING = jp.Decoding(max_new_tokens=3, min_new_tokens=2)

Call = Callable[[list[str]], list[Any]]


def texts(calls: int, seed: int = 0) -> list[list[str]]:
    """For each call 1 to 8 texts of 3 to 30 words."""
    rng = np.random.default_rng(seed)
    return [[" ".join(rng.choice(WORDS, rng.integers(3, 31))) for _ in range(rng.integers(1, 9))] for _ in range(calls)]


@functools.cache
def served() -> dict[str, Any]:
    """Two classifiers of one backbone, a tagger and two decoders' adapters; the current folder is `tests/past`."""
    backbones: dict[str, Any] = {}
    found = {name: asking.open_adapter(name, backbones) for name in ("p_tuning_v2", "lora", "tagging", "causal")}
    doubled = jax.tree.map(lambda leaf: 2 * leaf, found["causal"].trainable)
    return {**found, "other causal": dataclasses.replace(found["causal"], trainable=doubled)}


@functools.cache
def callers() -> dict[str, Call]:
    """What is called, by name, each with texts."""
    adapters = served()
    bank = jp.Bank({name: adapters[name] for name in ("p_tuning_v2", "lora")})
    writers = jp.Bank({name: adapters[name] for name in ("causal", "other causal")})

    def names(bank: jp.Bank, rows: list[str]) -> list[str]:
        return [bank.names[place % 2] for place in range(len(rows))]

    return {
        "predict": adapters["p_tuning_v2"].predict,
        "tags": lambda rows: adapters["tagging"].predict([{"tokens": row.split()} for row in rows]),
        "generate": lambda rows: adapters["causal"].generate(rows, DECODING),
        "bank": lambda rows: bank(rows, names(bank, rows)),
        "bank.generate": lambda rows: writers.generate(rows, names(writers, rows), DECODING),
    }


def at_once(call: Call, calls: Sequence[list[str]]) -> list[list[Any]]:
    """The answers to every call, from `THREADS` threads."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(call, calls))


def living() -> int:
    """How many arrays there are."""
    gc.collect()
    return len(jax.live_arrays())


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Of every caller the memory after 100 and after 1,000 calls, arrays that live then, and whether all is right."""
    os.chdir(asking.PAST)
    calls, told = texts(20), {}
    for name, call in callers().items():
        alone = [call(rows) for rows in calls]
        right, memory, arrays = True, [], []
        for hundred in range(10):
            right &= at_once(call, calls * 5) == alone * 5
            if hundred in (0, 9):
                memory.append(resident())
                arrays.append(living())
        told[name] = {"right": right, "memory": memory, "arrays": arrays}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
