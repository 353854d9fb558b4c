"""Runs trials of one gate in this process and prints a line of JSON for each: `python -m tests.fuzzing GATE`."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first trial")
    parser.add_argument("--trials", type=int, default=150)
    parser.add_argument(
        "--folder", help="where the folders of trials are made, and left; a temporary one that is removed"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as own:
        run(options, Path(options.folder or own).resolve())


def run(options: argparse.Namespace, base: Path) -> None:
    """The trials, within a folder; the system's temporary folder is one of these while they run."""
    settle(base)
    from tests.fuzzing.gate import Places, prepare_signals, run_trial
    from tests.fuzzing.gates import make_gate
    from tests.fuzzing.watch import Watch

    names = ("given", "run", "out", "cache", "temporary")
    places = Places(*(base / name for name in names))
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    (base / "fixtures").mkdir(exist_ok=True)
    gate = make_gate(options.gate, base / "fixtures")
    watch = Watch([Path(os.environ["JAX_COMPILATION_CACHE_DIR"])] if "JAX_COMPILATION_CACHE_DIR" in os.environ else [])
    prepare_signals()
    report = os.fdopen(os.dup(1), "w")  # what the product prints goes elsewhere
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print(json.dumps({"gate": gate.name, "first_check": gate.first_check}), file=report, flush=True)
    for number in range(options.start, options.start + options.trials):
        result = run_trial(gate, options.seed, number, places, watch)
        print(json.dumps(result._asdict()), file=report, flush=True)
    report.flush()
    os._exit(0)  # without what libraries do at their end


def settle(base: Path) -> None:
    """What must stand before the package is imported."""
    temporary = base / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ.update(TMPDIR=str(temporary), JAXPREFIX_CACHE=str(base / "cache"), JAX_PLATFORMS="cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    tempfile.tempdir = str(temporary)
    sys.setrecursionlimit(1000)


if __name__ == "__main__":
    main()
