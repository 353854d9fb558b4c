"""Rows of `.jsonl`, `.csv` and `.parquet` files."""

import csv
import hashlib
import json
import mmap
from array import array
from pathlib import Path
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError


def open_file(path: str) -> Rows:
    """Open a file by its suffix. Raises `UserError` if it is missing, of another kind or damaged."""
    file = Path(path).expanduser()
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if file.suffix not in readers:
        raise UserError(f"The file {path} is of no kind that can be read; use one of {', '.join(readers)}.")
    if not file.is_file():
        raise UserError(f"The file {path} does not exist{_neighbours(file)}.")
    try:
        with file.open("rb") as stream:
            identity = f"{file.suffix} {hashlib.file_digest(stream, 'sha256').hexdigest()}"
        return readers[file.suffix](file, path, identity)
    except OSError as error:
        raise UserError(
            f"The file {path} cannot be read ({error.strerror or error}); check it and its rights."
        ) from None


def _neighbours(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; nor does the folder {file.parent}"
    names = sorted(entry.name for entry in file.parent.iterdir() if entry.suffix in (".jsonl", ".csv", ".parquet"))
    return f"; {file.parent} holds {', '.join(names[:10])}" if names else f"; {file.parent} holds no data files"


def _jsonl(file: Path, name: str, identity: str) -> Rows:
    """Only the lines' places are kept; a line is parsed when it is asked for. Blank lines are no rows."""
    starts, ends, numbers = array("q"), array("q"), array("q")
    position = 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                starts.append(position)
                ends.append(position + len(line))
                numbers.append(number)
            position += len(line)
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if starts else b""

    def locate(index: int) -> str:
        return f"{name}:{numbers[index]}"

    def read(index: int) -> dict[str, Any]:
        try:
            row = json.loads(content[starts[index] : ends[index]].decode("utf-8-sig"))
        except ValueError as error:  # of the JSON or of the encoding
            raise UserError(f"{locate(index)} is not JSON in UTF-8 ({error}); correct the line.") from None
        if not isinstance(row, dict):
            raise UserError(f'{locate(index)} is not a JSON object; write {{"column": value}}.')
        return row

    return Rows(name, identity, len(starts), read, locate)


def _csv(file: Path, name: str, identity: str) -> Rows:
    """Read whole, because quoted fields may hold line ends; every value is a string."""
    rows: list[list[str]] = []
    numbers = array("q")
    line = 0  # the last line of the last whole row
    with file.open("rb") as stream:
        # Decoded line by line, because a text stream decodes ahead and would name a line too early.
        reader = csv.reader((part.decode("utf-8") for part in stream), strict=True)
        try:
            header = [name.removeprefix("\ufeff") for name in next(reader, [])]
            line = reader.line_num
            for row in reader:
                number, line = line + 1, reader.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{name}:{number} has {len(row)} fields where the header has {len(header)}; correct the line."
                    )
                rows.append(row)
                numbers.append(number)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{name}:{line + 1} is not CSV in UTF-8 ({error}); correct the line.") from None
    if len(set(header)) != len(header):
        raise UserError(f"{name}:1 names a column twice ({', '.join(header)}); rename one.")
    return Rows(
        name,
        identity,
        len(rows),
        lambda index: dict(zip(header, rows[index], strict=True)),
        lambda index: f"{name}:{numbers[index]}",
    )


def _parquet(file: Path, name: str, identity: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, memory_map=True)
    except pa.ArrowInvalid as error:
        raise UserError(f"The file {name} is not parquet or is damaged ({error}); write it again.") from None
    columns = dict(zip(table.column_names, (column.combine_chunks() for column in table.columns), strict=True))
    return Rows(
        name,
        identity,
        table.num_rows,
        lambda index: {key: column[index].as_py() for key, column in columns.items()},
        lambda index: f"{name}, row {index}",
    )
