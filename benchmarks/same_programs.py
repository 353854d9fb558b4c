"""Whether two versions of the package compute the same, to the bit: every method on an encoder and a decoder.

    git worktree add BEFORE COMMIT
    python benchmarks/same_programs.py BEFORE

Leaves after 20 updates, logits (also of rows padded on the left), temporaries and FLOPs of the compiled update as the
compiler counts them, and its optimized program with metadata and names removed. Each version takes some fifteen CPU
minutes; what is known is kept under `--folder` by commit, so that the script can be stopped and goes on. Prints a table
of what differs and writes results/same_programs.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import ROOT, WORKERS, save, versions


def ask(tree: Path, folder: Path) -> dict[str, dict]:
    """What the worker prints for the package in a checkout, by name; what is known already is not asked again."""
    state = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty"], check=True, capture_output=True, text=True
    ).stdout.strip()
    kept = folder / f"{state}.jsonl"
    if state.endswith("-dirty"):
        kept.unlink(missing_ok=True)  # it may have been written by other code
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {row.pop("name"): row for row in map(json.loads, lines)}
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(WORKERS / "programs.py"), *known]
    with subprocess.Popen(command, env=environment, cwd=tree, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("{"):
                with kept.open("a") as file:
                    file.write(line)
                row = json.loads(line)
                print(state, row["name"], flush=True)
                known[row.pop("name")] = row
    if worker.returncode:
        raise SystemExit(f"the worker on {state} ended with {worker.returncode}")
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the version to compare with")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "runs" / "same_programs", help="what is known is kept here"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    before, now = ask(options.before.resolve(), options.folder), ask(ROOT, options.folder)
    figures = {"compared": len(now), "missing": sorted(set(before) ^ set(now)), "different": {}}
    for name in before.keys() & now.keys():
        different = {
            key: (value, now[name][key])
            for key, value in before[name].items()
            if now[name][key] != value and key != "loss"
        }
        if different:
            figures["different"][name] = different
    for name, different in sorted(figures["different"].items()):
        print(f"{name:40} {', '.join(different)}")
    print(f"{figures['compared']} compared, {len(figures['different'])} with a difference")
    save("same_programs", figures, versions())


if __name__ == "__main__":
    main()
