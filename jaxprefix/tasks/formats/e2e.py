"""E2E (Novikova et al. 2017), tables of restaurants to text, as Prefix-Tuning's code has it.

Rows are those of the Prefix-Tuning repository's text files (`src1_train.txt` and the like: `name : X | Type : Y||text`
on each line), of TFDS `e2e_cleaned`, or of TFDS `gem/e2e_nlg`; or have the columns `table` and `text`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from jaxprefix.errors import UserError
from jaxprefix.tasks.formats.format import BOS, Format, Piece, Row, column, text_column, text_items
from jaxprefix.typed_json import register

_TARGETS = ("text", "target", "target_text")


@register
@dataclass(frozen=True)
class E2E(Format):
    """` {source} {bos} {text} {eos}`, the source being `name : X | Type : Y | ...`; see `WebNLGTable` for what could
    not be established. Names of fields in rows of TFDS are left as they are there (`eatType`, `priceRange`)."""

    columns: ClassVar[tuple[str, ...]] = ("table",)
    suffix: ClassVar[str] = ".txt"

    @override
    def prompt(self, row: Row, where: str) -> list[Piece]:
        return [Piece(f" {_table(row, where)} "), Piece("", BOS)]

    @override
    def target(self, row: Row, where: str) -> Piece:
        return Piece(f" {text_column(row, _TARGETS, where)} ")

    def references(self, row: Row, where: str) -> list[str]:
        """All that `gem` lists, or else the row's own text."""
        return text_items(row.get("references") or (), "references", where) or [text_column(row, _TARGETS, where)]

    @override
    def read(self, content: str, split: str, where: str) -> list[dict[str, Any]]:
        rows = []
        for number, line in enumerate(content.splitlines(), 1):
            table, bar, text = line.partition("||")
            if line.strip() and not bar:
                raise UserError(f"{where}:{number} has no ||; write the table, || and the text.")
            if line.strip():
                rows.append({"table": table.strip(), "text": text.strip()})
        return rows


def _table(row: Row, where: str) -> str:
    found = column(row, ("table", "input_text", "meaning_representation"), where)
    if isinstance(found, str):
        if "[" not in found:
            return found
        cells = [cell.rstrip("]").partition("[") for cell in found.split("], ")]
        return " | ".join(f"{name.strip()} : {value}" for name, _, value in cells)
    table = found.get("table", found) if isinstance(found, dict) else found  # of e2e_cleaned: in a dict
    try:
        if isinstance(table, dict):
            pairs = list(zip(table["column_header"], table["content"], strict=True))
        else:
            pairs = [(cell["column_header"], cell["content"]) for cell in table]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} has a table that is none ({error!r}); give text, or lists of 'column_header' and 'content'."
        ) from None
    return " | ".join(f"{name} : {value}" for name, value in (text_items(pair, "table", where) for pair in pairs))
