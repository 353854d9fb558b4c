"""Gives random and mutated input to each gate of the package: `python benchmarks/fuzz.py [--trials 2000]`.

A process a gate; the trials are those of `tests/fuzzing`, each of which can be made again alone by its number:
`python -m tests.fuzzing GATE --start NUMBER --trials 1`. What is done is in the results file after every hundred
trials, so that the script can be stopped, and the same command goes on; results of other code are begun anew.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from common import RESULTS, ROOT, save, versions

sys.path.insert(0, str(ROOT))
from tests.fuzzing.gate import FAULTS, SECONDS
from tests.fuzzing.gates import GATES

FILE, EVERY = RESULTS / "fuzz.json", 100


def digest() -> str:
    """Of the code: what the results are of."""
    found = hashlib.sha256()
    for folder in ("jaxprefix", "tests/fuzzing"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def fresh() -> dict[str, Any]:
    """A gate without trials."""
    return {"trials": 0, "past": 0, "outcomes": {}, "seconds": 0.0, "faults": []}


def add(gate: dict[str, Any], result: dict[str, Any]) -> None:
    """Counts a trial."""
    gate["trials"], gate["past"] = gate["trials"] + 1, gate["past"] + result["past"]
    gate["outcomes"] = dict(Counter(gate["outcomes"]) + Counter([result["outcome"]]))
    if result["outcome"] in FAULTS:
        gate["faults"].append(f"trial {result['number']}, {result['outcome']}")
        print(f"{result['number']} {result['outcome']}: {result['said']}", flush=True)


def run(name: str, gate: dict[str, Any], seed: int, trials: int, keep: Any) -> None:
    """The trials of a gate that are left; a process that ends in the midst of one, or does not answer, is a fault."""
    while gate["trials"] < trials:
        start, begun = gate["trials"], time.monotonic()
        command = [sys.executable, "-m", "tests.fuzzing", name, "--seed", str(seed), "--start", str(start)]
        command += ["--trials", str(min(trials - start, EVERY))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
        try:
            for line in process.stdout or ():
                found = json.loads(line)
                if "first_check" in found:
                    gate["first_check"] = found["first_check"]
                else:
                    add(gate, found)
            process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
        gate["seconds"] = round(gate["seconds"] + time.monotonic() - begun, 1)
        if gate["trials"] == start:
            raise SystemExit(f"the gate {name} does not start; run {' '.join(command[1:])}.")
        if gate["trials"] < min(trials, start + EVERY):
            said = f"the process ended with {process.returncode}"
            add(gate, {"number": gate["trials"], "outcome": "no answer", "past": True, "said": said})
        keep()
        print(f"{name}: {gate['trials']} of {trials}, {gate['outcomes']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="of each gate")
    parser.add_argument("--seed", type=int, default=1, help="other than that of the tests, 0")
    parser.add_argument("--only", nargs="*", choices=[*GATES], default=[*GATES], help="gates")
    options = parser.parse_args()
    about = {"seed": options.seed, "code": digest()}
    known = json.loads(FILE.read_text())["figures"] if FILE.exists() else {}
    gates = known["gates"] if known and {key: known[key] for key in about} == about else {}

    def keep() -> None:
        save("fuzz", {**about, "gates": {name: gates[name] for name in GATES if name in gates}}, versions())

    for name in options.only:
        run(name, gates.setdefault(name, fresh()), options.seed, options.trials, keep)
    if any(gate["faults"] for gate in gates.values()):
        raise SystemExit("There are faults; see above, or make their trials again.")


if __name__ == "__main__":
    main()
