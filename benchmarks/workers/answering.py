"""A worker's side of the conversation: run a function whenever a line comes, answer with its times as JSON."""

import json
import resource
import sys
import time
from collections.abc import Callable


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def answer(**values: object) -> None:
    """One line of JSON."""
    print(json.dumps(values), flush=True)


def serve(step: Callable[[], float], **first: object) -> None:
    """Runs `step` once, answers with `first`, then times one step for each line of standard input."""
    started = time.perf_counter()
    step()
    answer(**first, first_step=time.perf_counter() - started)
    for _ in sys.stdin:
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        loss = step()
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        answer(
            wall=wall,
            user=after.ru_utime - before.ru_utime,
            system=after.ru_stime - before.ru_stime,
            faults=after.ru_minflt - before.ru_minflt,
            loss=loss,
            peak=peak_bytes(),
        )
