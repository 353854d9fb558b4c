"""The rows that commands ask about, from arguments, a file or standard input, and where their answers go.

A line is a text, or a JSON object with the run's columns; for each line in there is one line out.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError, escaped

TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
"""Endings of files whose rows are not lines."""


def add_rows(parser: argparse.ArgumentParser, name: str, one: str) -> None:
    """The arguments that say where rows come from and where answers go; `name` is that of the rows."""
    parser.add_argument(
        name,
        nargs="*",
        help=f"{name}; without any, and without --file, they are read from standard input, one {one} per line: plain "
        "text, or a JSON object with the run's columns",
    )
    parser.add_argument("--file", help=f"a file of {name}, one per line as on standard input, or a .csv, .parquet, ...")
    parser.add_argument("--text", action="store_true", help="take all lines as they are, also those that begin with {")
    parser.add_argument("--out", help="a file for the answers in place of standard output: whole, or not there at all")


def rows_of(name: str, options: argparse.Namespace) -> list[Any]:
    """The rows of a command's arguments, a text or a mapping each.

    Raises:
      UserError: an argument is the name of a file, a line is empty, not UTF-8 or no JSON, or a file cannot be read.
    """
    given = getattr(options, name)
    if given and options.file is not None:
        raise UserError(f"{name} are given as arguments and by --file; give one of them.")
    if options.file is not None:
        return _rows_of_file(options.file, options.text)
    if not given:
        return _rows_of_lines(_standard_input(), "standard input", options.text)
    for text in () if options.text else given:
        if os.path.isfile(text):
            raise UserError(
                f"{text!r} is a file, and an argument is a text; give --file {text}, or < {text}, or --text to ask "
                "about these very characters."
            )
    for number, text in enumerate(given, 1):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"argument {number} of {name} is not UTF-8; convert it.")
    return given if options.text else [_row(text, f"the argument {text[:60]!r}") for text in given]


def write_answers(answers: list[dict[str, Any]], out: str | None) -> None:
    """One JSON object a line on standard output, or into the file `out`.

    Raises:
      UserError: the file cannot be written; what was there before is as it was.
    """
    lines = "".join(f"{escaped(json.dumps(answer, ensure_ascii=False), json=True)}\n" for answer in answers)
    if out is None:
        sys.stdout.write(lines)
        return
    from jaxprefix.checkpoints.files import writing
    from jaxprefix.paths import write_atomically

    with writing("the answers", out):
        write_atomically(Path(out).expanduser(), lines.encode())


def check_out(out: str | None) -> None:
    """Refuses, as UserError, a place for answers that is a folder or in none, before anything is computed."""
    if out is not None and (Path(out).expanduser().is_dir() or not Path(out).expanduser().absolute().parent.is_dir()):
        raise UserError(f"--out is {out}, which is a folder or whose folder does not exist; name a file.")


def _standard_input() -> bytes:
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode() if buffer is None else buffer.read()


def _rows_of_file(path: str, text: bool) -> list[Any]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"there is no file {path}; give --file one that holds a row per line.")
    if path.endswith(TABLES):
        from jaxprefix.data.files import open_file

        return list(open_file(path))
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check its permissions.") from error
    return _rows_of_lines(content, path, text)


def _rows_of_lines(content: bytes, source: str, text: bool) -> list[Any]:
    return [line if text else _row(line, where) for line, where in _lines(content, source)]


def _lines(content: bytes, source: str) -> Iterator[tuple[str, str]]:
    """The lines of a text and where each is, for messages."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, raw in enumerate(lines if lines[-1] else lines[:-1], 1):
        where = f"line {number} of {source}"
        try:
            line = raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not UTF-8 (byte {error.start + 1}); convert it.") from error
        if not line.strip():
            raise UserError(f"{where} is empty; remove it, since every line in has one line out.")
        yield line, where


def _row(line: str, where: str) -> Any:
    """A text, or the JSON object that it is."""
    if not line.lstrip().startswith("{"):
        return line
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        said = "it is too deep" if isinstance(error, RecursionError) else str(error)
        raise UserError(
            f"{where} begins like JSON but is not ({said}); correct it, or give --text to take lines as they are."
        ) from error
