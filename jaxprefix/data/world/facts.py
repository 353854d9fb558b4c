"""Scenes: a cast of entities and the triples that hold among them. What a scene does not say is false in it."""

import dataclasses
import zlib
from collections.abc import Iterable

import numpy as np

from jaxprefix.data.world import lexicon
from jaxprefix.data.world.lexicon import RELATIONS, Relation, pick, sample

REALMS = ("corpus", "train", "validation", "test")
_REALM_SHARES = (55, 25, 8, 12)  # in hundredths of all casts
_PROPER = (lexicon.PEOPLE, lexicon.PLACES, lexicon.GROUPS)  # the kinds with names of their own


@dataclasses.dataclass(frozen=True)
class Entity:
    """A person, place, group or thing with the words that name it and its pronoun."""

    name: str
    kind: str
    pronoun: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """A triple; the relation `gave` names what was given in `detail`."""

    subject: Entity
    relation: str
    object: Entity
    detail: str = ""

    @property
    def triple(self) -> tuple[str, str, str]:
        relation = f"gave the {self.detail} to" if self.detail else self.relation
        return self.subject.name, relation, self.object.name


@dataclasses.dataclass(frozen=True)
class Scene:
    """Facts about a few entities."""

    facts: tuple[Fact, ...]

    def holds(self, fact: Fact) -> bool:
        return fact in self.facts

    @property
    def cast(self) -> frozenset[str]:
        """Every proper name of the scene, or the common ones where there is none."""
        everything = {e for f in self.facts for e in (f.subject, f.object)}
        return frozenset(e.name for e in ({e for e in everything if e.kind in _PROPER} or everything))

    def entities(self, kind: str) -> list[Entity]:
        """Everything of a kind that the facts mention, in order of mention."""
        found = {e: None for f in self.facts for e in (f.subject, f.object) if e.kind == kind}
        return list(found)


def realm_of(cast: Iterable[str]) -> str:
    """The one split that a set of names belongs to: corpus and splits can then share names, but no cast of names."""
    digest = zlib.crc32(" ".join(sorted(cast)).encode()) % 100
    for realm, share in zip(REALMS, _REALM_SHARES, strict=True):
        digest -= share
        if digest < 0:
            return realm
    raise AssertionError("the shares add up to 100")


def _names(rng: np.random.Generator, count: int, realm: str) -> list[str]:
    """Different names, of the realm already: redrawing them is cheaper than redrawing a scene."""
    while True:
        found: dict[str, None] = {}
        while len(found) < count:
            found[lexicon.any_name(rng)] = None
        if not count or realm_of(found) == realm:
            return list(found)


def _entity(rng: np.random.Generator, kind: str, names: list[str]) -> Entity:
    if kind == lexicon.PEOPLE:
        return Entity(names.pop(), kind, pick(rng, ("she", "he")))
    if kind in _PROPER:
        return Entity(names.pop(), kind, "it")
    word = pick(rng, lexicon.COMMON[kind])
    if kind == lexicon.THINGS:
        word = f"the {pick(rng, lexicon.COLOURS)} {word}" if rng.random() < 0.3 else f"the {word}"
    return Entity(word, kind, "it")


def _different(rng: np.random.Generator, kind: str, names: list[str], count: int) -> list[Entity]:
    found: dict[str, Entity] = {}
    while len(found) < count:
        entity = _entity(rng, kind, names)
        found.setdefault(entity.name.split()[-1], entity)
    return list(found.values())


def _matching(
    rng: np.random.Generator, relation: Relation, subjects: list[Entity], objects: list[Entity]
) -> list[Fact]:
    return [Fact(s, relation.name, o) for s, o in zip(subjects, sample(rng, objects, len(subjects)), strict=True)]


def draw_scene(rng: np.random.Generator, realm: str) -> Scene:
    """A scene of a realm: two or three parallel facts of one relation, or one of a pair relation, and mostly a second.

    Parallel facts (she lives here, he lives there) are what makes a question about one of them need the binding of
    names, not their presence: every name of a false question is in the passage as well.
    """
    while True:
        scene = _draw(rng, realm)
        if realm_of(scene.cast) == realm:
            return scene


def _draw(rng: np.random.Generator, realm: str) -> Scene:
    relation = pick(rng, list(RELATIONS.values()))
    size = 2 if relation.pair or rng.random() < 0.75 else 3
    others = [r for r in RELATIONS.values() if r.subject == relation.subject and r != relation and not r.pair]
    second = pick(rng, others) if others and size == 2 and rng.random() < (0.8 if relation.pair else 0.5) else None
    shared = second is not None and second.object == relation.object
    kinds = [relation.subject]
    kinds += [] if relation.pair else [relation.object]
    kinds += [] if second is None or shared else [second.object]
    names = _names(rng, size * sum(kind in _PROPER for kind in kinds), realm)
    groups = [_different(rng, kind, names, size) for kind in kinds]
    subjects = groups[0]
    if relation.pair:
        detail = pick(rng, lexicon.COMMON[relation.detail]) if relation.detail else ""
        facts = [Fact(subjects[0], relation.name, subjects[1], detail)]
    else:
        facts = _matching(rng, relation, subjects, groups[1])
    if second is not None:
        facts += _matching(rng, second, subjects, groups[-1])
    return Scene(tuple(facts))


def corrupt(rng: np.random.Generator, scene: Scene, fact: Fact) -> Fact:
    """A triple that does not hold, made of entities of the scene: the converse, or with one side exchanged."""
    relation = RELATIONS[fact.relation]
    if relation.pair:
        return dataclasses.replace(fact, subject=fact.object, object=fact.subject)
    exchanged = [dataclasses.replace(fact, object=o) for o in scene.entities(relation.object)]
    exchanged += [dataclasses.replace(fact, subject=s) for s in scene.entities(relation.subject)]
    return pick(rng, [f for f in exchanged if not scene.holds(f)])
