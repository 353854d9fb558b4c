"""CoQA (Reddy et al. 2019) and CNN/DailyMail (Hermann et al. 2015) as the inducer paper's code has them, on the files
that VGLM (Lin et al. 2020) made of them: one JSON file with all splits, so name it for each split.

Not established: whether VGLM's `data.json` of CNN/DailyMail is all of that corpus.
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from jaxprefix.errors import UserError
from jaxprefix.tasks.formats import markers
from jaxprefix.tasks.formats.format import Format, Piece, Row, column, text_column, text_items
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural

_NAMES = {"train": ("train",), "validation": ("valid", "val", "dev", "validation"), "test": ("test",)}


def _split(content: str, split: str, where: str) -> list[dict[str, Any]]:
    try:
        whole = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); correct it.") from None
    there = list(whole) if isinstance(whole, dict) else []
    name = next((name for name in _NAMES[split] if name in there), None)
    if name is None:
        raise UserError(f"{where} has no {split} split (it has {', '.join(there) or 'none'}); name another file.")
    return whole[name]


@register
@dataclass(frozen=True)
class CoQA(Format):
    """`<bos> <document> document`, then the last turns of the history, then `<answer> answer <eos>`. Turns carry
    `<question>` and `<answer>` in alternation so that the last one is a question. Token types are `<document>` for the
    first part, its `<bos>` included, then each turn's marker.

    Rows have the columns `document` (a text), `history` (a list of texts, the last one being the question) and
    `answer`. The published file is `{"train": [{"document": [text], "utterances": [{"history": [text],
    "candidates": [text]}]}], "valid": ...}`, the last candidate being the answer.
    """

    max_document: Count = 400
    """Tokens of the document, the rest is cut."""
    max_history: Natural = 2
    """Exchanges before the question: `2 max_history + 1` turns are kept."""

    added_tokens: ClassVar[tuple[str, ...]] = markers.MARKERS
    end: ClassVar[str | None] = markers.EOS_QA
    padding: ClassVar[str | None] = markers.PAD
    stops: ClassVar[tuple[str, ...]] = markers.QA
    columns: ClassVar[tuple[str, ...]] = ("document", "history")

    @override
    def prompt(self, row: Row, where: str) -> list[Piece]:
        history = column(row, ("history",), where)
        history = text_items(history if isinstance(history, list | tuple) else [history], "history", where)
        if not history:
            raise UserError(f"{where} has an empty 'history'; its last turn must be the question.")
        history = history[-(2 * self.max_history + 1) :]
        document = text_column(row, ("document",), where)
        pieces = [
            Piece("", markers.BOS_QA, markers.DOCUMENT),
            Piece(document, markers.DOCUMENT, markers.DOCUMENT, self.max_document),
        ]
        for left, turn in zip(range(len(history), 0, -1), history, strict=True):
            marker = markers.QUESTION if left % 2 else markers.ANSWER
            pieces.append(Piece(turn, marker, marker))
        return [*pieces, Piece("", markers.ANSWER, markers.ANSWER)]

    @override
    def target(self, row: Row, where: str) -> Piece:
        return Piece(text_column(row, ("answer",), where), kind=markers.ANSWER)

    def references(self, row: Row, where: str) -> list[str]:
        """The answer, or all of `answers` where the row has several people's."""
        return text_items(row.get("answers") or (), "answers", where) or [self.target(row, where).text]

    @override
    def read(self, content: str, split: str, where: str) -> list[dict[str, Any]]:
        try:
            return [
                {"document": item["document"][0], "history": turn["history"], "answer": turn["candidates"][-1]}
                for item in _split(content, split, where)
                for turn in item["utterances"]
            ]
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{where} is no CoQA file of VGLM ({error!r}); give one, or rows as .jsonl.") from None


@register
@dataclass(frozen=True)
class CnnDailyMail(Format):
    """`<bos> <source> article <target> summary <eos>` with the markers as token types, the end's being `<target>`.

    Rows have the columns `src` (or `document`, `article`) and `tgt` (or `summary`, `highlights`). The published file is
    `{"train": [{"src": text, "tgt": text}], "val": ..., "test": ...}`. The code decodes 40 tokens for every task; for
    summaries `Decoding(max_new_tokens=130)` is the sensible number.
    """

    max_source: Count = 400
    """Tokens of the article, the rest is cut."""
    max_summary: Count = 130
    """Tokens of the summary, the rest is cut."""

    added_tokens: ClassVar[tuple[str, ...]] = markers.MARKERS
    end: ClassVar[str | None] = markers.EOS_SM
    padding: ClassVar[str | None] = markers.PAD
    stops: ClassVar[tuple[str, ...]] = markers.SUMMARIES
    columns: ClassVar[tuple[str, ...]] = ("src",)

    @override
    def prompt(self, row: Row, where: str) -> list[Piece]:
        source = text_column(row, ("src", "document", "article"), where)
        return [
            Piece("", markers.BOS_SM, markers.BOS_SM),
            Piece(source, markers.SOURCE_SM, markers.SOURCE_SM, self.max_source, 2),
            Piece("", markers.TARGET_SM, markers.TARGET_SM),
        ]

    @override
    def target(self, row: Row, where: str) -> Piece:
        summary = text_column(row, ("tgt", "summary", "highlights"), where)
        return Piece(summary, kind=markers.TARGET_SM, limit=self.max_summary, least=2)

    @override
    def read(self, content: str, split: str, where: str) -> list[dict[str, Any]]:
        try:
            return [{"src": item["src"], "tgt": item["tgt"]} for item in _split(content, split, where)]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{where} is no file of VGLM for summaries ({error!r}); give one, or rows as .jsonl."
            ) from None
