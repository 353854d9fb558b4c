"""Rows of a published file, as a format reads them."""

import hashlib
from pathlib import Path
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.data.sources import Source
from jaxprefix.errors import UserError
from jaxprefix.tasks.formats.format import Format


def open_published(made: Format, source: Source, split: str) -> Rows | None:
    """The rows of a split that is a published file of the format; None where it is none."""
    path = getattr(source, split, None)
    if not isinstance(path, str) or Path(path).suffix != made.suffix:
        return None
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
