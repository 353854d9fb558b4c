"""The words of the little world: invented names, and relations with several sentence patterns each."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

PEOPLE, PLACES, GROUPS, THINGS = "person", "place", "group", "thing"
JOBS, MATERIALS, TREATS = "job", "material", "treat"

COMMON: dict[str, tuple[str, ...]] = {
    JOBS: ("baker", "farmer", "singer", "doctor", "teacher", "sailor", "painter", "judge", "miner", "tailor", "cook"),
    MATERIALS: ("wood", "stone", "iron", "glass", "silver", "clay", "paper", "leather", "gold", "wool"),
    TREATS: ("apples", "bread", "cheese", "horses", "dogs", "music", "wine", "tea", "honey", "flowers", "songs"),
    THINGS: (
        "boat",
        "house",
        "book",
        "cart",
        "lamp",
        "table",
        "coat",
        "clock",
        "box",
        "cup",
        "bell",
        "mirror",
        "chair",
    ),
}

CAST = 40  # names that scenes are about

FILLERS = (
    "the wind blew all night",
    "it was a cold morning",
    "nobody was surprised",
    "the roads were empty",
    "the sun was warm that day",
    "everyone knows this",
    "it rained for a week",
    "the winter was long",
    "people talk about it often",
)
OPENERS = ("in fact", "as far as we know", "by all accounts", "as everyone knows")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items, uniformly (ten times as fast as `rng.choice`, and its stream does not depend on the type)."""
    return items[int(rng.random() * len(items))]


def sample(rng: np.random.Generator, items: Sequence[T], count: int) -> list[T]:
    """`count` different items in random order."""
    chosen: list[T] = []
    while len(chosen) < count:
        item = pick(rng, items)
        if item not in chosen:
            chosen.append(item)
    return chosen


@dataclasses.dataclass(frozen=True)
class Pattern:
    """One way to put a relation into words; `{a}` is the grammatical subject, `{b}` the other.

    With `flip`, the grammatical subject is the object of the triple (the converse relation).
    """

    statement: str
    negation: str
    question: str
    flip: bool = False


def _verb(base: str, third: str, flip: bool = False) -> Pattern:
    return Pattern(f"{{a}} {third} {{b}}", f"{{a}} does not {base} {{b}}", f"does {{a}} {base} {{b}}", flip)


def _past(base: str, past: str, flip: bool = False) -> Pattern:
    return Pattern(f"{{a}} {past} {{b}}", f"{{a}} did not {base} {{b}}", f"did {{a}} {base} {{b}}", flip)


def _be(rest: str, flip: bool = False, be: str = "is") -> Pattern:
    return Pattern(f"{{a}} {be} {rest} {{b}}", f"{{a}} {be} not {rest} {{b}}", f"{be} {{a}} {rest} {{b}}", flip)


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation between two kinds of entities; in a scene each subject has one object.

    `pair` marks an asymmetric relation between two entities of one kind (older than): its converse is false.
    """

    name: str
    subject: str
    object: str
    patterns: tuple[Pattern, ...]

    @property
    def pair(self) -> bool:
        """Whether subject and object are of one kind."""
        return self.subject == self.object


_RELATIONS: tuple[Any, ...] = (
    ("lives in", PEOPLE, PLACES, _verb("live in", "lives in"), _verb("have a home in", "has a home in")),
    ("born in", PEOPLE, PLACES, _be("born in", be="was"), _verb("come from", "comes from")),
    ("went to", PEOPLE, PLACES, _past("go to", "went to"), _past("visit", "visited")),
    ("works as", PEOPLE, JOBS, _verb("work as a", "works as a"), _be("a")),
    ("works for", PEOPLE, GROUPS, _verb("work for", "works for"), _verb("employ", "employs", flip=True)),
    ("leads", PEOPLE, GROUPS, _be("the head of"), _be("led by", flip=True)),
    ("owns", PEOPLE, THINGS, _verb("own", "owns"), _verb("belong to", "belongs to", flip=True)),
    ("repaired", PEOPLE, THINGS, _past("repair", "repaired"), _past("fix", "fixed")),
    ("likes", PEOPLE, TREATS, _verb("like", "likes"), _verb("enjoy", "enjoys")),
    ("made of", THINGS, MATERIALS, _be("made of"), _be("built from", be="was")),
    ("based in", GROUPS, PLACES, _be("based in"), _verb("have its office in", "has its office in")),
    ("known for", PLACES, TREATS, _be("known for"), _verb("produce", "produces")),
    ("teaches", PEOPLE, PEOPLE, _verb("teach", "teaches"), _verb("learn from", "learns from", flip=True)),
    ("older than", PEOPLE, PEOPLE, _be("older than"), _be("younger than", flip=True)),
)  # fmt: skip

RELATIONS: dict[str, Relation] = {
    name: Relation(name, subject, obj, tuple(patterns)) for name, subject, obj, *patterns in _RELATIONS
}

_ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "j", "k", "kr", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "or", "el", "an")
_ENDS = ("ba", "den", "do", "fin", "gar", "ka", "kis", "lo", "mar", "mond", "na", "nor", "pel", "ra", "rik", "sa",
         "tan", "to", "vale", "vin", "wick", "zor")  # fmt: skip


@functools.cache
def names(count: int = 160) -> tuple[str, ...]:
    """The common names of the world, the same in every process. Any name may be a person, a place, a group, a thing."""
    rng = np.random.Generator(np.random.PCG64(1729))
    found: dict[str, None] = {}
    while len(found) < count:
        word = pick(rng, _ONSETS) + pick(rng, _VOWELS) + pick(rng, _ENDS)
        if 4 <= len(word) <= 8:
            found[word.capitalize()] = None
    return tuple(found)


def rare_name(rng: np.random.Generator) -> str:
    """A name of three syllables from an open class: too rare to become a word piece of its own."""
    return (pick(rng, _ONSETS) + pick(rng, _VOWELS) + pick(rng, _ENDS) + pick(rng, _ENDS)).capitalize()


def cast_name(rng: np.random.Generator) -> str:
    """One of the few names that scenes use: so frequent that each is one word piece and soon known."""
    return pick(rng, names()[:CAST])
