"""Columns of a row to the text, or the two texts, of a sequence."""

from collections.abc import Mapping, Sequence
from itertools import chain
from string import Formatter
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError

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
    """The columns that a template names, in order. `UserError` if it is malformed."""
    try:
        fields = [
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        raise UserError(f"The template {template!r} is malformed ({error}); write columns as {{name}}.") from None
    if any(not name or spec or conversion for name, spec, conversion in fields):
        raise UserError(f"The template {template!r} must name columns as {{name}}, with nothing else in the braces.")
    return tuple(name for name, _, _ in fields)


def texts_of(texts: Sequence[Side], rows: Rows, row: Mapping[str, Any], index: int) -> str | tuple[str, ...]:
    """The text of a row, or its pair of texts."""
    values = {column: str(rows.value(row, index, column)) for column in columns_of(texts)}
    made = tuple(template.format_map(values) if template else values[column] for template, column in texts)
    return made[0] if len(made) == 1 else made


def listed_values(rows: Rows, row: Mapping[str, Any], index: int, column: str) -> list:
    """A column that holds a list, or one string in which spaces separate the values."""
    value = rows.value(row, index, column)
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple):
        raise UserError(
            f"{rows.locate(index)} has {value!r} in column {column!r}; give a list, or one string separated by spaces."
        )
    return list(value)
