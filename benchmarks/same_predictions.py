"""Whether adapters of every sort answer the same in two versions of the package, to the bit.

    git worktree add BEFORE COMMIT
    python benchmarks/same_predictions.py BEFORE

The adapters are those of `tests/past`, written at commit 0f4559f: labels with their scores, tags, generated texts.
Prints which differ and by how much, and writes results/same_predictions.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import ROOT, WORKERS, commit, save, versions


def ask(tree: Path) -> dict[str, Any]:
    """What every adapter answers with the package in a checkout, by the adapter's name."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(WORKERS / "predictions.py"), str(ROOT / "tests" / "past")]
    output = subprocess.run(command, env=environment, cwd=tree, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["name"]: row["answers"] for row in rows}


def numbers(answers: Any) -> Iterator[float]:
    """Every number in answers, in their order."""
    if isinstance(answers, float):
        yield answers
    for item in answers.values() if isinstance(answers, dict) else answers if isinstance(answers, list) else ():
        yield from numbers(item)


def words(answers: Any) -> Any:
    """Answers without their numbers."""
    if isinstance(answers, dict):
        return {key: words(value) for key, value in answers.items()}
    return (
        [words(item) for item in answers]
        if isinstance(answers, list)
        else (None if isinstance(answers, float) else answers)
    )


def difference(before: Any, now: Any) -> float | None:
    """The largest difference of a score; None where a label, a tag or a text differs."""
    if words(before) != words(now):
        return None
    return max((abs(a - b) for a, b in zip(numbers(before), numbers(now), strict=True)), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the version to compare with")
    options = parser.parse_args()
    before, now = ask(options.before.resolve()), ask(ROOT)
    different = {name: difference(before[name], now[name]) for name in now if before[name] != now[name]}
    for name, by in different.items():
        print(f"{name:28} {'another answer' if by is None else f'scores differ by at most {by:.2g}'}")
    asked = sum(answers is not None for answers in now.values())
    print(f"{asked} adapters asked, {len(different)} with a difference")
    save("same_predictions", {"before": commit(options.before), "asked": asked, "different": different}, versions())


if __name__ == "__main__":
    main()
