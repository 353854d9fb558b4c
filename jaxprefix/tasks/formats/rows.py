"""Rows of a task: those of its source, or what its format reads out of a published file."""

import hashlib
from pathlib import Path
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Files, open_split
from jaxprefix.errors import UserError
from jaxprefix.tasks.kinds import Task


def open_rows(task: Task, split: str) -> Rows:
    """The rows of `train`, `validation` or `test`; see `open_split` for what is refused."""
    made, source = getattr(task, "format", None), task.source
    path = getattr(source, split, None) if isinstance(source, Files) else None
    if made is None or path is None or Path(path).suffix != made.suffix:
        return open_split(source, split)
    try:
        content = Path(path).expanduser().read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The file {path} cannot be read ({error}); check it.") from None
    rows: list[dict[str, Any]] = made.read(text, split, path)
    if not rows:
        raise UserError(f"The {split} split {path} has no rows; give one that has.")
    identity = f"{type(made).__name__} {split} {hashlib.sha256(content).hexdigest()}"
    return Rows(path, identity, len(rows), rows.__getitem__, lambda index: f"{path}, row {index}")
