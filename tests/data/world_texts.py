"""Examples of the embedded world, and its sentences read back."""

import contextlib
import functools
import itertools
import re

import jaxtyping
import numpy as np

from jaxprefix.data.world import builder, corpus, lexicon

SPLITS = ("train", "validation", "test")
TASKS = ("questions", "entailment", "senses", "entities")
PARTS = {"questions": ("question", "passage"), "entailment": ("premise", "hypothesis")}


CHECKED = 20  # examples of a split, whose every call is checked as others are; more of them show nothing new


@contextlib.contextmanager
def unchecked():
    """Without the tests' own check of arguments, which is most of what it takes to write a text."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@functools.cache
def drawn(config: str, split: str, count: int) -> list[dict]:
    stream = builder._examples(config, split)
    found = list(itertools.islice(stream, min(CHECKED, count)))
    with unchecked():
        return found + list(itertools.islice(stream, count - len(found)))


@functools.cache
def passages(seed: int, count: int) -> list[str]:
    """Passages of the corpus."""
    rng = np.random.default_rng(seed)
    with unchecked():
        return [" ".join(corpus.draw_passage(rng)) for _ in range(count)]


def examples(config: str, split: str, count: int = 300) -> list[dict]:
    """The first examples of a split; drawn once for all tests that need few."""
    return drawn(config, split, max(count, 600))[:count]


def text_of(example: dict) -> str:
    return " ".join(" ".join(v) if isinstance(v, list) else v for k, v in sorted(example.items()) if k != "label")


# Reading the sentences back, with the patterns of the lexicon and nothing of the writer.


def expression(form: str) -> re.Pattern:
    form = re.sub(r"\{(\w)\}", lambda m: f"(?P<{m[1]}>the \\w+ \\w+|the \\w+|\\w+)", form)
    return re.compile(form + "$", re.IGNORECASE)


FORMS = [
    (relation.name, pattern.flip, kind, set(getattr(pattern, kind).split()) - {"{a}", "{b}"},
     expression(getattr(pattern, kind)))
    for relation in lexicon.RELATIONS.values()
    for pattern in relation.patterns
    for kind in ("statement", "negation", "question")
]  # fmt: skip


def read_clause(clause: str) -> tuple[tuple[str, str, str], bool, str] | None:
    """A clause as ((subject, relation, object), negated, grammatical subject); None for a filler."""
    found = []
    words = set(clause.lower().split())
    for name, flip, kind, fixed, expression in FORMS:
        if fixed <= words and (match := expression.match(clause)):
            part = {k: v[0].upper() + v[1:] for k, v in match.groupdict().items()}
            first, second = (part["b"], part["a"]) if flip else (part["a"], part["b"])
            found.append(((first, name, second), kind == "negation", part["a"]))
    assert len(found) <= 1, (clause, found)
    return found[0] if found else None


def read_passage(text: str) -> tuple[set, set]:
    """What a passage says and what it denies; a pronoun stands for the grammatical subject before it."""
    said, denied, last = set(), set(), ""
    for clause in re.split(r"\. |, and |, while |, but |\.$", text):
        clause = re.sub(f"^({'|'.join(lexicon.OPENERS)}), ", "", clause, flags=re.IGNORECASE)
        clause = re.sub(r"^(he|she|it)\b(?! was a cold| rained)", last, clause, flags=re.IGNORECASE)
        if clause and (read := read_clause(clause)):
            fact, negative, last = read
            (denied if negative else said).add(fact)
        elif clause:
            assert clause.lower() in lexicon.FILLERS, clause
    return said, denied
