"""The folder for what can be computed again, names of files that hold anywhere, and writes that are whole or absent."""

import dataclasses
import os
import tempfile
import typing
from pathlib import Path
from typing import Any, TypeVar

from jaxprefix.values import Named, annotations

T = TypeVar("T")


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
