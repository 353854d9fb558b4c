"""Reads what one of several processes writes to standard error, and passes it on; run as a script beside that process.

When a process is gone, the coordination service of JAX aborts the others from a thread of its own, which no Python
code can keep it from, with a stack trace of a page. The relay outlives the process, and says in its place which
process is gone and what to do. What it does not know it passes on, line by line, with control characters as escapes.

Arguments: the coordinator's address, how many processes there are, seconds that they wait at the start.
"""

import io
import re
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# by its file: as a script this runs without the package, and without what the package needs
escaped = runpy.run_path(str(Path(__file__).parents[1] / "errors.py"))["escaped"]

_DYING = re.compile(r"^([EF]\d{4} .*\b(coordination_service(_agent)?\.cc|client\.h):\d+\]|terminate called .*gloo::)")
_FATAL = "the JAX distributed service detected fatal errors"
AGAIN = "start the same command again on all of them to go on from the last checkpoint"


def sentence(last: str, address: str, processes: int, seconds: int) -> str | None:
    """What the last words of a process mean; None where they are not the service's, or not known."""
    _, found, why = last.partition(_FATAL)
    if not found:
        broken = re.search(r"^terminate called .*gloo::.*\n(.*)", last, re.MULTILINE)
        if not broken:
            return None
        return (
            "a computation of all processes broke off, most likely because one of them is gone, which the others' logs "
            f"name ({broken[1].strip()[:200]}); {AGAIN}."
        )
    if "different incarnation" in why or "Incarnation ID mismatch" in why:
        return (
            f"a process with a number that is taken came to the coordinator at {address}: it was started again while "
            f"the others went on, or another run names the same coordinator; end them all, and {AGAIN}."
        )
    if "RegisterTask" in why:
        return (
            f"the {processes} processes did not all find the coordinator at {address} within {seconds} s; check that "
            "each of them was started, with this address and a number of its own, that process 0 runs on that machine, "
            "and that no firewall or earlier run is in the way."
        )
    gone = re.search(r"stopped sending heartbeats\):\n((?:\d+\n)+)", why)
    if gone:
        numbers = ", ".join(gone[1].split())
        which = f"process {numbers} is" if "," not in numbers else f"processes {numbers} are"
        return f"{which} gone (killed, cut off, or ended by an error that its own log tells); {AGAIN}."
    if "Failed to send RPC to coordination service" in why or "leader task" in why:
        return (
            f"process 0, the coordinator at {address}, is gone (killed, cut off, or ended by an error that its own log "
            f"tells); {AGAIN}."
        )
    return None


def write(lines: Iterable[str], out: Any, address: str, processes: int, seconds: int) -> None:
    """Passes the lines on as they come; from the service's last words on they wait for the end."""
    last: list[str] = []
    for line in lines:
        if last or _DYING.match(line):
            last.append(line)
        else:
            print(_shown(line), end="", file=out, flush=True)
    said = sentence("".join(last), address, processes, seconds)
    print("".join(map(_shown, last)) if said is None else f"jaxprefix: {escaped(said)}\n", end="", file=out, flush=True)


def _shown(line: str) -> str:
    """A line without control characters but tabs; one that was to be written over by the next stays a line."""
    text = line.rstrip("\r\n")
    return escaped(text, keep="\n\t") + ("\n" if len(text) < len(line) else "")


if __name__ == "__main__":
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):  # it ends when the process does
        signal.signal(number, signal.SIG_IGN)
    text = open(0, encoding="utf-8", errors="replace", newline="")  # noqa: SIM115
    assert isinstance(sys.stderr, io.TextIOWrapper)  # Python's own
    sys.stderr.reconfigure(newline="")
    write(text, sys.stderr, sys.argv[1], *map(int, sys.argv[2:4]))
