"""Two versions of the package in interleaved pairs: quickstart, start-up, compilation, step, memory.

    git worktree add BEFORE COMMIT
    python benchmarks/before_after.py BEFORE --pairs 10

In each pair every measurement runs once with either version, the order alternating; caches are empty and JAX's compile
cache is off. A ratio is now over before; its interval is that of the median, by 10,000 bootstrap samples of the pairs.
Wall seconds and CPU seconds (of the process and its children) are both given: CPU seconds decide where the machine was
not quiet. It goes on where it was stopped (results/before_after.partial.jsonl) and writes results/before_after.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import RESULTS, ROOT, WORKERS, save, versions

PARTIAL = RESULTS / "before_after.partial.jsonl"


def timed(command: list[str], tree: Path, cache: str) -> tuple[str, dict[str, float]]:
    """What a command prints, with its wall seconds, its CPU seconds and its peak memory in MiB."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment = {**kept, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu", "JAXPREFIX_CACHE": cache}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}.")
    seconds = time.perf_counter() - started
    return printed, {"wall": seconds, "cpu": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}


def measure(tree: Path, steps: int) -> dict[str, float]:
    """All figures of one version, once."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["train.py", "configs/quickstart.py", "--steps", str(steps), "--folder", f"{folder}/run"]
        _, quickstart = timed([sys.executable, *run], tree, f"{folder}/cache")
        describe = [
            sys.executable,
            "-c",
            "import sys; from jaxprefix.cli.main import main; sys.exit(main(sys.argv[1:]))",
        ]
        if not (tree / "jaxprefix" / "cli" / "main.py").is_file():
            describe[2] = describe[2].replace("jaxprefix.cli.main", "jaxprefix.cli")
        _, start_up = timed([*describe, "describe", "configs/quickstart.py"], tree, f"{folder}/cache")
        printed, worker = timed([sys.executable, str(WORKERS / "one_version.py")], tree, f"{folder}/cache")
    figures = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    return {
        **{f"quickstart {name}": value for name, value in quickstart.items()},
        **{f"describe {name}": value for name, value in start_up.items() if name != "peak_mib"},
        **{f"update {name}": value for name, value in figures.items()},
        "update cpu": worker["cpu"],
    }


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (10_000, len(ratios))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="updates of the quickstart")
    options = parser.parse_args()
    trees = {"before": options.before.resolve(), "now": ROOT}
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    for pair in range(len(done), options.pairs):
        order = ("before", "now") if pair % 2 == 0 else ("now", "before")
        done.append({name: measure(trees[name], options.steps) for name in order})
        with PARTIAL.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(f"pair {pair + 1} of {options.pairs}", flush=True)
    figures = {"steps": options.steps, "pairs": len(done), "load": os.getloadavg()[1]}
    for name in done[0]["now"]:
        ratios = np.array([pair["now"][name] / pair["before"][name] for pair in done])
        low, high = interval(ratios)
        figures[name] = {
            "before": statistics.median(pair["before"][name] for pair in done),
            "now": statistics.median(pair["now"][name] for pair in done),
            "ratio": float(np.median(ratios)),
            "interval": [low, high],
        }
        print(f"{name:22} {figures[name]['before']:9.3f} {figures[name]['now']:9.3f} {np.median(ratios):6.3f}", end=" ")
        print(f"({low:.3f} to {high:.3f})")
    save("before_after", figures, versions())
    PARTIAL.unlink()


if __name__ == "__main__":
    main()
