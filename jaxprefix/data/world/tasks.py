"""Labelled examples. What makes a label is drawn first: whether the text affirms a fact, and whether the question does.

Neither part alone tells the label, nor does any sum over words: it is whether two parts agree.
"""

from typing import Any

import numpy as np

from jaxprefix.data.world import language, mentions, senses
from jaxprefix.data.world.facts import Fact, Scene, draw_scene
from jaxprefix.data.world.language import choose_pattern, sentence, state
from jaxprefix.data.world.lexicon import pick

Example = dict[str, Any]
MIXED = 0.2  # how often another fact of a passage is denied where the one in question is not, or the other way round


def _polar_scene(rng: np.random.Generator, realm: str) -> tuple[Scene, Fact, list[Fact]]:
    """A scene, the fact that will be asked for, and which facts the passage denies.

    A passage mostly affirms all or denies all: that the fact in question differs from the others is the hard case.
    """
    scene, deny = draw_scene(rng, realm), rng.random() < 0.5
    asked = pick(rng, scene.facts)
    return scene, asked, [f for f in scene.facts if deny != (f != asked and rng.random() < MIXED)]


def question(rng: np.random.Generator, realm: str) -> tuple[Example, Fact]:
    """A yes/no question about a passage, with the fact asked for, for checks.

    The example has the columns of BoolQ: `question`, `passage`, `label`. One half asks whether the fact is false.
    """
    scene, asked, denied = _polar_scene(rng, realm)
    text = language.passage(language.tell(rng, scene, denied))
    negative, pattern = rng.random() < 0.5, choose_pattern(rng, asked)
    words = f"is it false that {state(asked, pattern)}" if negative else language.ask(rng, asked, pattern)
    label = "yes" if negative == (asked in denied) else "no"
    return {"question": sentence(words, "?"), "passage": text, "label": label}, asked


def entailment(rng: np.random.Generator, realm: str) -> tuple[Example, Fact, bool]:
    """A premise and a hypothesis, with the fact of the hypothesis and whether it is negated, for checks.

    The example has the columns of RTE: `premise`, `hypothesis`, `label`. One half of the hypotheses are negations.
    """
    scene, claim, denied = _polar_scene(rng, realm)
    text = language.passage(language.tell(rng, scene, denied, filler=0.05))
    negative = rng.random() < 0.5
    hypothesis = sentence(state(claim, choose_pattern(rng, claim), negative))
    label = "entailment" if negative == (claim in denied) else "not_entailment"
    return {"premise": text, "hypothesis": hypothesis, "label": label}, claim, negative


def sense_pair(rng: np.random.Generator, realm: str) -> tuple[Example, str, str]:
    """A word in two sentences, with its two classes, for checks.

    The example has the columns of WiC: `word`, `sentence1`, `sentence2`, `label` ("true" where the sense is the same).
    """
    same = rng.random() < 0.5
    word, first, second, *kinds = senses.draw_uses(rng, realm, same, senses.COMMON)
    example = {"word": word, "sentence1": first, "sentence2": second, "label": "true" if same else "false"}
    return example, kinds[0], kinds[1]


def entities(rng: np.random.Generator, realm: str) -> Example:
    """Words and BIO tags, as in CoNLL 2003: `tokens`, `tags`. One name in four never occurs in the training split."""
    tagged = mentions.draw_tagged(rng, realm)
    return {"tokens": [word for word, _ in tagged], "tags": [tag for _, tag in tagged]}
