"""Files and folders that are whole or absent: written beside their place, flushed to the disk, then renamed.

Folders may be local paths or, through `etils.epath`, buckets ("gs://..."). A bucket has neither flushing nor an atomic
rename of folders; there the digests stored with a checkpoint tell a whole one from a half-written one.
"""

import contextlib
import ctypes
import errno
import importlib.util
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError

OLD = ".replaced"  # suffix of a folder that is about to be replaced, where the two cannot be exchanged in one go
PROBE = ".probe-"


def as_path(path: str | os.PathLike) -> Any:
    """An `epath.Path`, local or remote, with `~` expanded; local ones are absolute."""
    from etils import epath

    if is_remote(path):
        _check_scheme(os.fspath(path))
    path = epath.Path(path)
    return path if is_remote(path) else epath.Path(os.path.abspath(path.expanduser()))


def resolved(path: str | os.PathLike) -> Any:
    """The same with links followed, so that what is put in its place is put where a link points, and the link stays."""
    path = as_path(path)
    return path if is_remote(path) else as_path(os.path.realpath(path))


def is_remote(path: Any) -> bool:
    """Whether a path has a scheme, such as `gs://`."""
    return "://" in os.fspath(path)


_SCHEMES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", None)}


def _check_scheme(path: str) -> None:
    """Refuses, as UserError, a bucket that nothing here can open."""
    scheme = path.partition("://")[0]
    if scheme not in _SCHEMES:
        raise UserError(f"{path} has the scheme {scheme}://, which is not known; give a folder or gs://BUCKET/FOLDER.")
    module, extra = _SCHEMES[scheme]
    if importlib.util.find_spec(module) is None:
        remedy = f"pip install -e '.[{extra}]'" if extra else f"pip install {module}"
        raise UserError(f"{path} lies in a bucket, which needs {module}; run `{remedy}`, or give a folder.")


def run_folder(path: str) -> Any:
    """A run's folder as it is named in its config: a local path as it stands, or a bucket's."""
    return as_path(path) if is_remote(path) else Path(path)


def flush(path: Any) -> None:
    """Forces a local file, or a local folder with all that it holds, to the disk."""
    if is_remote(path):
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _fsync(os.path.join(folder, name))
        _fsync(folder)
    if not os.path.isdir(path):
        _fsync(path)


def _fsync(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


def put_folder(staged: Any, target: Any) -> None:
    """Moves the finished folder `staged` to `target` beside it; what was there before is removed afterwards.

    Where the system can exchange two names in one operation, `target` exists at every moment. Elsewhere the old
    folder is called `target + OLD` for a moment; `recover_folder` finds it should the process die right then.
    """
    flush(staged)
    if not target.exists():
        staged.rename(target)
    elif _exchange(staged, target):
        staged.rmtree()
    else:
        old = target.parent / (target.name + OLD)
        if old.exists():
            old.rmtree()
        target.rename(old)
        staged.rename(target)
        old.rmtree()
    if not is_remote(target):
        _fsync(target.parent)


def recover_folder(target: Any) -> None:
    """Puts the old folder back if the process died while it was being replaced, or removes it if it is replaced."""
    old = target.parent / (target.name + OLD)
    if old.exists():
        if target.exists():
            old.rmtree()
        else:
            old.rename(target)


def _exchange(a: Any, b: Any) -> bool:
    """Exchanges two local names atomically (Linux `renameat2`); False where that cannot be done."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or is_remote(a):
        return False
    at_cwd, exchange = -100, 2
    return rename(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0


@contextlib.contextmanager
def writing(what: str, folder: Any) -> Iterator[None]:
    """Turns a refusal of the disk into a sentence: `what` could not be written, why, and what to do.

    Raises:
      UserError: the disk is full, the folder is not writable, a file size limit is reached.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise UserError(
            f"{what} could not be written to {os.fspath(folder)} ({reason}); what was there before is untouched: "
            "make room or choose another folder."
        ) from error


_DISK_WORDS = {
    errno.ENOSPC: ("No space left", "RESOURCE_EXHAUSTED"),
    errno.EDQUOT: ("quota exceeded",),
    errno.EFBIG: ("File too large",),
    errno.EACCES: ("Permission denied", "PERMISSION_DENIED"),
    errno.EROFS: ("Read-only file system",),
    errno.EIO: ("Input/output error",),
}


def _disk_reason(error: BaseException) -> str | None:
    """Why the disk refused, or None when the error is of another kind."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return os.strerror(seen.errno)
        for number, words in _DISK_WORDS.items():  # the array store reports the system's words in a ValueError
            if any(word in str(seen) for word in words):
                return os.strerror(number)
        seen = seen.__cause__ or seen.__context__
    return None


def check_writable(folder: Any) -> None:
    """Creates `folder` and tries a file in it.

    Raises:
      UserError: it cannot be created or written.
    """
    with writing("a checkpoint", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not is_remote(folder):
            probe = folder / f"{PROBE}{secrets.token_hex(8)}"  # processes on several machines may have one number
            probe.write_text("")
            probe.unlink(missing_ok=True)  # another process may be cleaning up
