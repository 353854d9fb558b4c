"""Columns of a row to the text, or the two texts, of a sequence."""

from collections.abc import Mapping, Sequence
from itertools import chain
from string import Formatter
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError, listed
from jaxprefix.tasks.cells import read_part, read_text

Side = tuple[str | None, str]
"""The template, or else the column, of a text."""


def sides(
    text: str, text_pair: str | None, template: str | None = None, template_pair: str | None = None
) -> list[Side]:
    """The text, or the two texts of a pair, that a task's four fields describe."""
    pair = template_pair is not None or text_pair is not None
    return [(template, text)] + ([(template_pair, text_pair or "")] if pair else [])


def columns_of(texts: Sequence[Side]) -> tuple[str, ...]:
    """The columns that texts are made of."""
    columns = [template_fields(template) if template else (column,) for template, column in texts]
    return tuple(dict.fromkeys(chain.from_iterable(columns)))


def template_fields(template: str) -> tuple[str, ...]:
    """The columns that a template names, in order. `UserError` if it is malformed or names none."""
    try:
        fields = [
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        raise UserError(f"The template {template!r} is malformed ({error}); write columns as {{name}}.") from None
    if any(not name or spec or conversion for name, spec, conversion in fields):
        raise UserError(f"The template {template!r} must name columns as {{name}}, with nothing else in the braces.")
    if not fields:
        raise UserError(f"The template {template!r} names no column, so all rows would be one text; write {{name}}.")
    return tuple(name for name, _, _ in fields)


def rows_to_answer(columns: Sequence[str], given: Sequence[Any]) -> Rows:
    """Rows without targets: each a mapping from columns to values, or the value of the only column."""

    def read(index: int) -> dict[str, Any]:
        text = given[index]
        if isinstance(text, Mapping):
            return dict(text)
        if len(columns) != 1:
            raise UserError(
                f"Text {index} is one string, but the task reads {listed(columns)}; name these in each row."
            )
        return {columns[0]: text}

    return Rows("the texts", "", len(given), read, lambda index: f"text {index}")


def texts_of(texts: Sequence[Side], rows: Rows, row: Mapping[str, Any], index: int) -> str | tuple[str, ...]:
    """The text of a row, or its pair of texts."""
    made = tuple(text_of(template, column, rows, row, index) for template, column in texts)
    return made[0] if len(made) == 1 else made


def text_of(template: str | None, column: str, rows: Rows, row: Mapping[str, Any], index: int) -> str:
    """The text of one side of a row. What stands in a template's braces is a column's name and nothing else."""
    if not template:
        return read_text(rows, row, index, column)
    parts = []
    for literal, name, _, _ in Formatter().parse(template):
        parts += [literal, "" if name is None else read_part(rows, row, index, name)]
    return "".join(parts)
