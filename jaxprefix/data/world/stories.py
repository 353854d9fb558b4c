"""What decoders read: the corpus that the embedded one is pretrained on, and triples with passages that say them.

The corpus says most things twice, in two lines: from it a small decoder learns to say again, in other words, what it
has read. It never shows triples, so that their form is left to tuning. Casts of names are those of the realm "corpus".
"""

from collections.abc import Iterator

import numpy as np

from jaxprefix.data.world import corpus, language, mentions
from jaxprefix.data.world.facts import Fact, draw_scene
from jaxprefix.data.world.lexicon import pick

REFERENCES = 2  # passages of one scene in a split that is measured on
BETWEEN = "\n "  # two lines, the second with a space before its first word, as byte-level tokenizers know words


def draw_story(rng: np.random.Generator) -> str:
    """One text of one or two lines: a passage told twice, a passage and questions with answers, or names described."""
    case = rng.random()
    if case < 0.15:
        return mentions.as_text(mentions.draw_tagged(rng, "corpus"))
    scene = draw_scene(rng, "corpus")
    told = language.passage(language.tell(rng, scene, filler=0.0))
    if case < 0.3:
        return f"{told}{BETWEEN}{corpus.judged(rng, scene)}"
    return f"{told}{BETWEEN}{language.passage(language.tell(rng, scene, filler=0.0))}"


def linearised(facts: tuple[Fact, ...]) -> str:
    """`subject | relation | object`, triple after triple, with semicolons between."""
    return " ; ".join(" | ".join(fact.triple) for fact in facts)


def verbalised(rng: np.random.Generator, realm: str) -> Iterator[dict[str, str]]:
    """The rows of one scene, with the columns `triples` and `text`: one in training, else one for each reference."""
    scene = draw_scene(rng, realm)
    order = rng.permutation(len(scene.facts)).tolist()
    triples = linearised(tuple(scene.facts[place] for place in order))
    texts: dict[str, None] = {}
    for _ in range(1 if realm == "train" else 20):
        texts[language.passage(language.tell(rng, scene, filler=0.0))] = None
        if len(texts) == (1 if realm == "train" else REFERENCES):
            break
    found = list(texts)
    while len(found) < (1 if realm == "train" else REFERENCES):  # a scene that can hardly be told in another way
        found.append(pick(rng, found))
    for text in found:
        yield {"triples": triples, "text": text}
