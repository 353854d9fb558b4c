"""The errors that a person can cure: sentences that name the thing and the remedy."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Something in the configuration, the data or the files is not as it must be.

    The message is one sentence that names the thing and says what to do. The command line prints it and exits with
    code 2. Raise it before anything is compiled or written. Line ends in it, which other libraries' messages have and
    which are quoted in ours, become spaces, and halves of surrogate pairs, which no file nor terminal takes, escapes.
    """

    def __init__(self, message: str):
        whole = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(re.sub(r"\s*[\r\n]\s*", " ", whole))


class RunFailed(RuntimeError):
    """A run cannot go on (its loss is no longer finite, say). The message names the step and what is left to go on
    from. The command line prints it and exits with code 1."""


class FolderGone(RunFailed):
    """The folder that a run writes to was renamed or removed under it."""


class Stopped(RunFailed):
    """A signal stopped what the same command resumes, and the log has said so.

    Attributes:
      signal: its number.
    """

    def __init__(self, said: str, signal: int):
        super().__init__(said)
        self.signal = signal


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names for a message, cut after `most`; `none` where there are none."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(map(str, names[:most])) or "none") + more


def check_rate(said: str, rate: Any) -> None:
    """Refuses a rate or share outside [0, 1).

    Args:
      said: what it is, up to the number: `Inducer has dropout =`.
      rate: None, for one that is taken from elsewhere, and arrays of a traced program pass.

    Raises:
      UserError: it is a number below 0, or of 1 or more.
    """
    if isinstance(rate, int | float) and not 0 <= rate < 1:
        raise UserError(f"{said} {rate}; it must be at least 0 and below 1.")


_CONTROLS = ("Cc", "Cf", "Zl", "Zp", "Cs")


def escaped(text: str, keep: str = "", json: bool = False) -> str:
    r"""Text that is not ours, for a terminal or a log: its control characters as escapes, `\x1b` for one.

    Args:
      text: labels, texts, paths, messages that hold them.
      keep: characters that stay as they are.
      json: whether `text` is JSON, which then says the same as before and has JSON's own escapes.

    Returns:
      The text without characters of Unicode's classes Cc, Cf, Zl and Zp (and halves of surrogate pairs, which no
      terminal can be sent).
    """
    if text.isascii() and text.isprintable():
        return text
    escape = _json_escape if json else _escape
    return "".join(
        escape(character) if unicodedata.category(character) in _CONTROLS and character not in keep else character
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
