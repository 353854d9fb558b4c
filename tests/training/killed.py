"""A process that runs `jaxprefix train` once per request, each in a child of its own that dies at a chosen moment.

Everything is imported before the first child is forked (JAX has started no backend and no thread by then), so that
killing ten runs does not cost ten imports. A request is a line of JSON on standard input: `moment`, a key of `MOMENTS`;
`args`, those of the command line; `log`, a file for what the child prints; `env`, variables to set. The answer is a
line with the exit code, or minus the signal.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import sklearn.metrics  # noqa: F401
import transformers  # noqa: F401
from orbax.checkpoint import v1  # noqa: F401
from rich.console import Console  # noqa: F401

from jaxprefix.checkpoints import adapter, store
from jaxprefix.cli import main as cli
from jaxprefix.data import store as tokens
from jaxprefix.training import evaluation, loop


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(place: Any, name: str, number: int, what: Callable[..., Any] = die) -> None:
    """`what` happens when `place.name` is called for the `number`-th time, before it does its work."""
    real, calls = getattr(place, name), []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            what()
        return real(*args, **options)

    setattr(place, name, counted)


def signalled(number: int) -> None:
    os.kill(os.getpid(), number)


def ctrl_c_twice() -> None:
    for _ in range(2):
        signalled(signal.SIGINT)
        time.sleep(0.05)


def while_compiling(what: Callable[[], None] = die) -> None:
    """Dies shortly after the step has gone to the compiler, which takes longer than that."""
    jax.config.update("jax_enable_compilation_cache", False)

    def listen(event: str, duration: float, **about: Any) -> None:
        if event.endswith("jaxpr_to_mlir_module_duration") and "train_step" in about.get("fun_name", ""):
            threading.Thread(target=lambda: (time.sleep(0.05), what()), daemon=True).start()

    def never(event: str, duration: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration") and "train_step" in about.get("fun_name", ""):
            print("the step was compiled before the process died", file=sys.stderr, flush=True)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.monitoring.register_event_duration_secs_listener(never)


def while_arrays_are_written() -> None:
    """Dies once Orbax has begun to write the arrays of the second checkpoint."""
    real, calls = store.start_saving, []

    def start_saving(*args: Any) -> Any:
        finish = real(*args)
        calls.append(1)
        return finish if len(calls) < 2 else die

    store.start_saving = start_saving


# The runs that are killed have 12 steps, a checkpoint every 2 of them and evaluations of 3 batches after 6 and 12.
MOMENTS: dict[str, Callable[[], None]] = {
    "never": lambda: None,
    "before the first step": lambda: at_call(loop, "put_batch", 1),
    "between steps": lambda: at_call(loop, "put_batch", 6),
    "first compile": while_compiling,
    "arrays of a checkpoint": while_arrays_are_written,
    "record of a checkpoint": lambda: at_call(store.records, "write", 2),
    "rename of a checkpoint": lambda: at_call(store, "put_folder", 2),
    "removal of an old checkpoint": lambda: at_call(store.Checkpoints, "_prune", 3),
    "evaluation": lambda: at_call(evaluation, "put_batch", 5),
    "token cache": lambda: at_call(tokens, "_flush", 7),
    "adapter half written": lambda: at_call(adapter, "_json", 2),
    "rename of the adapter": lambda: at_call(adapter, "put_folder", 1),
    "SIGTERM": lambda: at_call(loop, "put_batch", 6, lambda: signalled(signal.SIGTERM)),
    **{
        f"{number.name} at step 4": lambda number=number: at_call(loop, "put_batch", 4, lambda: signalled(number))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    },
    "Ctrl-C twice while compiling": lambda: while_compiling(ctrl_c_twice),
    "SIGTERM while evaluating": lambda: at_call(evaluation, "put_batch", 2, lambda: signalled(signal.SIGTERM)),
}


def child(moment: str, args: list[str], log: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 70
    try:
        MOMENTS[moment]()
        code = cli.main(args)
        logging.shutdown()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            child(**request)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
