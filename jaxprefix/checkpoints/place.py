"""The folder of a run, which must stay the one that the run began in: nothing is made anew under its old name."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from jaxprefix.checkpoints.files import is_remote
from jaxprefix.errors import FolderGone


class Place:
    """A local folder as it is now; one in a bucket, which cannot be told from another of its name, passes every check.

    Args:
      folder: it exists; None where nothing is to be held.
    """

    def __init__(self, folder: Any = None):
        self._folder = folder
        self._open: int | None = None
        if folder is not None and not is_remote(folder):
            with contextlib.suppress(OSError):  # some systems open no folders, and some shares do not let
                self._open = os.open(folder, os.O_RDONLY)  # while it is open, no other gets its number

    def check(self) -> None:
        """Raises FolderGone if the folder's name is that of another one now, or of none."""
        if self._open is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._open), os.stat(self._folder))
        except OSError:
            same = False
        if not same:
            raise FolderGone(
                f"{os.fspath(self._folder)} was renamed or removed while the run wrote to it; start the same command "
                "again, with the folder's new name to go on there."
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Checks before something is written there, and whether that is why it could not be."""
        self.check()
        try:
            yield
        except Exception:
            self.check()
            raise

    def close(self) -> None:
        """Lets go of the folder; every check passes from then on."""
        if self._open is not None:
            os.close(self._open)
        self._open = None
