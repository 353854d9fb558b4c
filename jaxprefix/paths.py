"""The folder for what can be computed again, and writes that are whole or not there at all."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """The environment variable JAXPREFIX_CACHE, else `~/.cache/jaxprefix`; the folder may not exist yet."""
    named = os.environ.get("JAXPREFIX_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "jaxprefix"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, creating its folder; a reader sees the old file or the new one, never a part.

    Raises:
      OSError: the folder cannot be written, or the disk is full; then `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
