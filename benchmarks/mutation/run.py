"""Runs a selection of tests on a copy of a checkout, within a limit of CPU seconds.

CPU seconds of the whole process tree are counted, since they depend little on what else the machine does; a wall limit
of four times as many seconds ends what waits instead of computing. Where there is no /proc only the wall limit acts.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WALL = 4  # times the CPU limit
TICKS = os.sysconf("SC_CLK_TCK")
LEFT_OUT = shutil.ignore_patterns(
    ".git", "__pycache__", ".pytest_cache", ".ruff_cache", ".venv*", "runs", "out", "*.pyc"
)
MARKS = "not slow and not parity"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a selection of tests did.

    Attributes:
      code: pytest's exit code, negative the signal that ended it; None if it was cut off at a limit.
      cpu: CPU seconds of the process tree.
      wall: seconds.
      first: the first test that failed, or the file that could not be collected; "" if none did.
      tail: the last lines of the output.
    """

    code: int | None
    cpu: float
    wall: float
    first: str
    tail: str


class Copy:
    """A temporary copy of a checkout in which one file at a time is changed."""

    def __init__(self, tree: Path):
        self._folder = tempfile.TemporaryDirectory(prefix="mutants-")
        self.root = Path(self._folder.name) / "tree"
        shutil.copytree(tree, self.root, ignore=LEFT_OUT)
        self._stamp = int(time.time()) - 10_000_000

    def write(self, file: str, source: str) -> None:
        """Writes a file with a time of change that it never had, since compiled modules are found by that time."""
        self._stamp += 1
        (self.root / file).write_text(source)
        os.utime(self.root / file, (self._stamp, self._stamp))

    def test(
        self, files: list[str], deselected: tuple[str, ...], limit: float, stop: threading.Event, processes: int = 0
    ) -> Outcome:
        """Runs test files in the given order until one test fails; `limit` is in CPU seconds.

        Raises:
          KeyboardInterrupt: `stop` was set meanwhile.
        """
        with tempfile.TemporaryDirectory(dir=self._folder.name, prefix="run-") as folder:
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", MARKS, "-p", "no:cacheprovider", "--tb=short"]
            command += [f"--basetemp={folder}/pytest", *(f"--deselect={test}" for test in deselected)]
            command += [*(["-n", str(processes)] if processes else []), *files]
            env = {
                **os.environ,
                "PYTHONPATH": str(self.root),
                "JAX_PLATFORMS": "cpu",
                "JAXPREFIX_CACHE": f"{folder}/cache",
                "TMPDIR": folder,
            }
            with open(Path(folder) / "output", "w+b") as output:
                code, cpu, wall = _limited(command, self.root, env, output, limit, stop)
                output.seek(0)
                lines = output.read().decode(errors="replace").splitlines()
        failed = (re.match(r"(?:FAILED|ERROR) (\S+)", line) for line in lines)
        first = next((match[1] for match in failed if match), "")
        return Outcome(code, round(cpu, 1), round(wall, 1), first, "\n".join(lines[-5:])[-600:])

    def close(self) -> None:
        """Deletes the copy."""
        self._folder.cleanup()


def _limited(command, folder, env, output, limit, stop) -> tuple[int | None, float, float]:
    """Exit code (None if cut off), CPU seconds, seconds."""
    begun, cpu = time.monotonic(), 0.0
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            done, status, usage = os.wait4(child.pid, os.WNOHANG)
            wall = time.monotonic() - begun
            if done:
                child.returncode = os.waitstatus_to_exitcode(status)
                return child.returncode, max(cpu, usage.ru_utime + usage.ru_stime), wall
            cpu = max(cpu, _usage(child.pid)[0])
            if cpu > limit or wall > WALL * limit:
                return None, cpu, wall
            if stop.wait(0.25):
                raise KeyboardInterrupt
    finally:
        _, members = _usage(child.pid)
        for process in members | ({child.pid} if child.returncode is None else set()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if child.returncode is None:
            child.wait()


def _usage(root: int) -> tuple[float, set[int]]:
    """CPU seconds and the processes of the session of `root` and of all that descend from it."""
    about: dict[int, tuple[int, int, float]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        ticks = sum(map(int, fields[11:15]))  # its own and those of its children that ended, user and system
        about[int(entry.name)] = int(fields[1]), int(fields[3]), ticks / TICKS
    members = {process for process, (_, session, _) in about.items() if session == root or process == root}
    while new := {process for process, (parent, _, _) in about.items() if parent in members} - members:
        members |= new
    return sum(about[process][2] for process in members if process in about), members
