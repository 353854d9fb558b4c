"""The folder for what can be computed again, names of files that hold anywhere, and writes that are whole or absent."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import stat
import tempfile
import typing
from pathlib import Path
from typing import Any, TypeVar

from jaxprefix.errors import UserError
from jaxprefix.values import Named, annotations

T = TypeVar("T")


def cache_folder() -> Path:
    """The environment variable JAXPREFIX_CACHE, else `~/.cache/jaxprefix`; the folder may not exist yet."""
    named = os.environ.get("JAXPREFIX_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "jaxprefix"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, creating its folder; a reader sees the old file or the new one, never a part.

    What a process that was killed left beside it is removed.

    Raises:
      OSError: the folder cannot be written, or the disk is full; then `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=unfinished(path.name))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def unfinished(name: str) -> str:
    """How the name of what this process writes, to be called `name` when it is whole, begins."""
    return f".{name}.{socket.gethostname()}.{os.getpid()}."


def sweep(folder: Path, name: str) -> None:
    """Removes what processes of this machine were writing as `name` when they were killed."""
    beginning = f".{name}.{socket.gethostname()}."
    for place in list(folder.iterdir()):
        process = place.name.removeprefix(beginning).partition(".")[0]
        if place.name.startswith(beginning) and process.isdigit() and not _alive(int(process)):
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    place.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def check_entries(folder: Any) -> None:
    """Refuses, as UserError, a local folder with something in it that is neither a file nor a folder: whoever opens a
    FIFO waits for ever."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # what is not there, or may not be read, is told by whoever reads it
    for entry in entries:
        try:
            mode = entry.stat().st_mode
        except OSError:  # a link to nothing
            continue
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{entry.name} in {folder} is no file (a FIFO, a socket or a device); remove it.")


def parse_json(content: bytes | str) -> Any:
    """The value of JSON text.

    Raises:
      ValueError: it is no JSON or no UTF-8, or nested deeper than it can be read.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def absolute(path: str) -> str:
    """A path from the root, `~` expanded; one with a scheme (`gs://`) as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def absolute_fields(value: T) -> T:
    """A dataclass whose fields that name places (`values.Place`) name them from the root; those within it too."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    known, changed = annotations(type(value)), {}
    for field in dataclasses.fields(value):
        before = getattr(value, field.name)
        place = isinstance(before, str) and _names_place(known.get(field.name))
        after = absolute(before) if place else absolute_fields(before)
        if field.init and after is not before and after != before:
            changed[field.name] = after
    return dataclasses.replace(value, **changed) if changed else value


def placed_as(value: T, other: T) -> T:
    """A dataclass with the places of another one of its class in the place of its own."""
    known = annotations(type(value))
    places = [name for name, annotation in known.items() if _names_place(annotation)]
    if not places:
        return value
    return dataclasses.replace(value, **{name: getattr(other, name) for name in places})  # pyright: ignore[reportArgumentType]  # both are dataclasses


def _names_place(annotation: Any) -> bool:
    parts = (annotation, *typing.get_args(annotation))  # of a union, those that it is of
    return any(isinstance(extra, Named) for part in parts for extra in typing.get_args(part))
