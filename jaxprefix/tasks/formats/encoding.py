"""Rows of a format to token ids, token types and labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxprefix.data.examples import IGNORED
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError
from jaxprefix.tasks.formats.format import BOS, Format, Piece
from jaxprefix.tasks.tokenizing import Encoded, chunks, serialised


def encode_format(
    made: Format, limits: tuple[int, int], tokenizer: Any, rows: Rows, labelled: bool = True
) -> Iterator[Encoded]:
    """Tokenises all rows piece by piece; labels are the next tokens of target and end, -100 elsewhere.

    Args:
      made: the format.
      limits: most tokens of a prompt (`max_prompt_length`) and of a target (`max_target_length`).
      tokenizer: with the format's tokens.
      rows: of a split.
      labelled: whether there are targets; without, there are the prompts alone, up to the marker of the target.

    Raises:
      UserError: a missing column, an empty target, a marker that the tokenizer has not, or a prompt or a target that
        is longer than the task allows (a format cuts its own texts; nothing else is cut).
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(serialised(tokenizer))
    ids_of = _Ids(tokenizer)
    for chunk in chunks(rows):
        prompts = [made.prompt(row, rows.locate(index)) for index, row in chunk]
        targets = [made.target(row, rows.locate(index)) for index, row in chunk] if labelled else []
        for (index, _), piece in zip(chunk, targets, strict=False):
            if not piece.text.strip():
                raise UserError(f"{rows.locate(index)} has an empty target; fill it in or remove the row.")
        texts = [piece.text for pieces in prompts for piece in pieces] + [piece.text for piece in targets]
        found = [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]
        behind = iter(found[len(found) - len(targets) :])
        before = iter(found)
        encoded, cuts = [], 0
        for place, (index, _) in enumerate(chunk):
            texts_of = [next(before) for _ in prompts[place]]
            pieces = [*zip(prompts[place], texts_of, strict=True)]
            ids, types = _joined(pieces, ids_of)
            was_cut = any(piece.limit is not None and len(text) > piece.limit for piece, text in pieces)
            _check(limits[0], rows, index, len(ids), "prompt")
            if not labelled:
                cuts += was_cut
                encoded.append((ids, types, ids))
                continue
            target, new = targets[place], next(behind)
            if any(len(text) < piece.least for piece, text in (*pieces, (target, new))):
                continue
            cuts += was_cut or (target.limit is not None and len(new) > target.limit)
            new = [*new[: target.limit], tokenizer.eos_token_id]
            _check(limits[1], rows, index, len(new), "target")
            kinds = [] if target.kind is None else [ids_of(target.kind)] * len(new)
            encoded.append(([*ids, *new], [*types, *kinds], [*[IGNORED] * (len(ids) - 1), *new, IGNORED]))
        if encoded:
            yield _flat(encoded, labelled, cuts)


class _Ids:
    """From a marker to its id, each looked up once."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self._known = tokenizer, {}
        if tokenizer.eos_token_id is None:
            raise UserError("The tokenizer has no end token (eos_token); set one, which texts then end with.")

    def __call__(self, marker: str) -> int:
        if marker not in self._known:
            tokenizer = self._tokenizer
            if marker == BOS:
                begin = tokenizer.bos_token_id
                self._known[marker] = tokenizer.eos_token_id if begin is None else begin
            else:
                found = tokenizer.get_vocab().get(marker)
                if found is None:
                    raise UserError(f"The tokenizer has no token {marker}; add the tokens of the format to it.")
                self._known[marker] = found
        return self._known[marker]


def _joined(pieces: list[tuple[Piece, list[int]]], ids_of: _Ids) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    types: list[int] = []
    for piece, text in pieces:
        own = [] if piece.marker is None else [ids_of(piece.marker)]
        own = [*own, *text[: piece.limit]]
        ids += own
        types += [] if piece.kind is None else [ids_of(piece.kind)] * len(own)
    return ids, types


def _check(limit: int, rows: Rows, index: int, length: int, what: str) -> None:
    if length > limit:
        raise UserError(
            f"{rows.locate(index)} has {length} tokens of {what} and max_{what}_length is {limit}; raise it."
        )


def _flat(encoded: list[tuple[list[int], list[int], list[int]]], labelled: bool, cuts: int) -> Encoded:
    ids, types, labels = (
        np.concatenate([np.array(row, np.int32) for row in part]) for part in zip(*encoded, strict=True)
    )
    return Encoded(
        ids=ids,
        lengths=np.array([len(row) for row, _, _ in encoded], np.int64),
        targets={"labels": labels} if labelled else {},
        token_type_ids=types if len(types) else None,
        cut=(cuts, 0),
    )
