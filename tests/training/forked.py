"""A process that runs `jaxprefix train` as several processes at once, each a fork of this one; see `several.py`.

A request is a line of JSON on standard input, a list with one entry for each process: `args` of the command line;
`log`, a file for what it prints; `devices` of it; `moment`, a key of `MOMENTS` or "disk full of FOLDER", with the
`number` of the call at which it comes; `settings` of `processes.py`. The answer is a line of JSON: the exit codes (or
minus the signals), and the seconds from the first end to the last.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from orbax.checkpoint import v1

from jaxprefix.checkpoints import files, store
from jaxprefix.cli import main as cli
from jaxprefix.distributed import processes
from jaxprefix.training import loop, setup
from tests.training.killed import at_call


def _refuse(number: int) -> Callable[[], None]:
    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def _damage(number: int) -> None:
    """Orbax cannot read the newest checkpoint here."""
    real, calls = v1.load, []

    def load(*args: Any) -> Any:
        found = real(*args)
        calls.append(1)
        if len(calls) == number:
            raise ValueError("a test")
        return found

    v1.load = load


def _fill(folder: str) -> None:
    with open(os.path.join(folder, "filler"), "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


MOMENTS: dict[str, Callable[[int], None]] = {
    "never": lambda number: None,
    "killed before a step": lambda number: at_call(loop, "put_batch", number),
    "SIGTERM before a step": lambda number: at_call(loop, "put_batch", number, _terminate),
    "SIGTERM before its set-up": lambda number: at_call(loop, "set_up", number, _terminate),
    "late": lambda number: at_call(setup, "prepare", 1, lambda: time.sleep(number)),
    "read-only": lambda number: at_call(files.secrets, "token_hex", number, _refuse(30)),  # of `check_writable`
    "damage here": lambda number: _damage(number),
    "disk full here": lambda number: at_call(store, "start_saving", number, _refuse(28)),
}


def child(args: list[str], log: int, devices: int, moment: str, number: int, settings: dict[str, Any]) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 70
    try:
        jax.config.update("jax_num_cpu_devices", devices)
        for name, value in settings.items():
            setattr(processes, name, value)
        name, _, folder = moment.partition(" of ")
        if folder:
            at_call(loop, "put_batch", number, lambda: _fill(folder))
        else:
            MOMENTS[name](number)
        code = cli.main(args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def keep(reads: int, log: str) -> None:
    """What a process and its relay print, in a file."""
    with open(reads, "rb") as said, open(log, "wb") as file:
        file.write(said.read())


if __name__ == "__main__":
    for line in sys.stdin:
        numbers, requests = [], json.loads(line)
        pipes = [os.pipe() for _ in requests]
        for request, (_, writes) in zip(requests, pipes, strict=True):
            numbers.append(os.fork())
            if numbers[-1] == 0:
                child(**{**request, "log": writes})
        readers = []
        for request, (reads, writes) in zip(requests, pipes, strict=True):
            os.close(writes)
            readers.append(threading.Thread(target=keep, args=(reads, request["log"])))
            readers[-1].start()
        codes, ends = {}, []
        while len(codes) < len(numbers):
            ended, status = os.wait()
            codes[ended] = os.waitstatus_to_exitcode(status)
            ends.append(time.monotonic())
        for reader in readers:  # until the relays, which outlive their processes, have ended as well
            reader.join()
        print(json.dumps([[codes[number] for number in numbers], ends[-1] - ends[0]]), flush=True)
