"""Unlabelled passages of the world in two parts: stories with questions, claims or other words for them, words in two
sentences, names described.

Most of them say the same thing twice, as the tasks do, and close with a word that only a comparison of the two parts
can tell (`ANSWERS`). Their casts of names and their pairs of word uses are those of the realm "corpus", so that no
passage of a labelled split can occur in them.
"""

import numpy as np

from jaxprefix.data.world import language, mentions, senses
from jaxprefix.data.world.facts import Fact, Scene, corrupt, draw_scene
from jaxprefix.data.world.language import choose_pattern, sentence, state
from jaxprefix.data.world.lexicon import pick

GLOSSES = {
    "animal": "an animal", "tool": "a tool", "food": "a food", "plant": "a plant", "body": "a limb", "music": "a sound",
    "paper": "a text",
}  # fmt: skip
ANSWERS = (
    "yes", "no", "true", "false", *(gloss.split()[1] for gloss in GLOSSES.values()),
)  # fmt: skip
LENGTH = 36  # words, at which a passage is full: rows of one length waste no padding


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def _question(rng: np.random.Generator, fact: Fact) -> str:
    return sentence(language.ask(rng, fact, choose_pattern(rng, fact)), "?")


def judged(rng: np.random.Generator, scene: Scene) -> str:
    """A question with its answer, or a claim with its verdict, right in half of the cases."""
    true, fact = rng.random() < 0.5, pick(rng, scene.facts)
    case = rng.random()
    if case < 0.5:
        return f"{_question(rng, fact if true else corrupt(rng, scene, fact))} {'Yes' if true else 'No'}."
    negative = rng.random() < 0.1
    claim = fact if true != negative else corrupt(rng, scene, fact)
    told, verdict = state(claim, choose_pattern(rng, claim), negative), "true" if true else "false"
    if case < 0.75:
        return sentence(f"it is {verdict} that {told}")
    return f"{sentence(told)} {sentence(verdict)}"


def _scene_passage(rng: np.random.Generator) -> tuple[str, str]:
    scene = draw_scene(rng, "corpus")
    told = language.passage(language.tell(rng, scene))
    if rng.random() < 0.3:
        return told, language.passage(language.tell(rng, scene))
    verdicts = judged(rng, scene)
    while _words(told, verdicts, more := judged(rng, scene)) <= LENGTH:
        verdicts += " " + more
    return (verdicts, told) if rng.random() < 0.5 else (told, verdicts)


def _sense_passage(rng: np.random.Generator) -> tuple[str, str]:
    same = rng.random() < 0.5
    word, *texts, first, second = senses.draw_uses(rng, "corpus", same)
    for place, kind in enumerate((first, second)):
        if rng.random() < 0.4:
            texts[place] += f" This {word} is {GLOSSES[kind]}."
    if rng.random() < 0.8:
        texts[1] += f" Is it the same {word}? {'Yes' if same else 'No'}."
    return texts[0], texts[1]


def draw_passage(rng: np.random.Generator) -> tuple[str, str]:
    """One passage of one to about six sentences in two parts, of which the second may be empty."""
    case = rng.random()
    if case < 0.7:
        return _scene_passage(rng)
    if case < 0.88:
        return _sense_passage(rng)
    text = ""
    while _words(text, more := mentions.as_text(mentions.draw_tagged(rng, "corpus"))) <= LENGTH:
        text = f"{text} {more}".strip()
    return text, ""
