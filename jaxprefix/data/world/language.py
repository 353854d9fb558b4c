"""From triples to sentences: statements, negations, questions, pronouns, passages."""

from collections.abc import Collection, Sequence

import numpy as np

from jaxprefix.data.world import lexicon
from jaxprefix.data.world.facts import Fact, Scene
from jaxprefix.data.world.lexicon import RELATIONS, Pattern, pick


def sentence(text: str, end: str = ".") -> str:
    """The text with a capital letter and its end mark."""
    return text[0].upper() + text[1:] + end


def choose_pattern(rng: np.random.Generator, fact: Fact, avoid: Pattern | None = None) -> Pattern:
    """One of the patterns of the fact's relation, not `avoid`."""
    return pick(rng, [p for p in RELATIONS[fact.relation].patterns if p != avoid])


def _fill(form: str, fact: Fact, pattern: Pattern, subject: str | None = None) -> str:
    first, second = (fact.object, fact.subject) if pattern.flip else (fact.subject, fact.object)
    return form.format(a=subject or first.name, b=second.name)


def state(fact: Fact, pattern: Pattern, negative: bool = False, subject: str | None = None) -> str:
    """The fact, or its negation, as a clause; `subject` replaces the grammatical subject (a pronoun)."""
    return _fill(pattern.negation if negative else pattern.statement, fact, pattern, subject)


def ask(rng: np.random.Generator, fact: Fact, pattern: Pattern) -> str:
    """A yes/no question whether the fact holds, without its question mark."""
    if rng.random() < 0.1:
        return "is it true that " + state(fact, pattern)
    return _fill(pattern.question, fact, pattern)


def tell(rng: np.random.Generator, scene: Scene, denied: Collection[Fact] = (), filler: float = 0.1) -> list[str]:
    """Every fact of a scene as a passage of sentences, each fact once, in random order; those in `denied` negated.

    A pronoun stands for a grammatical subject that repeats the one before, where only one reading is possible. With
    probability `filler` a sentence about nothing is told as well.
    """
    clauses = [(fact, fact in denied) for fact in scene.facts]
    order = [clauses[i] for i in np.argsort([rng.random() for _ in clauses])]
    sentences: list[str] = []
    previous: Fact | None = None
    last = None
    for fact, negative in order:
        pattern = choose_pattern(rng, fact)
        first, second = (fact.object, fact.subject) if pattern.flip else (fact.subject, fact.object)
        clear = previous is not None and not any(
            e.pronoun == first.pronoun for e in (previous.subject, previous.object) if e != first
        )
        pronoun = first == last and clear and second.pronoun != first.pronoun and rng.random() < 0.7
        clause = state(fact, pattern, negative, first.pronoun if pronoun else None)
        joined = sentences and not pronoun and len(order) > 2 and rng.random() < 0.15
        if joined and ", " not in sentences[-1]:
            joint = ", but " if negative else pick(rng, (", and ", ", while "))
            sentences[-1] = sentences[-1][:-1] + joint + clause + "."
        elif not pronoun and rng.random() < 0.08:
            sentences.append(sentence(f"{pick(rng, lexicon.OPENERS)}, {clause}"))
        else:
            sentences.append(sentence(clause))
        previous, last = fact, first
    if rng.random() < filler:
        sentences.append(sentence(pick(rng, lexicon.FILLERS)))
    return sentences


def passage(sentences: Sequence[str]) -> str:
    """Sentences as one text."""
    return " ".join(sentences)
