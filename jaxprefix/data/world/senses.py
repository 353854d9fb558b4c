"""Words with two senses, and sentences that use them.

A sense is a class of things (animal, tool, ...); a class has frames that any of its words fits into. Which sense a
word has is told by its frame alone, and the same sense in two sentences comes in two different frames.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from jaxprefix.data.world.facts import REALMS
from jaxprefix.data.world.language import sentence
from jaxprefix.data.world.lexicon import cast_name, pick, sample

CLASSES: dict[str, tuple[str, ...]] = {
    "animal": (
        "the {w} slept in the barn", "{p} fed the hungry {w}", "a wild {w} ran across the field",
        "the {w} was thirsty and drank", "a {w} and its young hid in the forest", "the {w} was alive and bit {p}",
        "{p} heard the {w} cry at night", "the hunter followed the {w}",
    ),
    "tool": (
        "{p} worked with a {w} in the workshop", "the {w} is made of iron", "{p} hit the wall with the {w}",
        "the handle of the {w} broke", "{p} bought a {w} to mend the fence", "{p} held the {w} in both hands",
        "the {w} is sharp and heavy", "{p} keeps the {w} with the hammer",
    ),
    "food": (
        "{p} ate a {w} for lunch", "the {w} tasted sweet", "{p} cooked the {w} with butter",
        "the {w} was served on a plate", "{p} likes {w} with bread", "the {w} was ripe and soft",
        "{p} put sugar on the {w}", "the cook sells {w} at the market",
    ),
    "plant": (
        "the {w} grew in the garden", "{p} watered the {w}", "the leaves of the {w} are green",
        "the {w} lost its leaves in winter", "{p} sat in the shade of the {w}", "the roots of the {w} are deep",
        "the {w} grows in warm soil", "{p} planted a {w} near the gate",
    ),
    "body": (
        "{p} felt pain in the {w}", "the doctor looked at the {w} of {p}", "{p} washed the {w} with water",
        "the {w} was hurt and bled", "{p} covered the skin of the {w}", "the {w} was warm under the shirt",
        "{p} has a scar on the {w}", "the {w} healed after a week",
    ),
    "music": (
        "{p} played the {w} and people danced", "the {w} sounded high and clear", "{p} listened to the {w}",
        "the band began with a {w}", "the song ends on this {w}", "the {w} was loud in the concert",
        "{p} practised the {w} with the choir", "the singer followed the {w}",
    ),
    "paper": (
        "{p} wrote on the {w}", "{p} signed the {w} with ink", "the {w} came with the post",
        "{p} read the {w} twice", "{p} kept the {w} in an envelope", "the {w} was printed in the office",
        "the clerk copied the {w}", "{p} tore the {w} and threw it away",
    ),
}  # fmt: skip

WORDS: dict[str, tuple[str, str]] = {
    "bat": ("animal", "tool"), "seal": ("animal", "paper"), "palm": ("plant", "body"), "nail": ("tool", "body"),
    "organ": ("body", "music"), "horn": ("body", "music"), "key": ("tool", "music"), "note": ("paper", "music"),
    "bass": ("animal", "music"), "calf": ("animal", "body"), "nut": ("food", "tool"), "roll": ("food", "paper"),
    "leaf": ("plant", "paper"), "bulb": ("plant", "tool"), "sole": ("animal", "body"), "root": ("plant", "food"),
}  # fmt: skip

COMMON = ("bat", "calf", "bass", "nail", "key", "horn", "organ", "sole")
"""The words of the labelled task, whose senses are of four classes."""


def _frames(rng: np.random.Generator, word: str, same: bool) -> tuple[tuple[str, int], tuple[str, int]]:
    first, second = sample(rng, WORDS[word], 2)
    if not same:
        return (first, int(rng.random() * 8)), (second, int(rng.random() * 8))
    one, two = sample(rng, range(8), 2)
    return (first, one), (first, two)


def _realm(word: str, one: tuple[str, int], two: tuple[str, int]) -> str:
    bucket = zlib.crc32(repr((word, *sorted((one, two)))).encode()) % 20
    return REALMS[0 if bucket < 10 else 1 if bucket < 15 else 2 if bucket < 17 else 3]


def draw_uses(
    rng: np.random.Generator, realm: str, same: bool, words: Sequence[str] = tuple(WORDS)
) -> tuple[str, str, str, str, str]:
    """Two uses of one of the words: the word, the two sentences, and the class of the word in each.

    A combination of word and two frames belongs to one realm only, whatever the names in it.
    """
    while True:
        word = pick(rng, words)
        one, two = _frames(rng, word, same)
        if _realm(word, one, two) == realm:
            break
    texts = [sentence(CLASSES[kind][i].format(w=word, p=cast_name(rng))) for kind, i in (one, two)]
    return word, texts[0], texts[1], one[0], two[0]
