"""Shows which small faults the tests notice: `python benchmarks/mutants.py --results FILE [--tree DIR]`.

Sixty mutants (`mutation/kinds.py`) are drawn by a seed: ten from each of six rooms, of these two of every kind where
the room has as many, then any that remain. They lie in `mutants.json`, and `mutants_moves.json` says where their code
has gone since. Each is put into a temporary copy of a checkout, and the quick tests of its room, and those named after
its file where that lies in another room now, run on it until one fails, within 120 CPU seconds. docs/testing.md says
how to read the results.
"""

import argparse
import dataclasses
import hashlib
import json
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from mutation.find import Room, described, draw, find
from mutation.report import compared, table
from mutation.run import Copy, Outcome
from mutation.syntax import mutants

HERE = Path(__file__).resolve().parent
DRAWN, MOVES = HERE / "mutants.json", HERE / "mutants_moves.json"
LIMIT, QUICK = 120.0, 60.0  # CPU seconds of a run; of unmutated code whose mutant hangs if it reaches the limit

ROOMS = {
    "attention": Room(("jaxprefix/attention",), ("tests/attention",)),
    "edits": Room(
        ("jaxprefix/edits.py", "jaxprefix/hooks.py", "jaxprefix/edits"), ("tests/test_edits.py", "tests/edits")
    ),
    "methods": Room(("jaxprefix/methods",), ("tests/methods",)),
    "training": Room(("jaxprefix/training/optimizer.py",), ("tests/training",)),
    "data": Room(
        tuple(f"jaxprefix/data/{name}.py" for name in ("batches", "packing", "masking", "causal", "examples")),
        ("tests/data",),
    ),
    "checkpoints": Room(("jaxprefix/checkpoints",), ("tests/checkpoints",)),
}
DESELECTED = ("tests/data/test_batches.py::test_a_batch_is_made_quickly",)  # it compares times, so load decides it


def judged(outcome: Outcome, unmutated: dict) -> tuple[bool, str]:
    """Whether a mutant was killed, and how its run ended: failed, crashed, hung, cut off, waited or passed.

    A run has `waited` if the limit of seconds ended it, below that of CPU seconds.

    Raises:
      SystemExit: no test was selected.
    """
    if outcome.code == 5:
        raise SystemExit("The selection has no tests; name the room's tests in ROOMS.")
    if outcome.code is None:
        hung = unmutated["code"] == 0 and unmutated["cpu"] <= QUICK
        return hung, "hung" if hung else "cut off" if outcome.cpu >= LIMIT else "waited"
    if outcome.code == 0:
        return False, "passed"
    return True, "crashed" if outcome.code < 0 else "failed"


def in_order(tree: Path, files: list[str], file: str, function: str) -> list[str]:
    """Direct tests first: files named after the mutated one, then those that mention it and its function most often."""
    stem = Path(file).stem
    words = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in {stem, *function.split(".")} - {""}))
    mentions = {test: len(words.findall((tree / test).read_text())) for test in files}
    return sorted(files, key=lambda test: (stem not in Path(test).stem, -mentions[test], test))


class Results:
    """A file of one JSON value a line, each written when it is known; the last one of a name counts."""

    def __init__(self, path: Path, about: dict):
        """Opens a file to go on with, or begins one.

        Raises:
          SystemExit: the file holds results of another checkout, table or limit.
        """
        self._path, self._lock = path, threading.Lock()
        known = read(path) if path.exists() else {}
        if known and known["about"] != {"id": "about", **about}:
            raise SystemExit(f"{path} holds other results ({known['about']}); name another file.")
        self.known = known
        if known and not path.read_bytes().endswith(b"\n"):
            path.write_bytes(path.read_bytes() + b"\n")  # so that a line cut off spoils no other
        if not known:
            self.add({"id": "about", **about})

    def add(self, line: dict) -> None:
        """Appends a line."""
        with self._lock, open(self._path, "a") as file:
            file.write(json.dumps(line) + "\n")
            self.known[line["id"]] = line


def read(path: Path) -> dict[str, dict]:
    """The lines of a results file by id; a last line that was cut off is left out."""
    lines = {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines[line["id"]] = line
    return lines


def run(
    tree: Path, drawn: list[dict], moves: dict, results: Results, jobs: int, processes: int, again: bool = False
) -> None:
    """Runs what the results do not hold yet, with `again` also what has waited; ends at once on KeyboardInterrupt."""
    work: queue.SimpleQueue[Callable[[Copy], None]] = queue.SimpleQueue()
    stop, failures = threading.Event(), []

    def unmutated(copy: Copy, room: str) -> None:
        outcome = copy.test(ROOMS[room].test_files(tree), DESELECTED, LIMIT, stop, processes)
        if outcome.code not in (0, None):
            raise SystemExit(f"The unmutated code fails in the room {room}: {outcome.first}\n{outcome.tail}")
        results.add({"id": f"unmutated-{room}", **measured(outcome)})

    def mutated(copy: Copy, wanted: dict) -> None:
        found = find(tree, wanted, moves)
        if found is None:
            results.add({"id": wanted["id"], "how": "not found"})
            print(
                f"{wanted['id']} is not found: {wanted['file']}::{wanted['function']} {wanted['expression']}",
                flush=True,
            )
            return
        file, mutant = found
        source = (tree / file).read_text()
        named = [str(path.relative_to(tree)) for path in tree.glob(f"tests/**/test_{Path(file).stem}.py")]
        tests = list(dict.fromkeys([*named, *ROOMS[wanted["room"]].test_files(tree)]))
        tests = in_order(tree, tests, file, mutant.function)
        copy.write(file, mutant.apply(source))
        try:
            outcome = copy.test(tests, DESELECTED, LIMIT, stop, processes)
        finally:
            copy.write(file, source)
        killed, how = judged(outcome, results.known[f"unmutated-{wanted['room']}"])
        results.add({"id": wanted["id"], "killed": killed, "how": how, "file": file, **measured(outcome)})
        print(
            f"{wanted['id']} {'killed' if killed else 'SURVIVED'} ({how}, {outcome.cpu:.0f} s) {outcome.first}",
            flush=True,
        )

    def worker() -> None:
        copy = Copy(tree)
        try:
            while not stop.is_set():
                work.get_nowait()(copy)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)
            stop.set()
        finally:
            copy.close()

    def everywhere(tasks: list[Callable[[Copy], None]]) -> None:
        for task in tasks:
            work.put(task)
        threads = [threading.Thread(target=worker) for _ in range(min(jobs, len(tasks)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            stopped = stop.is_set()
            stop.set()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        if not stopped:
            stop.clear()

    rooms = [room for room in ROOMS if any(wanted["room"] == room for wanted in drawn)]
    left = [
        room
        for room in rooms
        if (line := results.known.get(f"unmutated-{room}")) is None
        or (again and line["code"] is None and line["cpu"] < LIMIT)
    ]
    everywhere([lambda copy, room=room: unmutated(copy, room) for room in left])
    open_states = {None, "not found", *(["waited"] if again else [])}
    left = [wanted for wanted in drawn if results.known.get(wanted["id"], {}).get("how") in open_states]
    everywhere([lambda copy, wanted=wanted: mutated(copy, wanted) for wanted in left])


def measured(outcome: Outcome) -> dict:
    """What is kept of a run: all but its output."""
    return {name: value for name, value in dataclasses.asdict(outcome).items() if name != "tail"}


def commit_of(tree: Path) -> str:
    """The commit of a checkout, marked if files differ from it; "" where git knows none."""
    said = subprocess.run(
        ["git", "-C", tree, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True
    )
    return said.stdout.strip() if (tree / ".git").exists() else ""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="checkout whose code and tests run; this one")
    parser.add_argument("--results", type=Path, help="file of results, one JSON line each; goes on where it ended")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("-n", type=int, default=0, help="processes of a test run (pytest-xdist); 0 for none beside it")
    parser.add_argument("--only", nargs="*", default=[], help="ids or rooms; all")
    parser.add_argument("--again", action="store_true", help="run once more what the limit of seconds ended")
    parser.add_argument("--list", action="store_true", help="print all mutants of the rooms, and run nothing")
    parser.add_argument("--find", action="store_true", help="print which drawn mutants are not found, and run nothing")
    parser.add_argument(
        "--draw", type=int, metavar="SEED", help="draw sixty mutants into mutants.json, and run nothing"
    )
    parser.add_argument("--report", type=Path, nargs=2, metavar=("OLD", "NEW"), help="print two results as markdown")
    options = parser.parse_args()
    tree = options.tree.resolve()

    if options.list:
        for name, room in ROOMS.items():
            for file in room.sources(tree):
                for number, mutant in enumerate(mutants((tree / file).read_text())):
                    print(json.dumps(described(f"{name}:{file}:{number}", name, file, mutant)))
        return
    if options.draw is not None:
        chosen = {"seed": options.draw, "commit": commit_of(tree), "mutants": draw(tree, ROOMS, options.draw)}
        DRAWN.write_text(json.dumps(chosen, indent=1) + "\n")
        return

    content, moves = DRAWN.read_bytes(), json.loads(MOVES.read_text())
    drawn = json.loads(content)["mutants"]
    if options.report:
        print(compared(drawn, *map(read, options.report), moves.get("reasons", {})))
        return
    drawn = [wanted for wanted in drawn if not options.only or {wanted["id"], wanted["room"]} & set(options.only)]
    if options.find:
        missing = [wanted for wanted in drawn if find(tree, wanted, moves) is None]
        for wanted in missing:
            print(f"{wanted['id']} {wanted['file']}::{wanted['function']} {wanted['expression']}")
        raise SystemExit(1 if missing else 0)
    if options.results is None:
        parser.error("--results is missing: the file that results are written to")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    digest = hashlib.sha256(content).hexdigest()[:12]
    results = Results(
        options.results, {"commit": commit_of(tree), "table": digest, "limit": LIMIT, "processes": options.n}
    )
    try:
        run(tree, drawn, moves, results, options.jobs, options.n, options.again)
    except KeyboardInterrupt:
        raise SystemExit("Stopped; the same command goes on.") from None
    print(table(drawn, results.known))
    if any(results.known[wanted["id"]]["how"] == "not found" for wanted in drawn):
        raise SystemExit("Some mutants were not found; say in mutants_moves.json where their code is now.")


if __name__ == "__main__":
    main()
