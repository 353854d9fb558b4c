"""Scenes: a cast of entities and the triples that hold among them. What a scene does not say is false in it."""

import dataclasses
import zlib
from collections.abc import Iterable

import numpy as np

from jaxprefix.data.world import lexicon
from jaxprefix.data.world.lexicon import RELATIONS, Relation, pick, sample

REALMS = ("corpus", "train", "validation", "test")
_REALM_SHARES = (55, 25, 8, 12)  # in hundredths of all casts
_SIZES = (1, 1, 2, 2, 3)  # parallel facts of a scene; the shares are what these say
_PROPER = (lexicon.PEOPLE, lexicon.PLACES, lexicon.GROUPS)  # the kinds with names of their own


@dataclasses.dataclass(frozen=True)
class Entity:
    """A person, place, group or thing with the words that name it and its pronoun."""

    name: str
    kind: str
    pronoun: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """A triple."""

    subject: Entity
    relation: str
    object: Entity

    @property
    def triple(self) -> tuple[str, str, str]:
        """The names of subject, relation and object."""
        return self.subject.name, self.relation, self.object.name


@dataclasses.dataclass(frozen=True)
class Scene:
    """Facts about a few entities."""

    facts: tuple[Fact, ...]

    def holds(self, fact: Fact) -> bool:
        """Whether the fact is one of the scene."""
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
            found[lexicon.cast_name(rng)] = None
        if not count or realm_of(found) == realm:
            return list(found)


def _entity(rng: np.random.Generator, kind: str, names: list[str]) -> Entity:
    if kind == lexicon.PEOPLE:
        return Entity(names.pop(), kind, pick(rng, ("she", "he")))
    if kind in _PROPER:
        return Entity(names.pop(), kind, "it")
    word = pick(rng, lexicon.COMMON[kind])
    return Entity(f"the {word}" if kind == lexicon.THINGS else word, kind, "it")


def _different(rng: np.random.Generator, kind: str, names: list[str], count: int) -> list[Entity]:
    found: dict[str, Entity] = {}
    while len(found) < count:
        entity = _entity(rng, kind, names)
        found.setdefault(entity.name, entity)
    return list(found.values())


def _matching(
    rng: np.random.Generator, relation: Relation, subjects: list[Entity], objects: list[Entity]
) -> list[Fact]:
    return [Fact(s, relation.name, o) for s, o in zip(subjects, sample(rng, objects, len(subjects)), strict=True)]


def draw_scene(rng: np.random.Generator, realm: str) -> Scene:
    """A scene of a realm: up to three parallel facts of one relation, or one of a pair relation, and often a second.

    Parallel facts (she lives here, he lives there) are what makes a question about one of them need the binding of
    names, not their presence.
    """
    while True:
        scene = _draw(rng, realm)
        if realm_of(scene.cast) == realm:
            return scene


def _draw(rng: np.random.Generator, realm: str) -> Scene:
    relation = pick(rng, list(RELATIONS.values()))
    size = 2 if relation.pair else pick(rng, _SIZES)
    others = [
        r for r in RELATIONS.values() if r.subject == relation.subject and r.object != relation.object and not r.pair
    ]
    second = pick(rng, others) if others and size < 3 and (relation.pair or rng.random() < 0.5) else None
    kinds = [relation.subject]
    kinds += [] if relation.pair else [relation.object]
    kinds += [] if second is None else [second.object]
    names = _names(rng, size * sum(kind in _PROPER for kind in kinds), realm)
    groups = [_different(rng, kind, names, size) for kind in kinds]
    subjects = groups[0]
    if relation.pair:
        facts = [Fact(subjects[0], relation.name, subjects[1])]
    else:
        facts = _matching(rng, relation, subjects, groups[1])
    if second is not None:
        more = _matching(rng, second, subjects, groups[-1])
        facts += more if relation.pair else more[:1]
    return Scene(tuple(facts))


def corrupt(rng: np.random.Generator, scene: Scene, fact: Fact, foreign: float = 0.7) -> Fact:
    """A triple that does not hold: with one side exchanged, or the converse of a fact of a pair relation.

    With probability `foreign` the new side is nothing that the scene mentions, so that finding a word again is enough
    to tell; else it is something of the scene, and only the binding of the names tells.
    """
    relation = RELATIONS[fact.relation]
    if rng.random() < foreign:
        side = pick(rng, ("subject", "object"))
        return dataclasses.replace(fact, **{side: _stranger(rng, scene, getattr(fact, side))})
    if relation.pair:
        return dataclasses.replace(fact, subject=fact.object, object=fact.subject)
    exchanged = [dataclasses.replace(fact, object=o) for o in scene.entities(relation.object)]
    exchanged += [dataclasses.replace(fact, subject=s) for s in scene.entities(relation.subject)]
    false = [f for f in exchanged if not scene.holds(f)]
    # the only one that has the property, if nobody else of the kind is there
    return pick(rng, false) if false else corrupt(rng, scene, fact, 1.0)


def _stranger(rng: np.random.Generator, scene: Scene, entity: Entity) -> Entity:
    """An entity of the same kind that the scene does not mention."""
    mentioned = {e.name for f in scene.facts for e in (f.subject, f.object)}
    while True:
        found = _entity(rng, entity.kind, [lexicon.cast_name(rng)])
        if found.name not in mentioned:
            return found
