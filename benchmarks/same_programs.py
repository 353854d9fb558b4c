"""Whether two versions of the package compute the same, to the bit: every method on an encoder and a decoder.

    git worktree add BEFORE COMMIT
    python benchmarks/same_programs.py BEFORE

Leaves after 20 updates, logits (also of rows padded on the left), temporaries and FLOPs of the compiled update as the
compiler counts them, and its optimized program with metadata and names removed. Prints a table of what differs and
writes results/same_programs.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from common import ROOT, WORKERS, save, versions


def ask(tree: Path, only: list[str]) -> dict[str, dict]:
    """What the worker prints for the package in a checkout, by name."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(WORKERS / "programs.py"), *only]
    output = subprocess.run(command, env=environment, cwd=tree, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row.pop("name"): row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--only", nargs="*", default=[], help="names such as encoder/lora; all of them without it")
    options = parser.parse_args()
    before, now = ask(options.before.resolve(), options.only), ask(ROOT, options.only)
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
    if not options.only:
        save("same_programs", figures, versions())


if __name__ == "__main__":
    main()
