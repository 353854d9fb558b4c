"""The command line: finds a command by its name, runs it, and turns what a person can correct into one line."""

import difflib
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from jaxprefix.allocator import keep_large_buffers
from jaxprefix.errors import RunFailed, Stopped, UserError, escaped
from jaxprefix.signals import RESUMED, Interruptible, exit_code

COMMANDS = (
    *("train", "evaluate", "predict", "generate", "describe", "check", "gates", "export", "import", "compare", "plan"),
)
"""The commands, in the order of the usage: `NAME` is the module `jaxprefix.cli.NAME` (`import_` for `import`), with
`USAGE`, `SUMMARY` and `run(args)`, which returns the exit code."""

RESUMABLE = ("train", "compare")


def find_command(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"jaxprefix.cli.{name}{'_' if name == 'import' else ''}")


def usage() -> str:
    """What `jaxprefix --help` prints, made of what the commands say of themselves."""
    lines = [(f"{name} {find_command(name).USAGE}", find_command(name).SUMMARY) for name in COMMANDS]
    width = max(len(line) for line, _ in lines)
    listed = "\n".join(f"  {line:{width}}  {summary}" for line, summary in lines)
    return f"usage: jaxprefix COMMAND ...\n\n{listed}\n\nEach command has its own --help.\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done (or stopped by SIGTERM, and to be resumed), 1 failed, 2
    something to correct in what was given, 130 and 129 stopped by Ctrl-C and SIGHUP."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(COMMANDS)
        said = f"there is no command {args[0]!r}{hint}; the commands are {known}."
        print(f"jaxprefix: {escaped(said)}", file=sys.stderr)
        return 2
    with Interruptible() as interruptible:
        try:
            return guarded(find_command(args[0]).run, args[1:])
        except BaseException as error:
            # what is interrupted may have made another exception of it
            if not isinstance(error, KeyboardInterrupt) and interruptible.came is None:
                raise
            if not error.args or not isinstance(error, KeyboardInterrupt):
                resumed = f"; {RESUMED}" if args[0] in RESUMABLE else ""
                print(f"jaxprefix: stopped before its end{resumed}", file=sys.stderr)
            return interruptible.code


def guarded(command: Any, args: Sequence[str]) -> int:
    """Runs a command with the log on standard error, and turns what a person can correct into one line and a code."""
    keep_large_buffers()
    _speak_utf8()
    log = logging.StreamHandler()
    log.setFormatter(_Escaping("%(message)s"))
    logging.basicConfig(handlers=[log], level=logging.WARNING)
    logging.getLogger("jaxprefix").setLevel(logging.INFO)
    try:
        return command(args)
    except Stopped as stopped:
        return exit_code(stopped.signal)
    except (UserError, RunFailed) as error:
        print(f"jaxprefix: {escaped(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _speak_utf8() -> None:
    """Output is UTF-8 whatever the locale says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(encoding="utf-8")


class _Escaping(logging.Formatter):
    """Messages without control characters; lines of our own messages end where they end."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        own = record.name.partition(".")[0] == "jaxprefix"
        return escaped(super().formatMessage(record), keep="" if own else "\n\t")
