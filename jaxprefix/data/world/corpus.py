"""Unlabelled passages of the world: stories, restatements, questions with answers, words explained, names described.

Their casts of names and their pairs of word uses are those of the realm "corpus", so that no passage of a labelled
split can occur in them.
"""

import numpy as np

from jaxprefix.data.world import language, mentions, senses
from jaxprefix.data.world.facts import Fact, Scene, corrupt, draw_scene
from jaxprefix.data.world.language import choose_pattern, sentence, state
from jaxprefix.data.world.lexicon import pick, sample

_TRUE_LEADS = ("so", "that is,", "in other words,", "it follows that", "it is true that", "this means that")
_FALSE_LEADS = ("it does not follow that", "it is not true that", "it is wrong that", "nobody says that")
_GLOSSES = {
    "animal": "an animal", "tool": "a tool", "machine": "a machine", "food": "something to eat", "plant": "a plant",
    "body": "a part of the body", "music": "something to hear", "paper": "something to read", "water": "a wet place",
    "money": "a place for money", "time": "a time of the year", "game": "a game",
}  # fmt: skip


def _restatement(rng: np.random.Generator, scene: Scene, fact: Fact) -> str:
    """A true sentence about a fact in other words, or the denial of something false."""
    if rng.random() < 0.65:
        return sentence(f"{pick(rng, _TRUE_LEADS)} {state(fact, choose_pattern(rng, fact))}")
    false = corrupt(rng, scene, fact)
    pattern = choose_pattern(rng, false)
    if rng.random() < 0.5:
        return sentence(f"{pick(rng, _FALSE_LEADS)} {state(false, pattern)}")
    return sentence(state(false, pattern, negative=True))


def _question(rng: np.random.Generator, fact: Fact) -> str:
    return sentence(language.ask(rng, fact, choose_pattern(rng, fact)), "?")


def _answered(rng: np.random.Generator, scene: Scene, fact: Fact) -> str:
    """A question with its answer, mostly with a reason."""
    true = rng.random() < 0.5
    claim = fact if true else corrupt(rng, scene, fact)
    asked = _question(rng, claim)
    reason = rng.random()
    if reason < 0.5:
        return asked + (" Yes." if true else " No.")
    pattern = choose_pattern(rng, claim)
    if true:
        return f"{asked} Yes, {state(fact, pattern)}."
    if reason < 0.75:
        return f"{asked} No, {state(claim, pattern, negative=True)}."
    return f"{asked} No, {state(fact, choose_pattern(rng, fact))}."


def _facts_in_turn(rng: np.random.Generator, scene: Scene, count: int) -> list[Fact]:
    facts = list(scene.facts)
    return sample(rng, facts, min(count, len(facts)))


def _scene_passage(rng: np.random.Generator) -> str:
    scene = draw_scene(rng, "corpus")
    told = language.tell(rng, scene)
    case = rng.random()
    if case < 0.1:
        return language.passage(told)
    if case < 0.35:
        return language.passage([*told, *(_restatement(rng, scene, f) for f in _facts_in_turn(rng, scene, 3))])
    if case < 0.8:
        return language.passage([*told, *(_answered(rng, scene, f) for f in _facts_in_turn(rng, scene, 3))])
    true = rng.random() < 0.5
    fact = pick(rng, scene.facts)
    asked = _question(rng, fact if true else corrupt(rng, scene, fact))
    return language.passage([asked, *told, f"The answer is {'yes' if true else 'no'}."])


def _sense_passage(rng: np.random.Generator) -> str:
    same = rng.random() < 0.5
    word, first, second, *kinds = senses.draw_uses(rng, "corpus", same)
    lines = [first, second]
    if rng.random() < 0.6:
        lines = [f"{text} This {word} is {_GLOSSES[kind]}." for text, kind in zip(lines, kinds, strict=True)]
    if rng.random() < 0.7:
        lines.append(f"Here {word} means {'the same thing twice' if same else 'two different things'}.")
    return language.passage(lines)


def draw_passage(rng: np.random.Generator) -> str:
    """One passage of one to about six sentences."""
    case = rng.random()
    if case < 0.72:
        return _scene_passage(rng)
    if case < 0.86:
        return _sense_passage(rng)
    return mentions.as_text(mentions.draw_tagged(rng, "corpus"))
