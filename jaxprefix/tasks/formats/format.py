"""What a published text format is: how the columns of a row become pieces of a prompt and a target."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from jaxprefix.contract import Contract, required
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError
from jaxprefix.tasks.cells import read_part, read_text

BOS = "bos_token"
"""As a marker: the tokenizer's own first token, or its end where it has none."""

Row = Mapping[str, Any]


class Piece(NamedTuple):
    """A part of a row, tokenised by itself and without special tokens.

    Attributes:
      text: what it says.
      marker: a token that stands before the text, or None.
      kind: the token whose vocabulary id is the token type of marker and text, or None where a format has no types.
      limit: most tokens of the text, the rest is cut; None for all.
      least: a labelled row with fewer tokens of this text (before it is cut) is left out.
    """

    text: str
    marker: str | None = None
    kind: str | None = None
    limit: int | None = None
    least: int = 0


class Format(Contract):
    """A frozen dataclass of settings; `ConditionalGeneration` takes one as `format`.

    Attributes:
      added_tokens: tokens that the tokenizer gets behind its own, in this order; the method needs `NewTokens` of their
        number.
      end: the one of them that ends a text; None for the tokenizer's own end.
      padding: the one of them that pads; None for the tokenizer's own.
      stops: tokens of which each ends a text in decoding, beside the end.
      columns: what a row's prompt is made of.
      suffix: of the published file that `read` reads; other files are rows already.

    Raises:
      UserError: at construction, where a required member is missing.
    """

    added_tokens: ClassVar[tuple[str, ...]] = ()
    end: ClassVar[str | None] = None
    padding: ClassVar[str | None] = None
    stops: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ".json"

    @required
    def prompt(self, row: Row, where: str) -> list[Piece]:
        """The prompt, the marker of the target included; `where` names the row in messages."""
        raise NotImplementedError

    @required
    def target(self, row: Row, where: str) -> Piece:
        """The text to be written, its end not included."""
        raise NotImplementedError

    def references(self, row: Row, where: str) -> list[str]:
        """What the row has to compare a written text with."""
        return [self.target(row, where).text]

    @required
    def read(self, content: str, split: str, where: str) -> list[dict[str, Any]]:
        """The rows of a split from the content of a published file."""
        raise NotImplementedError


def column(row: Row, names: Sequence[str], where: str) -> Any:
    """The first of several columns that a row has; `UserError` if it has none of them."""
    return row[_present(row, names, where)]


def text_column(row: Row, names: Sequence[str], where: str) -> str:
    """The text of the first of several columns that a row has; `UserError` if it has none, or holds something else."""
    return read_text(_only(where), row, 0, _present(row, names, where))


def text_items(values: Iterable[Any], name: str, where: str) -> list[str]:
    """Texts and numbers of a list in the column `name`; `UserError` where something else is in it."""
    return [read_part(_only(where), {name: value}, 0, name) for value in values]


def _only(where: str) -> Rows:
    return Rows(where, "", 1, lambda index: {}, lambda index: where)


def _present(row: Row, names: Sequence[str], where: str) -> str:
    for name in names:
        if row.get(name) is not None:
            return name
    raise UserError(
        f"{where} has no column {' or '.join(map(repr, names))}; it has {', '.join(map(repr, row)) or 'none'}. "
        "Rename the right one."
    )
