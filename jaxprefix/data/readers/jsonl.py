"""`.jsonl`: one JSON object per line."""

import json
from array import array
from typing import Any

from jaxprefix.data.readers.mapping import Content
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError


def read_jsonl(content: Content, name: str, identity: str) -> Rows:
    """Only the lines' places are kept; a line is parsed when it is asked for. Blank lines are no rows."""
    starts, ends, numbers = array("q"), array("q"), array("q")
    position = 0
    lines = () if isinstance(content, bytes) else iter(content.readline, b"")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            starts.append(position)
            ends.append(position + len(line))
            numbers.append(number)
        position += len(line)

    def locate(index: int) -> str:
        return f"{name}:{numbers[index]}"

    def read(index: int) -> dict[str, Any]:
        try:
            row = json.loads(content[starts[index] : ends[index]].decode("utf-8-sig"))
        except ValueError as error:  # of the JSON or of the encoding
            raise UserError(f"{locate(index)} is not JSON in UTF-8 ({error}); correct the line.") from None
        except RecursionError:
            raise UserError(f"{locate(index)} is nested too deeply; give columns that hold values or lists.") from None
        if not isinstance(row, dict):
            raise UserError(f'{locate(index)} is not a JSON object; write {{"column": value}}.')
        return row

    return Rows(name, identity, len(starts), read, locate)
