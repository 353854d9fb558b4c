"""WebNLG 2017 (Gardent et al. 2017), triples to text: as the inducer paper has it, and as Prefix-Tuning has it.

Rows have the columns `triples` (or `input`, as TFDS `gem/web_nlg_en` calls it) and `text` (or `target`). Triples are a
list of `[subject, property, object]` or of `subject | property | object`, or the latter in one string with ` ; `
between. The published files are `train.json`, `dev.json` and `test.json` of the Prefix-Tuning repository.
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from jaxprefix.errors import UserError
from jaxprefix.tasks.formats import markers
from jaxprefix.tasks.formats.format import BOS, Format, Piece, Row, column, text_column, text_items
from jaxprefix.typed_json import register

Triple = tuple[str, str, str]


def triples_of(row: Row, where: str) -> list[Triple]:
    """The triples of a row; `UserError` where one has not three parts."""
    found = column(row, ("triples", "input"), where)
    if not isinstance(found, str | list | tuple):
        found = text_column(row, ("triples", "input"), where)
    triples = []
    for triple in found.split(" ; ") if isinstance(found, str) else found:
        parts = triple.split(" | ") if isinstance(triple, str) else triple
        if not isinstance(parts, list | tuple) or len(parts) != 3:
            raise UserError(f"{where} has the triple {triple!r}; write it as subject | property | object.")
        triples.append(tuple(part.strip() for part in text_items(parts, "triples", where)))
    if not triples:
        raise UserError(f"{where} has no triples; give it one, or remove the row.")
    return triples


def read_webnlg(content: str, where: str) -> list[dict[str, Any]]:
    """One row for each lexicalisation marked `good`, of the modified triples of its entry.

    The file is `{"entries": [{"1": {"modifiedtripleset": [{"subject", "property", "object"}], "lexicalisations":
    [{"comment", "lex"}]}}, {"2": ...}]}`.
    """
    rows = []
    try:
        for entry in json.loads(content)["entries"]:
            for item in entry.values():
                triples = [[t["subject"], t["property"], t["object"]] for t in item["modifiedtripleset"]]
                good = [lex["lex"] for lex in item["lexicalisations"] if lex["comment"] == "good"]
                rows += [{"triples": triples, "text": text} for text in good]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where} is no WebNLG file of the Prefix-Tuning repository ({error!r}); give one, or rows as .jsonl."
        ) from None
    return rows


class _Triples(Format):
    columns: ClassVar[tuple[str, ...]] = ("triples",)

    def references(self, row: Row, where: str) -> list[str]:
        """All that `gem` lists, or else the row's own text."""
        return text_items(row.get("references") or (), "references", where) or [
            text_column(row, ("text", "target"), where)
        ]

    def read(self, content: str, split: str, where: str) -> list[dict[str, Any]]:
        return read_webnlg(content, where)


@register
@dataclass(frozen=True)
class WebNLG(_Triples):
    """As in the inducer paper's code (Chen et al. 2022): `<bos> (<subject> s <property> p <object> o)* <target> text
    <eos>`, each piece with the id of its marker as token type, the end with that of `<target>`."""

    added_tokens: ClassVar[tuple[str, ...]] = markers.MARKERS
    end: ClassVar[str | None] = markers.EOS_WEBNLG
    padding: ClassVar[str | None] = markers.PAD
    stops: ClassVar[tuple[str, ...]] = markers.WEBNLG

    @override
    def prompt(self, row: Row, where: str) -> list[Piece]:
        parts = (markers.SUBJECT, markers.PROPERTY, markers.OBJECT)
        pieces = [Piece("", markers.BOS_WEBNLG, markers.BOS_WEBNLG)]
        for triple in triples_of(row, where):
            pieces += [Piece(text, marker, marker) for text, marker in zip(triple, parts, strict=True)]
        return [*pieces, Piece("", markers.TARGET_WEBNLG, markers.TARGET_WEBNLG)]

    @override
    def target(self, row: Row, where: str) -> Piece:
        return Piece(text_column(row, ("text", "target"), where), kind=markers.TARGET_WEBNLG)


@register
@dataclass(frozen=True)
class WebNLGTable(_Triples):
    """As in Prefix-Tuning's code (Li & Liang 2021): ` {source} {bos} {text} {eos}`, triples as `s : p : o`, each with
    ` | ` before it, the first as well.

    No tokens are added; the code adds one to pad with, which no loss sees. The code compares what it writes with all
    lexicalisations, not with the good ones alone. Not established: whether the code's tokenizer took away the spaces
    around the separator, as some versions of transformers did; here they are kept.
    """

    @override
    def prompt(self, row: Row, where: str) -> list[Piece]:
        source = "".join(f" | {' : '.join(triple)}" for triple in triples_of(row, where))
        return [Piece(f" {source} "), Piece("", BOS)]

    @override
    def target(self, row: Row, where: str) -> Piece:
        return Piece(f" {text_column(row, ('text', 'target'), where)} ")
