"""`.csv` (RFC 4180) and `.tsv` (IANA's text/tab-separated-values), both with a header line."""

import csv
import sys
from array import array
from typing import Any

from jaxprefix.data.readers.mapping import Content
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError


def read_csv(content: Content, name: str, identity: str) -> Rows:
    """Read whole, because quoted fields may hold line ends; every value is a string."""
    return _read(content, name, identity, "CSV", {"strict": True})


def read_tsv(content: Content, name: str, identity: str) -> Rows:
    """Fields between tabs, a line a row; quotation marks are characters like others. Every value is a string."""
    return _read(content, name, identity, "TSV", {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def _read(content: Content, name: str, identity: str, kind: str, dialect: dict[str, Any]) -> Rows:
    rows: list[list[str]] = []
    numbers = array("q")
    line = 0  # the last line of the last whole row
    # Decoded line by line, because a text stream decodes ahead and would name a line too early.
    lines = () if isinstance(content, bytes) else iter(content.readline, b"")
    reader = csv.reader((part.decode("utf-8") for part in lines), **dialect)
    header: list[str] = []
    limit = csv.field_size_limit(sys.maxsize)  # a setting of the whole process, so it is put back
    try:
        header = [column.removeprefix("\ufeff") for column in next(reader, [])]
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
        raise UserError(f"{name}:{line + 1} is not {kind} in UTF-8 ({error}); correct the line.") from None
    finally:
        csv.field_size_limit(limit)
    if len(set(header)) != len(header):
        raise UserError(f"{name}:1 names a column twice ({', '.join(header)}); rename one.")
    return Rows(
        name,
        identity,
        len(rows),
        lambda index: dict(zip(header, rows[index], strict=True)),
        lambda index: f"{name}:{numbers[index]}",
        columns=tuple(header),
    )
