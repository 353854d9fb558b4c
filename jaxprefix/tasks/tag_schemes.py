"""How tags of words say where entities begin and end, recognised from the set of tags.

A tag is `O`, or a letter and a type with `-` or `_` between them, the letter in front (`B-PER`) or behind (`PER_B`), or
the letter alone where there is one type. The letters are those of BIO (every entity begins with B), IOB1 (only one that
follows another of its type does), BIOES, or BILOU. In the IO form a tag is the type, and a run of equal tags an entity.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from jaxprefix.errors import listed
from jaxprefix.tasks.labels import is_whole

OUTSIDE = "O"
_LETTERS = "BIESLU"
_FORMS = [(separator, front) for separator in "-_" for front in (True, False)]
_LIKE_LETTERS = re.compile(r"[BIOESLUMW][^A-Za-z0-9].*|.*[^A-Za-z0-9][BIOESLUMW]", re.DOTALL)  # of other schemes too
_AS_BIOES = {"L": "E", "U": "S"}  # by which entities are counted

Name = Literal["BIO", "IOB1", "BIOES", "BILOU", "IO"]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A scheme of tags.

    Attributes:
      name: of the letters.
      separator: between letter and type; None where tags are letters or types alone.
      front: whether the letter comes first.
    """

    name: Name
    separator: str | None = None
    front: bool = True

    def prefixed(self, tag: str) -> str:
        """The tag as BIOES has it, letter in front, `-` as separator; a run of equal tags of IO as one of `I`."""
        if tag == OUTSIDE:
            return tag
        if self.name == "IO":
            return f"I-{tag}"
        letter, kind = (tag, "_") if self.separator is None else _split(tag, self.separator, self.front) or (tag, "_")
        return f"{_AS_BIOES.get(letter, letter)}-{kind}"

    def __str__(self) -> str:
        if self.name == "IO":
            return "IO, a run of equal tags is an entity"
        if self.separator is None:
            return f"{self.name}, one type"
        return f"{self.name}, as in {f'B{self.separator}TYPE' if self.front else f'TYPE{self.separator}B'}"


def find_scheme(tags: Sequence[str]) -> Scheme | str:
    """The scheme of a set of tags; where there is none, the end of a sentence that says why and what to do."""
    marked = [tag for tag in tags if tag != OUTSIDE]
    if marked and all(map(is_whole, tags)):
        return f"are numbers ({listed(tags)}), whose names nothing says; list these in order in labels"
    if len(marked) == len(tags):
        return f"have no {OUTSIDE!r} for words outside entities ({listed(tags)}); rename the one that it is"
    letters = set(marked)
    if letters and letters <= set(_LETTERS) and letters & set("BI") and (name := _name(letters)):
        return Scheme("IOB1" if name == "BIO" and "B" not in letters else name, None)
    found = []
    for separator, front in _FORMS:
        parts = [part for tag in marked if (part := _split(tag, separator, front)) is not None]
        letters = {letter for letter, _ in parts}
        if marked and len(parts) == len(marked) and letters & set("BISU") and (name := _name(letters)):
            begun = {kind for letter, kind in parts if letter == "B"}
            inside = {kind for letter, kind in parts if letter == "I"}
            name = "IOB1" if name == "BIO" and inside - begun else name
            found.append(("B" not in letters, Scheme(name, separator, front)))
    if found:
        return min(found, key=lambda pair: pair[0])[1]
    unclear = [tag for tag in marked if _LIKE_LETTERS.fullmatch(tag)]
    if unclear:
        return (
            f"are of no scheme that is known ({listed(marked)}): BIO, IOB1, BIOES, BILOU, each as B-TYPE, TYPE-B, "
            "B_TYPE or TYPE_B, or types alone; write them in one of these"
        )
    return Scheme("IO")


def _split(tag: str, separator: str, front: bool) -> tuple[str, str] | None:
    """The letter and the type of a tag; None where it is not of this form."""
    one, _, other = tag.partition(separator) if front else tag.rpartition(separator)[::-1]
    return (one, other) if len(one) == 1 and one in _LETTERS and other else None


def _name(letters: set[str]) -> Name | None:
    """The scheme that these letters are of; None where they are a mixture."""
    for name, known in (("BIO", "BI"), ("BIOES", "BIES"), ("BILOU", "BILU")):
        if letters <= set(known):
            return name  # pyright: ignore[reportReturnType]  # one of the literals
    return None
