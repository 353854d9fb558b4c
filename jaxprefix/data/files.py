"""Rows of files: one, or the shards of a folder or a glob as one table."""

import bisect
import errno
import glob
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxprefix.data.readers import READERS
from jaxprefix.data.readers.mapping import UNPACKERS, map_file
from jaxprefix.data.remote import is_remote, list_files, local_copy
from jaxprefix.data.rows import Rows
from jaxprefix.data.source import Source
from jaxprefix.errors import UserError, listed
from jaxprefix.typed_json import register
from jaxprefix.values import Place

KINDS = ", ".join(READERS)
REMEDIES = {
    errno.EMFILE: "raise `ulimit -n`, or join shards into fewer",
    errno.ENOSPC: "make room in the folder for temporary files, or name another in TMPDIR",
}


@register
@dataclass(frozen=True)
class Files(Source):
    """Your own files: `.jsonl` (one JSON object per line), `.csv` and `.tsv` (with a header line), `.parquet`, or
    `.arrow`, each also as `.gz` or `.zst`; in a bucket too (`gs://bucket/rows.jsonl`).

    A folder, or a pattern such as `data/train-*.jsonl.gz` (`**` goes into folders), is one table: its files in the
    order of their names. The columns of `.csv`, `.tsv`, `.parquet` and `.arrow` must be the same in all of them.
    """

    train: Place
    """The file to train on, or a folder or pattern of shards; so may the others be."""
    validation: Place | None = None
    """The file that chooses the best checkpoint and stops early."""
    test: Place | None = None
    """The file that is looked at once, at the end."""

    def _open(self, split: str) -> Rows:
        return open_files(getattr(self, split))


def open_files(path: str) -> Rows:
    """The rows of a file, or of all shards of a folder or a pattern.

    Raises:
      UserError: there is none, one is of another kind, or damaged, or has other columns than the first one.
    """
    place = Path(path).expanduser()
    if is_remote(path):
        names = {Path(name): name for name in list_files(path) or [path]}
        files = [file for file in names if _kind(file) in READERS and file.name[0] not in "._"] or list(names)
    elif place.is_dir():
        files = [entry for entry in place.iterdir() if _kind(entry) in READERS and entry.name[0] not in "._"]
        if not files:
            raise UserError(f"The folder {path} holds no data files; use {KINDS}, also as {' or '.join(UNPACKERS)}.")
        names = {file: str(Path(path) / file.name) for file in files}
    elif not place.exists() and glob.has_magic(path):
        files = [file for file in map(Path, glob.glob(str(place), recursive=True)) if file.is_file()]
        if not files:
            raise UserError(f"No file matches {path}{_neighbours(place)}.")
        names = {file: str(file) for file in files}
    else:
        return open_file(path)
    if len(files) == 1:
        return open_file(names[files[0]])
    kinds = sorted({_kind(file) for file in files})
    if len(kinds) > 1:
        raise UserError(f"{path} holds files of several kinds ({listed(kinds)}); name those of one, as in *{kinds[0]}.")
    return _joined(path, [open_file(names[file]) for file in sorted(files)])


def open_file(path: str) -> Rows:
    """Open a file by its suffix. Raises `UserError` if it is missing, of another kind or damaged."""
    file = Path(path).expanduser()
    kind = _kind(file)
    if kind not in READERS:
        raise UserError(
            f"The file {path} is of no kind that can be read; use one of {KINDS}, also as {' or '.join(UNPACKERS)}."
        )
    if not is_remote(path) and not file.is_file():
        raise UserError(f"The file {path} does not exist{_neighbours(file)}.")
    try:
        if is_remote(path):
            with local_copy(path) as copy:
                content = map_file(copy, path)
        else:
            content = map_file(file, path)
        return READERS[kind](content, path, f"{kind} {hashlib.sha256(content).hexdigest()}")
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "check it and its rights")
        raise UserError(f"The file {path} cannot be read ({error.strerror or error}); {remedy}.") from None


def _kind(file: Path) -> str:
    """The suffix that says what a file holds, that of its compression aside."""
    return (file.with_suffix("") if file.suffix in UNPACKERS else file).suffix


def _neighbours(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; nor does the folder {file.parent}" if not glob.has_magic(str(file.parent)) else "; correct it"
    names = sorted(entry.name for entry in file.parent.iterdir() if _kind(entry) in READERS)
    return f"; {file.parent} holds {', '.join(names[:10])}" if names else f"; {file.parent} holds no data files"


def _joined(path: str, shards: Sequence[Rows]) -> Rows:
    """The shards as one table. A `.jsonl` row has columns of its own, so that such shards have none to compare."""
    first = shards[0]
    for shard in shards:
        if shard.columns is not None and first.columns is not None and {*shard.columns} != {*first.columns}:
            raise UserError(
                f"{shard.name} has the columns {listed(shard.columns, 20)}, and {first.name} has "
                f"{listed(first.columns, 20)}; give all shards of {path} the same."
            )
        if shard.class_names != first.class_names:
            raise UserError(f"{shard.name} names other classes than {first.name}; give all shards of {path} the same.")
    if len(shards) == 1:
        return first
    ends = list(itertools.accumulate(len(shard) for shard in shards))

    def place(index: int) -> tuple[Rows, int]:
        number = bisect.bisect_right(ends, index)
        return shards[number], index - (ends[number - 1] if number else 0)

    def read(index: int) -> dict[str, Any]:
        shard, inner = place(index)
        return shard.read(inner)

    def locate(index: int) -> str:
        shard, inner = place(index)
        return shard.locate(inner)

    identities = hashlib.sha256("\n".join(shard.identity for shard in shards).encode()).hexdigest()
    return Rows(path, f"shards {identities}", ends[-1], read, locate, first.class_names, first.columns)
