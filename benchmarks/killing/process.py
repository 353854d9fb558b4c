"""A command in a process of its own that is killed: after some CPU time, or before its n-th write.

Everything is imported before the first process is forked (JAX has started no backend and no thread by then), so that
a kill does not cost an import. Importing this module imports all of it.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A command compiles a few small programs and runs each a few times: what makes programs fast costs more than it gives.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import sklearn.metrics  # noqa: F401
import transformers  # noqa: F401
from orbax.checkpoint import v1  # noqa: F401
from rich.console import Console  # noqa: F401

import jaxprefix as jp
from jaxprefix.checkpoints import files

for _name in jp.__all__:
    getattr(jp, _name)  # imports the modules that public names live in
with contextlib.suppress(ImportError):
    import matplotlib.figure  # noqa: F401

WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
PAUSE = 0.3  # seconds between SIGSTOP and SIGCONT
LIMIT = 600.0  # seconds after which a command counts as one that does not end


class Writes:
    """Counts what a process does to a folder's names and files, and ends it before one of them.

    Args:
      folder: writes elsewhere do not count.
      last: the number of the write that is not done; 0 for none.
      said: a file for the write that was not done, or the number of all.
    """

    def __init__(self, folder: Path, last: int, said: Path):
        self._folder, self._last, self._said, self.count = str(folder), last, said, 0
        real, exchange = os.fsync, files._exchange

        def fsync(descriptor: int) -> None:
            self._came("fsync", os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc/self") else "")
            real(descriptor)

        def exchanged(a: Any, b: Any) -> bool:
            self._came("exchange", os.fspath(b))
            return exchange(a, b)

        os.fsync, files._exchange = fsync, exchanged
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if mode is None else set(mode) & set("wax+")
            if writes:
                self._came(event, path)
        elif event in WRITES:
            self._came(event, args[1] if event == "os.rename" else args[0])

    def _came(self, event: str, path: Any) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self._folder):
            return
        self.count += 1
        if self.count == self._last:
            self._last = 0  # what follows is no write of the command
            self._said.write_text(f"{event} {os.path.relpath(path, self._folder)}")
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    call: Callable[[], int],
    folder: Path,
    *,
    seconds: float | None = None,
    write: int = 0,
    pause: float | None = None,
) -> dict[str, Any]:
    """Runs a call in a fork, to its end or until it is killed.

    Args:
      call: gives the exit code.
      folder: where it writes.
      seconds: of CPU time after which it is killed.
      write: the number of the write before which it is killed.
      pause: seconds of CPU time after which it is stopped for a while.

    Returns:
      `code` (minus the signal, where one killed it; None if it did not end), `cpu` seconds, the number of `writes`,
      the write that was not done as `at`, and what it `said`.
    """
    log, said = folder.parent / "log", folder.parent / "said"
    said.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        _child(call, folder, log, write, said)
    until, paused = time.monotonic() + LIMIT, False
    try:
        while True:
            ended, status, usage = os.wait4(process, os.WNOHANG)
            if ended:
                break
            used = _cpu(process)
            if seconds is not None and used >= seconds:
                os.kill(process, signal.SIGKILL)
            elif pause is not None and used >= pause and not paused:
                paused = True
                os.kill(process, signal.SIGSTOP)
                time.sleep(PAUSE)
                os.kill(process, signal.SIGCONT)
            elif time.monotonic() > until:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.05 if seconds is None and pause is None else 0.01)
    except BaseException:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise
    code = os.waitstatus_to_exitcode(status)
    text = said.read_text() if said.exists() else ""
    return {
        "code": None if time.monotonic() > until else code,
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "writes": int(text) if text.isdecimal() else 0,
        "at": "" if text.isdecimal() else text,
        "said": log.read_text(errors="replace")[-2000:],
        "paused": paused,
    }


def _child(call: Callable[[], int], folder: Path, log: Path, write: int, said: Path) -> None:
    code = 70
    try:
        if sys.platform == "linux":  # a script that is killed leaves no command that goes on
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_compilation_cache_dir", str(folder.parent / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        os.environ["JAXPREFIX_CACHE"] = str(folder / "cache")
        counted = Writes(folder, write, said)
        code = call()
        said.write_text(str(counted.count))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cpu(process: int) -> float:
    """CPU seconds of a process up to now, of all its threads; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
