"""Sentences with tagged names: persons, places, organisations and the rest, in BIO.

The same names serve all four classes, so that a name's class is told by its surroundings: a verb beside it, a word that
comes with it (Lake, Council), or a sentence before or after.
"""

import numpy as np

from jaxprefix.data.world.facts import realm_of
from jaxprefix.data.world.lexicon import names, pick, rare_name

CLASSES = ("PER", "LOC", "ORG", "MISC")
TAGS = ("O", *(f"{border}-{kind}" for kind in CLASSES for border in "BI"))

# Each form keeps the name's place as {}; the plain name comes first and most often.
_FORMS: dict[str, tuple[str, ...]] = {
    "PER": ("{}", "{} {}"),
    "LOC": ("{}", "Lake {}", "{} Bay", "Mount {}"),
    "ORG": ("{}", "{} Council", "Bank of {}", "{} and Sons"),
    "MISC": ("{}", "{} Fair", "Song of {}", "{} Prize"),
}

# Statements about one name; the first two of a class say what it is, the others imply it.
_ABOUT: dict[str, tuple[str, ...]] = {
    "PER": (
        "{x} is a singer", "{x} is a farmer with two sons", "{x} was born in spring", "{x} laughed and sat down",
        "{x} married a teacher", "they met {x} and her brother", "a friend of {x} said so", "{x} forgot his coat",
    ),
    "LOC": (
        "{x} is a town in the hills", "{x} is a village by the sea", "the road to {x} was closed",
        "it rained in {x} all day", "many people live in {x}", "the streets of {x} are narrow",
        "they crossed {x} on foot", "the north of {x} is empty",
    ),
    "ORG": (
        "{x} is a company with many workers", "{x} is a trading firm", "{x} sold its shares",
        "the office of {x} is closed", "the owners of {x} agreed", "{x} hired ten workers",
        "the president of {x} resigned", "{x} pays its members well",
    ),
    "MISC": (
        "{x} is a novel from last year", "{x} is a famous song", "the writer of {x} won",
        "everybody reads {x} at school", "the second chapter of {x} is sad", "they printed {x} again",
        "the title {x} is old", "the words of {x} are easy",
    ),
}  # fmt: skip

# Statements that fit any class: the class is in another sentence.
_NEUTRAL = (
    "people often speak of {x}", "nobody had heard of {x} before", "there was news about {x}", "{x} is well known",
    "we know little about {x}", "some like {x} and some do not", "{x} was never forgotten", "they asked about {x}",
)  # fmt: skip

_TOGETHER: tuple[tuple[str, str, str], ...] = (
    ("{x} lives in {y}", "PER", "LOC"), ("{x} works for {y}", "PER", "ORG"), ("{x} is the head of {y}", "PER", "ORG"),
    ("{x} wrote {y} in a year", "PER", "MISC"), ("{x} is based in {y}", "ORG", "LOC"),
    ("{x} printed {y}", "ORG", "MISC"), ("{x} and {y} are sisters", "PER", "PER"),
    ("{x} is north of {y}", "LOC", "LOC"), ("{x} bought {y} last year", "ORG", "ORG"),
    ("{x} was read aloud in {y}", "MISC", "LOC"), ("{x} made {y} famous", "MISC", "PER"),
    ("{x} employs {y}", "ORG", "PER"), ("{x} left {y} by ship", "PER", "LOC"), ("{x} sued {y}", "PER", "ORG"),
)  # fmt: skip

Tagged = list[tuple[str, str]]


def is_known(name: str) -> bool:
    """Whether the training split of the tagging task may use the name; one in four names is kept from it."""
    return names().index(name) % 4 != 3


def _draw_name(rng: np.random.Generator, known_only: bool) -> str:
    if not known_only and rng.random() < 0.05:
        return rare_name(rng)
    while True:
        name = pick(rng, names())
        if not known_only or is_known(name):
            return name


def _mention(rng: np.random.Generator, kind: str, known_only: bool, plain: bool) -> Tagged:
    form = "{}" if plain or rng.random() < 0.7 else pick(rng, _FORMS[kind][1:])
    words = [_draw_name(rng, known_only) if word == "{}" else word for word in form.split()]
    return [(word, f"{'I' if i else 'B'}-{kind}") for i, word in enumerate(words)]


def _write(frame: str, **mentions: Tagged) -> Tagged:
    tagged: Tagged = []
    for word in frame.split():
        tagged += mentions[word[1:-1]] if word[0] == "{" else [(word, "O")]
    first, tag = tagged[0]
    tagged[0] = (first[0].upper() + first[1:], tag)
    return [*tagged, (".", "O")]


def draw_tagged(rng: np.random.Generator, realm: str) -> Tagged:
    """One to three sentences as (word, tag) pairs, of a realm; "train" goes without the names kept from training.

    Half of them mention a name twice, once where nothing around it tells its class.
    """
    while True:
        tagged = _draw(rng, known_only=realm == "train")
        if realm_of(word for word, _ in tagged) == realm:
            return tagged


def _draw(rng: np.random.Generator, known_only: bool) -> Tagged:
    case = rng.random()
    if case < 0.3:
        frame, first, second = pick(rng, _TOGETHER)
        return _write(frame, x=_mention(rng, first, known_only, False), y=_mention(rng, second, known_only, False))
    kind = pick(rng, CLASSES)
    about = pick(rng, _ABOUT[kind])
    if case < 0.5:
        return _write(about, x=_mention(rng, kind, known_only, False))
    name = _mention(rng, kind, known_only, rng.random() < 0.8)
    parts = [_write(about, x=name), _write(pick(rng, _NEUTRAL), x=name)]
    if rng.random() < 0.4:
        other = pick(rng, CLASSES)
        parts.append(_write(pick(rng, _ABOUT[other]), x=_mention(rng, other, known_only, True)))
    return [pair for i in np.argsort([rng.random() for _ in parts]) for pair in parts[i]]


def as_text(tagged: Tagged) -> str:
    """The words as running text."""
    return " ".join(word for word, _ in tagged).replace(" .", ".")
