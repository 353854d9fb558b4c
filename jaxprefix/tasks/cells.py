"""What a column may hold: one rule for texts, parts of templates, words, tags and labels.

A text is a string, or bytes that are UTF-8; a template takes whole numbers and floats too, as JSON writes them. Words
are a list of strings, or a string: one that reads as a list of strings is that list, any other is split at spaces and
tabs alone. A label is a string without white space around it, a whole number (`1` and `"1"` are one label, and so is a
float without a fraction, which is what tables make of whole numbers beside a gap) or a truth value by its name. All
else is refused by file and line, column and type.
"""

import ast
import io
import itertools
import json
import math
import re
import reprlib
import tokenize
from collections.abc import Mapping
from typing import Any, NoReturn

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_BLANKS = re.compile("[ \t]+")
INVISIBLE = "\u200b\u2060\ufeff"  # of no width, and no white space to `str.strip`
_KINDS = {
    bool: "a truth value",
    int: "a whole number",
    float: "a float",
    list: "a list",
    tuple: "a list",
    dict: "a dict",
}


def read_text(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> str:
    """The text of a column. `UserError` where it holds anything else."""
    found = _text(rows, index, column, rows.value(row, index, column))
    return _refuse(rows, index, column, row[column], "a column of texts holds strings") if found is None else found


def read_part(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> str:
    """What a column puts into a template: its text, or its number as JSON writes it. `UserError` for anything else."""
    value = rows.value(row, index, column)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return json.dumps(value)
    found = _text(rows, index, column, value)
    needed = "a template takes strings and finite numbers"
    return _refuse(rows, index, column, value, needed) if found is None else found


def read_words(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> list[str]:
    """The words of a column. `UserError` where one is no string."""
    value = rows.value(row, index, column)
    text = _text(rows, index, column, value)
    if text is not None:
        listed = _printed_list(rows, index, column, text)
        printed = listed is not None and all(isinstance(item, str) for item in listed)
        value = listed if listed is not None and printed else split_words(text)
    if not isinstance(value, list | tuple):
        return _refuse(rows, index, column, value, "give a list of words, or one string with spaces between them")
    if all(type(item) is str for item in value) and _whole("".join(value)):
        return list(value)
    words = []
    for item in value:
        word = _text(rows, index, column, item)
        words.append(_refuse(rows, index, column, item, "each word is a string", True) if word is None else word)
    return words


def read_tags(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> list[Any]:
    """The tags of a column, in the form of words; they may be whole numbers. `UserError` where they are no list."""
    value = rows.value(row, index, column)
    text = _text(rows, index, column, value)
    if text is not None:
        if not text.strip():
            return _refuse(rows, index, column, text, "it has no tag; fill it in or remove the row")
        printed = _printed_list(rows, index, column, text)
        if printed is None and text.startswith("[") and text.endswith("]"):
            return _refuse(rows, index, column, text, "it is a list as something printed it; write it as JSON does")
        value = split_words(text) if printed is None else printed
    if not isinstance(value, list | tuple):
        return _refuse(rows, index, column, value, "give a list of tags, or one string with spaces between them")
    return list(value)


def split_words(text: str) -> list[str]:
    """The words of a string: at spaces (U+0020) and tabs, and nowhere else."""
    return [word for word in _BLANKS.split(text) if word]


def read_label(rows: Rows, index: int, column: str, value: Any) -> str | int:
    """A label as it is compared: text, or the whole number that it is. `UserError` for what is no label."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        if value.is_integer():
            return int(value)
        return _refuse(rows, index, column, value, "labels are no fractions; for numbers take jp.Regression")
    if isinstance(value, list | tuple):
        return _refuse(rows, index, column, value, "it is to be one label; for several take MultiLabelClassification")
    text = _text(rows, index, column, value)
    if text is None:
        nothing = value is None or isinstance(value, float)
        return _refuse(
            rows,
            index,
            column,
            value,
            "fill in the label or remove the row" if nothing else "labels are strings or whole numbers",
        )
    if not text:
        return _refuse(rows, index, column, text, "a label is not empty; fill it in or remove the row")
    if text != text.strip().strip(INVISIBLE):
        return _refuse(rows, index, column, text, "it has white space around it; remove that")
    return text


def _text(rows: Rows, index: int, column: str, value: Any) -> str | None:
    """The text of a value; None where it is none."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return _refuse(rows, index, column, value, "these bytes are no UTF-8, so they are no text")
    if not isinstance(value, str):
        return None
    if not _whole(value):
        broken = next(letter for letter in value if not _whole(letter))
        raise UserError(
            f"{rows.locate(index)} has half of a surrogate pair ({broken!r}) in column {column!r}, which is no "
            "character; write the text again as UTF-8."
        )
    return value


def _whole(text: str) -> bool:
    """Whether there is no half of a surrogate pair in a text."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printed_list(rows: Rows, index: int, column: str, text: str) -> list[Any] | None:
    """The list of strings, or of whole numbers, that a string is as JSON or Python writes it; None where it is none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(found, list) or not all(type(item) in (str, int) for item in found):
            return None
        if read is ast.literal_eval and _joins_strings(text):
            return _refuse(
                rows, index, column, text, "its strings have no comma between them; write a list as JSON does"
            )
        for item in found:
            _text(rows, index, column, item)
        return found
    return None


def _joins_strings(text: str) -> bool:
    """Whether Python would join neighbouring strings, which is what NumPy prints: `['a' 'b']`."""
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(f"({text})").readline)]
    kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in itertools.pairwise(kinds))


def _refuse(rows: Rows, index: int, column: str, value: Any, needed: str, within: bool = False) -> NoReturn:
    kind = type(value)
    said = _short.repr(value)
    if kind not in (str, bytes, type(None)):
        said += f" ({_KINDS.get(kind, f'of type {kind.__name__}')})"
    raise UserError(f"{rows.locate(index)} has {said} in {'a list of ' if within else ''}column {column!r}; {needed}.")
