"""Kills one of four processes of a run twenty times: `python benchmarks/kills_processes.py`.

Each time the run is started, one process, drawn at random, is killed (`kill -9`) a random number of steps later, and it
is measured how long the others take to end. Then the same command goes on, up to the next kill. After the last one the
run goes on to its end, and its leaves and its log are compared with those of a run that nothing happened to.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import sklearn.metrics  # noqa: F401  imported once, before the processes are forked
import transformers  # noqa: F401
from common import save, versions
from orbax.checkpoint import v1  # noqa: F401
from rich.console import Console  # noqa: F401

from jaxprefix.cli import main as cli
from jaxprefix.training import loop  # noqa: F401

PROCESSES, EVERY, LIMIT = 4, 4, 60.0
CONFIG = """import jaxprefix as jp


def config():
    return jp.Run(
        task=jp.Classification(jp.Files({rows!r}), max_length=24),
        backbone=jp.NewBackbone(
            jp.EncoderConfig("bert", vocab=4096, width=32, layers=2, heads=4, mlp_width=64, positions=64),
            "tiny-encoder",
        ),
        method=jp.PTuningV2(length=4),
        steps={steps},
        batch_size=16,
        buckets=(24,),
        checkpoint_every={every},
        evaluate_every=100000,
        log_every=1,
        folder={folder!r},
    )
"""


def write_rows(path: Path) -> None:
    draw = random.Random(0)
    words = ["the", "cat", "saw", "a", "dog", "in", "paris", "and", "it", "ran", "far", "away", "from", "london"]
    rows = []
    for index in range(256):
        label = ("bad", "good")[index % 2]
        text = [*draw.choices(words, k=draw.randint(2, 9)), label]
        draw.shuffle(text)
        rows.append(json.dumps({"text": " ".join(text), "label": label}))
    path.write_text("\n".join(rows) + "\n")


class Launch:
    """The run as four processes of one CPU device each: forks of this one, which has imported everything by then."""

    def __init__(self, config: Path, logs: Path):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.logs = [logs / f"{process}.log" for process in range(PROCESSES)]
        self.numbers, self._codes = [], {}
        for process, log in enumerate(self.logs):
            joined = ["--coordinator", address, "--processes", str(PROCESSES), "--process", str(process)]
            log.write_text("")  # those of the start before must not be read for this one's
            self.numbers.append(os.fork())
            if self.numbers[-1] == 0:
                _run(["train", str(config), *joined], log)

    def said(self, process: int) -> str:
        return self.logs[process].read_text(errors="replace")

    def codes(self) -> list[int | None]:
        """Exit codes, minus the signal for a process that was killed; None for one that goes on."""
        for number in self.numbers:
            if number not in self._codes:
                ended, status = os.waitpid(number, os.WNOHANG)
                if ended:
                    self._codes[number] = os.waitstatus_to_exitcode(status)
        return [self._codes.get(number) for number in self.numbers]

    def wait(self, seconds: float) -> list[int | None]:
        """Exit codes; None for a process that did not end in time, and is killed."""
        until = time.monotonic() + seconds
        while None in self.codes() and time.monotonic() < until:
            time.sleep(0.05)
        codes = self.codes()
        for number, code in zip(self.numbers, codes, strict=True):
            if code is None:
                os.kill(number, signal.SIGKILL)
                os.waitpid(number, 0)
        return codes


def _run(args: list[str], log: Path) -> None:
    """What a fork does: the command."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    code = 70
    try:
        jax.config.update("jax_num_cpu_devices", 1)
        code = cli.main(args)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def logged(folder: Path) -> list[dict[str, Any]]:
    """What `metrics.jsonl` holds up to now, without the speed."""
    path = folder / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # being written
    timed = ("tokens_per_second", "milliseconds/", "memory/")
    return [{key: value for key, value in line.items() if not key.startswith(timed)} for line in found]


def newest(folder: Path) -> int:
    steps = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.name.isdecimal()]
    return max(steps, default=0)


def kill_once(config: Path, folder: Path, logs: Path, draw: random.Random) -> dict[str, Any]:
    victim, later = draw.randrange(PROCESSES), draw.randint(4, 24)
    expected = newest(folder)
    launch = Launch(config, logs)
    while True:  # the log is cut back to the checkpoint when the run goes on
        said = launch.said(0)
        begun = re.search(r"going on from step (\d+)", said) if expected else "trainable parameters" in said
        done = logged(folder)
        if begun and done and expected + later <= done[-1]["step"]:
            break
        if any(code is not None for code in launch.codes()):
            raise SystemExit("a process ended before it was killed:\n" + "\n".join(map(launch.said, range(PROCESSES))))
        time.sleep(0.01)
    os.kill(launch.numbers[victim], signal.SIGKILL)
    killed = time.monotonic()
    step = logged(folder)[-1]["step"]
    codes = launch.wait(LIMIT + 30)
    seconds = time.monotonic() - killed
    until = time.monotonic() + 10  # what the processes say at their end comes a moment later
    survivors = [process for process in range(PROCESSES) if process != victim]
    while not all("jaxprefix: " in launch.said(process) for process in survivors) and time.monotonic() < until:
        time.sleep(0.05)
    sentences = [
        [line for line in launch.said(process).splitlines() if line.startswith("jaxprefix: ")] for process in survivors
    ]
    named = all(len(found) == 1 and f"process {victim}" in found[0] and "is gone" in found[0] for found in sentences)
    if not named:
        print("\n".join(map(launch.said, range(PROCESSES))), file=sys.stderr)
    resumed = int(begun[1]) if expected else 0
    return {
        "victim": victim,
        "begun": resumed,
        "as_left": resumed == expected,
        "killed_after": step,
        "newest": newest(folder),
        "seconds": round(seconds, 1),
        "ended": all(codes[process] not in (0, None) for process in survivors),
        "named": named,
        "traces": sum("Check failure stack trace" in launch.said(process) for process in range(PROCESSES)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base, draw = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(options.seed)
    write_rows(base / "rows.jsonl")
    steps = 26 * options.kills + 20
    folders = {name: base / name for name in ("whole", "killed")}
    for name, folder in folders.items():
        text = CONFIG.format(rows=str(base / "rows.jsonl"), steps=steps, every=EVERY, folder=str(folder))
        (base / f"{name}.py").write_text(text)
    config = base / "killed.py"
    os.environ["JAXPREFIX_CACHE"] = str(base / "cache")
    settings = {"jax_platforms": "cpu", "jax_persistent_cache_min_compile_time_secs": 0.0}
    for name, value in settings.items():
        jax.config.update(name, value)
    kills = []
    for number in range(options.kills):
        kills.append(kill_once(config, folders["killed"], base, draw))
        print(number + 1, kills[-1], flush=True)
    for name in folders:
        launch = Launch(base / f"{name}.py", base)
        codes = launch.wait(1800)
        if codes != [0] * PROCESSES:
            raise SystemExit(f"{name} ended with {codes}:\n" + "\n".join(map(launch.said, range(PROCESSES))))
    ends = [json.loads((folder / f"checkpoints/{steps}/record.json").read_text()) for folder in folders.values()]
    figures = {
        "processes": PROCESSES,
        "steps": steps,
        "checkpoint_every": EVERY,
        "kills": kills,
        "same_bits": ends[0]["record"]["digests"] == ends[1]["record"]["digests"],
        "same_log": logged(folders["whole"]) == logged(folders["killed"]),
    }
    save("kills_processes", figures, versions())
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
