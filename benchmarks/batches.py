"""CPU seconds that one batch of a run takes to make: 32 of 900 rows of 2 to 50 tokens, on one process.

    python benchmarks/batches.py

The median of rounds of 50 steps each. A step of training must not wait for its batch, which is made in Python: where
this was written one took 1.6 ms, and 8 ms would be too slow anywhere.
"""

import argparse
import statistics
import time

import numpy as np
from common import save, versions

from jaxprefix.data import Batches
from jaxprefix.data.examples import Examples, Target, TargetSpec, Vocabulary

STEPS = 50


def rows(count: int, longest: int = 50) -> Examples:
    """Classification rows whose lengths are drawn evenly from 2 to `longest` tokens."""
    lengths = np.random.default_rng(0).integers(2, longest + 1, count)
    return Examples(
        ids=np.repeat(np.arange(count, dtype=np.int32) + 10, lengths),
        token_type_ids=np.zeros(lengths.sum(), np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        targets={"labels": Target(np.arange(count, dtype=np.int32) % 3, TargetSpec("row"))},
        vocabulary=Vocabulary(size=1000, padding_id=7, special_ids=(0, 1, 2, 7), mask_id=2),
        max_length=64,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    batches = Batches(rows(900), 32, seed=0)
    batches.batch(0)  # what the first one alone does
    found = []
    for _ in range(options.rounds):
        started = time.process_time()
        for step in range(STEPS):
            batches.batch(step)
        found.append((time.process_time() - started) / STEPS)
    figures = {"milliseconds_of_cpu": 1e3 * statistics.median(found), "rounds": options.rounds, "steps": STEPS}
    save("batches", figures, versions(("numpy", "grain")))


if __name__ == "__main__":
    main()
