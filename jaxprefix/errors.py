"""The errors that a person can cure: sentences that name the thing and the remedy."""

from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Something in the configuration, the data or the files is not as it must be.

    The message is one sentence that names the thing and says what to do. The command line prints it and exits with
    code 2. Raise it before anything is compiled or written.
    """


class RunFailed(RuntimeError):
    """A run cannot go on (its loss is no longer finite, say). The message names the step and what is left to go on
    from. The command line prints it and exits with code 1."""


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
