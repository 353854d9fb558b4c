"""The errors that a person can cure: sentences that name the thing and the remedy."""

from collections.abc import Iterable


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
