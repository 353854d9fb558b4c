"""Signals that ask a process to stop: what can be resumed saves first, all else ends, and a second Ctrl-C ends at once.

SIGTERM comes from schedulers, SIGINT from Ctrl-C and the stop button of a notebook, SIGHUP from a terminal that closes.
One that the process was told to ignore (`nohup`, a job in the background of a script) stays ignored.
"""

import contextlib
import os
import signal
import stat
import threading
from typing import Any, NoReturn

NUMBERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
RESUMED = "the same command resumes it"


def exit_code(number: int) -> int:
    """The exit code of what a signal stopped and can be resumed: 0 after SIGTERM, for schedulers that start the same
    command again, else 128 and the number, as shells have it (130 after SIGINT, 129 after SIGHUP)."""
    return 0 if number == signal.SIGTERM else 128 + int(number)


class StopSignal:
    """Remembers that one of the signals came, so that a loop can save and leave; outside the main thread none does.

    Ctrl-C after any of them raises KeyboardInterrupt where it comes. Within another `StopSignal` it tells that one
    too, and knows what came before: a comparison must hear what came while one of its runs was listening, and a run
    what came before it was.

    Attributes:
      came: the number of the first that came; None while none has.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                before = signal.getsignal(number)
                if before is None or before == signal.SIG_IGN:
                    continue
                outer = getattr(before, "__self__", None)
                if isinstance(outer, StopSignal):
                    self.came = outer.came
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: Any) -> None:
        leave_lost_terminal()
        if self.came is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(outer, StopSignal):
            outer._note(number, frame)
        self.came = self.came or number


class Interruptible:
    """A command from its start to its end: SIGINT and SIGHUP raise KeyboardInterrupt, but within a `StopSignal`; a
    second Ctrl-C ends the process at once, in a compilation too, where Python's own handlers would not be called.

    Attributes:
      came: the number of the signal that raised; None while none has.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self._before: dict[int, Any] = {}
        self._writes: int | None = None

    def __enter__(self) -> "Interruptible":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in NUMBERS:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            if number != signal.SIGTERM and signal.getsignal(number) == usual:
                self._before[number] = signal.signal(number, self._raise)
        reads, self._writes = os.pipe()
        os.set_blocking(self._writes, False)
        self._wakeup = signal.set_wakeup_fd(self._writes, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reads,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._writes is None:
            return
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writes)  # which ends the thread
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def code(self) -> int:
        """The exit code after KeyboardInterrupt."""
        return exit_code(self.came or signal.SIGINT)

    def _raise(self, number: int, frame: Any) -> NoReturn:
        leave_lost_terminal()
        self.came = self.came or number
        raise KeyboardInterrupt

    def _watch(self, reads: int) -> None:
        """Reads the numbers of signals, which Python's handler in C writes whatever the main thread does."""
        came = False
        while found := os.read(reads, 1):
            if came and found[0] == signal.SIGINT:
                with contextlib.suppress(OSError):
                    os.write(2, b"jaxprefix: ended at once; what was saved before is whole\n")
                os._exit(128 + signal.SIGINT)
            came = came or found[0] in NUMBERS
        os.close(reads)


def leave_lost_terminal() -> None:
    """Lets output that went to a terminal which is gone go nowhere: writing to it is an error from then on."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
