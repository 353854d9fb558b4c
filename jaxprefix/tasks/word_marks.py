"""How a tokenizer is given words one by one, so that each has the tokens that it has inside a sentence.

Vocabularies tell words from continuations by a mark in front, the space before the word, which splitting took away. It
must come back exactly once. Where the tokenizer itself puts it before every word that it is given (Metaspace, Prepend,
byte-level splitting alone), or needs none (WordPiece), words are given as they are; where it marks a real space
(byte-level splitting behind other splits, Gemma's Replace), words are given with one in front.
"""

import json
from collections.abc import Iterator
from typing import Any

from jaxprefix.errors import UserError

_PROBE = ["the", "cat", "U.S.", "in", "1996"]


def words_backend(description: dict[str, Any]) -> tuple[Any, str]:
    """A tokenizer for lists of words, and what is put in front of every word.

    Args:
      description: of the tokenizer, as its `tokenizer.json` has it; it is changed.

    Raises:
      UserError: words given one by one would have other tokens than in a sentence, either way.
    """
    from tokenizers import Tokenizer

    plain = json.dumps(description)
    set_everywhere(description["pre_tokenizer"], "add_prefix_space", True)
    itself = Tokenizer.from_str(json.dumps(description))
    splits, changes = (list(_parts(description[name])) for name in ("pre_tokenizer", "normalizer"))
    kinds = [part["type"] for part in splits]
    metaspace = {part.get("prepend_scheme", "always") for part in splits if part["type"] == "Metaspace"}
    prepends = bool(metaspace - {"never"}) or any(part["type"] == "Prepend" for part in changes)
    if description["model"]["type"] == "WordPiece" or prepends or kinds == ["ByteLevel"]:
        return itself, ""
    spaced = Tokenizer.from_str(plain)
    if (
        "ByteLevel" in kinds
        or metaspace
        or any(part["type"] == "Replace" and part["content"] == "▁" for part in changes)
    ):
        return spaced, " "
    for backend, front in ((itself, ""), (spaced, " ")):
        if _same_in_sentence(spaced, backend, front):
            return backend, front
    raise UserError(
        "the tokenizer gives words that are split already other tokens than in a sentence, so tags would not meet "
        "their words; use one whose words are marked by the space before them."
    )


def _same_in_sentence(plain: Any, backend: Any, front: str) -> bool:
    """Whether words behind a first one have in a sentence the tokens that they have when they are given one by one."""
    sentence = plain.encode(" ".join(_PROBE), add_special_tokens=False).ids
    given = backend.encode([front + word for word in _PROBE[1:]], is_pretokenized=True, add_special_tokens=False).ids
    return sentence[len(sentence) - len(given) :] == given


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, sequences laid out."""
    if node is None:
        return
    inner = next((node[name] for name in ("pretokenizers", "normalizers") if name in node), None)
    if inner is None:
        yield node
        return
    for part in inner:
        yield from _parts(part)


def set_everywhere(node: Any, key: str, value: Any) -> None:
    """Gives a setting of a tokenizer's part, and of all parts within it, another value where they have it."""
    if isinstance(node, dict):
        if key in node:
            node[key] = value
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            set_everywhere(child, key, value)
