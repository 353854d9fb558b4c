"""Labelled examples. The label is drawn first and the text does not depend on it beyond the one fact in question."""

from typing import Any

import numpy as np

from jaxprefix.data.world import language, mentions, senses
from jaxprefix.data.world.facts import Fact, Scene, corrupt, draw_scene
from jaxprefix.data.world.language import choose_pattern, sentence
from jaxprefix.data.world.lexicon import pick

Example = dict[str, Any]


def draw_claim(rng: np.random.Generator, scene: Scene, true: bool) -> Fact:
    """A fact of the scene, or one that does not hold made from it."""
    fact = pick(rng, scene.facts)
    return fact if true else corrupt(rng, scene, fact)


def question(rng: np.random.Generator, realm: str) -> tuple[Example, Scene, Fact]:
    """A yes/no question about a passage, with the scene and the fact asked for, for checks.

    The example has the columns of BoolQ: `question`, `passage`, `label` ("no" where the passage does not say so).
    """
    scene, true = draw_scene(rng, realm), rng.random() < 0.5
    claim = draw_claim(rng, scene, true)
    text = language.passage(language.tell(rng, scene))
    asked = sentence(language.ask(rng, claim, choose_pattern(rng, claim)), "?")
    return {"question": asked, "passage": text, "label": "yes" if true else "no"}, scene, claim


def entailment(rng: np.random.Generator, realm: str) -> tuple[Example, Scene, Fact, bool]:
    """A premise and a hypothesis, with the scene, the fact of the hypothesis and whether it is negated, for checks.

    The example has the columns of RTE: `premise`, `hypothesis`, `label`. One hypothesis in ten is a negation.
    """
    scene, true, negative = draw_scene(rng, realm), rng.random() < 0.5, rng.random() < 0.1
    claim = draw_claim(rng, scene, true != negative)
    text = language.passage(language.tell(rng, scene, filler=0.05))
    hypothesis = sentence(language.state(claim, choose_pattern(rng, claim), negative))
    label = "entailment" if true else "not_entailment"
    return {"premise": text, "hypothesis": hypothesis, "label": label}, scene, claim, negative


def sense_pair(rng: np.random.Generator, realm: str) -> tuple[Example, str, str]:
    """A word in two sentences, with its two classes, for checks.

    The example has the columns of WiC: `word`, `sentence1`, `sentence2`, `label` ("true" where the sense is the same).
    """
    same = rng.random() < 0.5
    word, first, second, *kinds = senses.draw_uses(rng, realm, same)
    example = {"word": word, "sentence1": first, "sentence2": second, "label": "true" if same else "false"}
    return example, kinds[0], kinds[1]


def entities(rng: np.random.Generator, realm: str) -> Example:
    """Words and BIO tags, as in CoNLL 2003: `tokens`, `tags`. One name in four never occurs in the training split."""
    tagged = mentions.draw_tagged(rng, realm)
    return {"tokens": [word for word, _ in tagged], "tags": [tag for _, tag in tagged]}
