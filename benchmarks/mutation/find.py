"""Draws mutants of a checkout, and finds the drawn ones again in another checkout where code has moved.

A drawn mutant is a plain dict: `id`, `room`, `file`, `function`, `kind`, `expression`, `replacement`, `occurrence`,
`occurrences`, `context` (see `syntax.Mutant`).
"""

import dataclasses
import functools
import random
from pathlib import Path

from mutation.kinds import KINDS
from mutation.syntax import Mutant, mutants

PACKAGE = "jaxprefix"


@dataclasses.dataclass(frozen=True)
class Room:
    """Code to mutate and the tests that should notice, as paths in any layout; those that a checkout has are used."""

    code: tuple[str, ...]
    tests: tuple[str, ...]

    def sources(self, tree: Path) -> list[str]:
        """The code's files in a checkout, sorted."""
        return _files(tree, self.code, "*.py")

    def test_files(self, tree: Path) -> list[str]:
        """The files of its tests in a checkout, sorted."""
        return _files(tree, self.tests, "test_*.py")


def _files(tree: Path, paths: tuple[str, ...], pattern: str) -> list[str]:
    found = [
        file for path in paths for file in ([tree / path] if (tree / path).is_file() else (tree / path).rglob(pattern))
    ]
    return sorted({file.relative_to(tree).as_posix() for file in found})


def draw(tree: Path, rooms: dict[str, Room], seed: int, each: int = 10, of_kind: int = 2) -> list[dict]:
    """`each` mutants of every room: `of_kind` of every kind, or as many as there are, then any that remain.

    No two change the same part of a file. The draw depends on the sources and the seed alone.

    Raises:
      SystemExit: a room has fewer mutants.
    """
    drawn = []
    for name, room in rooms.items():
        pool = [(file, mutant) for file in room.sources(tree) for mutant in mutants((tree / file).read_text())]
        random.Random(f"{seed} {name}").shuffle(pool)
        chosen: dict[tuple, tuple[str, Mutant]] = {}  # by file and the part that changes
        for kind in (*KINDS, None):
            most = len(chosen) + of_kind if kind else each
            for file, mutant in pool:
                if len(chosen) < min(most, each) and kind in (mutant.kind, None):
                    chosen.setdefault((file, mutant.span), (file, mutant))
        if len(chosen) < each:
            raise SystemExit(f"The room {name} has only {len(chosen)} mutants; draw fewer of each.")
        drawn += [described(f"{name}-{n:02}", name, *chosen[place]) for n, place in enumerate(sorted(chosen), 1)]
    return drawn


def described(name: str, room: str, file: str, mutant: Mutant) -> dict:
    """The entry of the table for a mutant."""
    fields = {key: value for key, value in dataclasses.asdict(mutant).items() if key not in ("span", "text")}
    return {"id": name, "room": room, "file": file, **fields}


@functools.cache
def _mutants_of(path: Path) -> list[Mutant]:
    return mutants(path.read_text())


def find(tree: Path, wanted: dict, moves: dict) -> tuple[str, Mutant] | None:
    """The file and the mutant of a checkout that an entry of the table means; None where there is none.

    Looked for where the table of moves says, then where it was drawn, then in any function of the package with the
    same name; in each place by kind, expression and replacement, as the table of moves has them for this mutant or as
    they were drawn. Of several equal ones it is the one with the same number, where there are as many as there were,
    or else the only one on a line with the same text. What two files hold is not found.

    Args:
      tree: the checkout.
      wanted: the entry.
      moves: `files` (old path to new), `functions` ("old path::name" to "new path::name") and `mutants` (id to
        what is new of it: `expression` and `replacement`, `occurrence` and `occurrences`, `place`, which is a path
        and a name).
    """
    new = moves.get("mutants", {}).get(wanted["id"], {})
    texts = [(wanted["expression"], wanted["replacement"])]
    if "expression" in new:
        texts.insert(0, (new["expression"], new["replacement"]))
    file, function = wanted["file"], wanted["function"]
    file = moves.get("files", {}).get(file, file)
    moved = new.get("place") or moves.get("functions", {}).get(f"{wanted['file']}::{function}")
    wanted = {**wanted, **{key: new[key] for key in ("occurrence", "occurrences") if key in new}}
    places = [tuple(moved.split("::"))] if moved else []
    places += [(file, function), (wanted["file"], function)]
    for place in places:
        for text in texts:
            if (tree / place[0]).is_file() and (found := _in(tree, *place, wanted, text)):
                return place[0], found
    others = sorted(path.relative_to(tree).as_posix() for path in (tree / PACKAGE).rglob("*.py"))
    for text in texts:
        found = [(other, mutant) for other in others if (mutant := _in(tree, other, function, wanted, text))]
        if len(found) == 1:
            return found[0]
    return None


def _in(tree: Path, file: str, function: str, wanted: dict, texts: tuple[str, str]) -> Mutant | None:
    equal = [
        mutant
        for mutant in _mutants_of((tree / file).resolve())
        if (mutant.function, mutant.kind, mutant.expression, mutant.replacement) == (function, wanted["kind"], *texts)
    ]
    if len(equal) == wanted["occurrences"]:
        return equal[wanted["occurrence"]]
    same = [mutant for mutant in equal if mutant.context == wanted["context"]]
    return same[0] if len(same) == 1 else None
