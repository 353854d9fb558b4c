"""Kills commands, and starts them again: `python benchmarks/kills.py`.

Each trial begins in an empty folder, or with an older output in its place. The command is killed (`kill -9`) one to
three times in a row: after a random share of its CPU time, or before one of its writes (an open, a rename, a removal,
a flush), drawn among all. After each kill its outputs must be whole or absent, or the older ones. Then it runs to its
end, which must be the same in every bit, with no file more or less, as where nothing happened. A trial is a line of
`trials.jsonl` in the folder, so the script can be stopped and goes on; `results/kills.json` has the counts so far.
"""

import argparse
import collections
import functools
import hashlib
import random
import shutil
import signal
from pathlib import Path
from typing import Any

from common import ROOT, save, versions
from killing import process
from killing.subjects import SUBJECTS, Subject, place_old, prepare, snapshot, write_inputs
from mutants import Results

from jaxprefix.paths import cache_folder

SAME, OUTCOMES = "same", ("same", "other bits", "other files", "not whole", "failed")


def trial(
    base: Path, name: str, reference: dict[str, Any], draw: random.Random, row: int | None = None
) -> dict[str, Any]:
    """A trial of as many kills in a row, or of one to three: the kills, how it ended, and what was not the same."""
    subject, work = SUBJECTS[name], base / "work"
    call = functools.partial(subject.call, base)
    _clear(work)
    old = bool(subject.old) and draw.random() < 0.5
    if old:
        place_old(base, subject)
    allowed = [[None, snapshot(work / output), reference["outputs"][output]] for output in subject.outputs]
    kills: list[dict[str, Any]] = []
    for _ in range(draw.randint(1, 3) if row is None else row):
        kill = _kill(call, work, reference, draw, subject)
        if kill is None:  # it ended before
            break
        kills.append(kill)
        for output, whole in zip(subject.outputs, allowed, strict=True):
            if snapshot(work / output) not in (whole[1:] if old else whole):
                return {"kills": kills, "how": "not whole", "why": output}
    ended = process.run(call, work)
    if ended["code"] != 0:
        return {"kills": kills, "how": "failed", "why": f"{ended['code']}: {ended['said'][-500:]}"}
    found, wanted = snapshot(work) or {}, reference["all"]
    if found.keys() != wanted.keys():
        return {"kills": kills, "how": "other files", "why": sorted(found.keys() ^ wanted.keys())[:10]}
    changed = [path for path in wanted if found[path] != wanted[path]]
    return {"kills": kills, "how": "other bits" if changed else SAME, "why": changed[:10]}


def _kill(
    call: Any, work: Path, reference: dict[str, Any], draw: random.Random, subject: Subject
) -> dict[str, Any] | None:
    """A kill, or a pause; None where the command ended before."""
    at = round(draw.uniform(0, reference["cpu"]), 2)
    if subject.pauses:
        return {"kind": "pause", "at": at} if process.run(call, work, pause=at)["paused"] else None
    if draw.random() < 0.5:
        ended = process.run(call, work, seconds=at)
        return {"kind": "random", "at": at} if ended["code"] == -signal.SIGKILL else None
    number = draw.randint(1, reference["writes"])
    ended = process.run(call, work, write=number)
    return {"kind": "aimed", "at": ended["at"]} if ended["code"] == -signal.SIGKILL else None


def reference_of(base: Path, subject: Subject, times: int = 2) -> dict[str, Any]:
    """What a command comes to that nothing happens to: twice, so that what differs by itself is seen."""
    found = []
    for _ in range(times):
        _clear(base / "work")
        ended = process.run(functools.partial(subject.call, base), base / "work")
        if ended["code"] != 0:
            raise SystemExit(f"the command fails by itself ({ended['code']}):\n{ended['said']}")
        found.append(snapshot(base / "work") or {})
    if found[0] != found[-1]:
        different = [path for path in found[0] | found[-1] if found[0].get(path) != found[-1].get(path)]
        raise SystemExit(f"two runs that nothing happened to differ: {different}")
    outputs = {output: snapshot(base / "work" / output) for output in subject.outputs}
    return {"all": found[0], "outputs": outputs, "cpu": ended["cpu"], "writes": ended["writes"]}


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def kills_of(results: Results, name: str) -> int:
    """How many kills of a command the results hold."""
    return sum(len(line["kills"]) for line in results.known.values() if line.get("command") == name)


def run(base: Path, names: list[str], results: Results, seed: int, brief: int | None) -> None:
    """Runs the trials that are missing, or as many kills of each command."""
    write_inputs(base)
    if not (base / "prepared/whole").exists():
        _clear(base / "prepared")
        ended = process.run(functools.partial(prepare, base), base / "prepared")
        if ended["code"] != 0:
            raise SystemExit(f"the preparation fails:\n{ended['said']}")
        (base / "prepared/whole").touch()
    for name in names:
        wanted = SUBJECTS[name].kills if brief is None else brief
        reference, number = None, 0
        while kills_of(results, name) < wanted:
            key = f"{name} {number}"
            if key not in results.known:
                reference = reference or reference_of(base, SUBJECTS[name], 2 if brief is None else 1)
                row = None if brief is None else wanted - kills_of(results, name)
                line = trial(base, name, reference, random.Random(f"{seed} {key}"), row)
                results.add({"id": key, "command": name, **line})
                print(f"{key}: {line['how']} after {len(line['kills'])} kills {line['why'] or ''}", flush=True)
            number += 1


def counted(results: Results) -> dict[str, Any]:
    """The table: by command, trials, kills by kind and as wanted, outcomes, and the writes that were not done."""
    table = {}
    for name, subject in SUBJECTS.items():
        lines = [line for line in results.known.values() if line.get("command") == name]
        kinds = collections.Counter(kill["kind"] for line in lines for kill in line["kills"])
        outcomes = collections.Counter(line["how"] for line in lines)
        aimed = [kill["at"].split(" ")[0] for line in lines for kill in line["kills"] if kill["kind"] == "aimed"]
        table[name] = {
            "wanted": subject.kills,
            "kills": sum(kinds.values()),
            "by_kind": dict(sorted(kinds.items())),
            "before": dict(sorted(collections.Counter(aimed).items())),
            "trials": len(lines),
            "outcomes": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        }
    return table


def sources_digest() -> str:
    """A digest of the package, whose results a file of trials holds."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "jaxprefix").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=cache_folder() / "kills", help="inputs, trials, what they write")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="COMMAND", help="of all")
    parser.add_argument("--brief", type=int, metavar="N", help="N kills of each command in a row, and no table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="write the counts so far, and kill nothing")
    options = parser.parse_args()
    base = options.folder.expanduser().absolute()
    base.mkdir(parents=True, exist_ok=True)
    results = Results(base / "trials.jsonl", {"package": sources_digest(), "seed": options.seed})
    try:
        if not options.table:
            run(base, options.only, results, options.seed, options.brief)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
    if options.brief is None:
        save("kills", {"seed": options.seed, "commands": counted(results)}, versions())


if __name__ == "__main__":
    main()
