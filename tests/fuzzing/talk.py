"""The command line in this process: what it prints, its exit code, and its one sentence as an error."""

import contextlib
import io
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprefix.cli.main import main
from jaxprefix.errors import UserError


class Reached(BaseException):
    """The command went on to where a trial ends; with what it was given."""


class Said(NamedTuple):
    """What a command left: exit code, standard output and standard error, and what it reached, if it did."""

    code: int
    out: str
    err: str
    reached: Any = None


class _Bytes:
    """A standard input of given bytes."""

    def __init__(self, content: bytes):
        self.buffer = io.BytesIO(content)


class _Output(io.TextIOWrapper):
    """A stream that says what was written to it, and that it is UTF-8, as a terminal's does."""

    def __init__(self):
        super().__init__(io.BytesIO(), "utf-8", "surrogatepass", "", write_through=True)

    def getvalue(self) -> str:
        """All that was written."""
        return self.buffer.getvalue().decode("utf-8", "surrogatepass")  # pyright: ignore


def talk(args: Sequence[str], given: bytes = b"") -> Said:
    """Runs a command.

    Raises:
      UserError: it ended with exit code 2; the message is its sentence.
    """
    out, err = _Output(), _Output()
    reached, before, code = None, sys.stdin, 0
    sys.stdin = _Bytes(given)  # pyright: ignore
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*args])
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except Reached as error:
        reached = error
    finally:
        sys.stdin = before
    if code == 2:
        raise UserError(sentence(err.getvalue()))
    return Said(code, out.getvalue(), err.getvalue(), reached)


def sentence(err: str) -> str:
    """The sentence in what a command says on standard error: the usage before it, and the box around it, are left out.

    Two sentences, or one that holds a control character, stay several lines or as they are, so that they are found.
    """
    lines = [line for line in err.split("\n") if line.strip()]
    boxed = [re.sub(r"^[│|]\s?|\s*[│|]$", "", line) for line in lines if line[:1] in "│|"]
    if boxed:
        joined = " ".join(line.strip() for line in boxed if not re.fullmatch(r"[─ ]*", line.strip()))
        return joined if joined.endswith(".") else f"{joined}."
    own = [line for line in lines if re.match(r"jaxprefix[^:]*: ", line)]
    said = "\n".join(own)
    controls = [one for one in said.replace("\n", "") if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
    if controls:
        return f"{said}\n{controls!r}"
    return said if said.endswith((".", ")", "?")) or not own else f"{said}."
