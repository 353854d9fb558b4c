"""One run in a folder at a time: the kernel's lock on a file there, which goes with the process, however it ends."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxprefix.checkpoints.files import is_remote, writing
from jaxprefix.checkpoints.place import Place
from jaxprefix.errors import UserError

log = logging.getLogger("jaxprefix")

LOCK = ".lock"


@contextlib.contextmanager
def only_run(folder: Any) -> Iterator[Place]:
    """Keeps other runs out of a folder, which is made where it is not there, and holds it.

    The processes of one run count as one: the first of them holds the lock. In a bucket, and on file systems without
    locks, nothing keeps another run out, and the log says so.

    Raises:
      UserError: the place is a file, cannot be written, or another run is there, whose process is named.
    """
    if jax.process_index() != 0:
        yield Place()
        return
    if is_remote(folder):
        log.info("%s has no locks: see to it that no other run writes there.", folder)
        yield Place()
        return
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; a run needs a folder that can be written: choose another place.")
    with writing("a run", folder):
        folder.mkdir(parents=True, exist_ok=True)
        held, place = _lock(folder / LOCK), Place(folder)
    try:
        yield place
    finally:
        place.close()
        if held is not None:
            with contextlib.suppress(OSError):  # the folder may be gone, or another have its name
                if os.path.samestat(os.fstat(held), (folder / LOCK).stat()):
                    (folder / LOCK).unlink()
            os.close(held)


def _lock(path: Path) -> int | None:
    """An open file that holds the lock; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # no Unix
        log.info("this system has no locks: see to it that no other run writes to %s.", path.parent)
        return None
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.pread(held, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(held)
            raise UserError(
                f"{path.parent} is in use by another run (process {number}); wait for its end, or give this run "
                "another folder."
            ) from None
        except OSError as error:
            os.close(held)
            log.info("%s has no locks (%s): see to it that no other run writes there.", path.parent, error.strerror)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), path.stat()):
                os.ftruncate(held, 0)
                os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
                return held
        os.close(held)  # the run before removed the file in between
