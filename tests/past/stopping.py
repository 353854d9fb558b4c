"""Runs that are stopped midway, as their checkpoints show it."""

import os
import signal
from typing import Any

import jaxprefix as jp
from jaxprefix.training import loop


def stop_after(steps: int, run: jp.Run) -> None:
    """Runs until SIGTERM comes before step `steps + 1`."""
    real, calls = loop.put_batch, []

    def put_batch(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == steps:  # the loop looks for the signal before the next step
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    loop.put_batch = put_batch
    try:
        result = jp.train(run)
    finally:
        loop.put_batch = real
    if result.adapter is not None or result.steps != steps:
        raise SystemExit(f"the run that was to be stopped after step {steps} is at step {result.steps}")
