"""Versions of the package in interleaved rounds: quickstart, start-up, preprocessing, compilation, step, memory.

    git worktree add BEFORE COMMIT
    python benchmarks/before_after.py BEFORE [EARLIER ...] --rounds 10

In each round every measurement runs once with each version, in an order that rotates; caches are empty and JAX's
compile cache is off. A ratio is this checkout's figure over that of the other version; its interval is that of the
median, by 10,000 bootstrap samples of the rounds. Wall seconds and CPU seconds (of the process and its children) are
both given: CPU seconds decide where the machine was not quiet. It goes on where it was stopped
(results/before_after.partial.jsonl) and writes results/before_after.json.
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
from common import RESULTS, ROOT, WORKERS, commit, save, versions

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


def rows_file(path: Path, rows: int) -> Path:
    """Labelled texts of 3 to 24 words, written once and read by every version."""
    random, words = np.random.default_rng(0), ["tea", "milk", "Karik", "likes", "the", "river", "of", "Norbu"]
    with path.open("w") as file:
        for length in random.integers(3, 25, rows):
            text = " ".join(random.choice(words, length))
            file.write(json.dumps({"text": text, "label": ("good", "bad")[length % 2]}) + "\n")
    return path


def measure(tree: Path, steps: int, texts: Path) -> dict[str, float]:
    """All figures of one version, once."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["train.py", "configs/quickstart.py", "--steps", str(steps), "--folder", f"{folder}/run"]
        _, quickstart = timed([sys.executable, *run], tree, f"{folder}/cache")
        module = "jaxprefix.cli.main" if (tree / "jaxprefix" / "cli" / "main.py").is_file() else "jaxprefix.cli"
        describe = ["-c", f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"]
        _, start_up = timed([sys.executable, *describe, "describe", "configs/quickstart.py"], tree, f"{folder}/cache")
        printed, worker = timed([sys.executable, str(WORKERS / "one_version.py")], tree, f"{folder}/cache")
        preprocess = [sys.executable, str(WORKERS / "preprocess.py"), str(texts), f"{folder}/rows"]
        _, preparing = timed(preprocess, tree, f"{folder}/cache")
    figures = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    return {
        **{f"quickstart {name}": value for name, value in quickstart.items()},
        **{f"describe {name}": value for name, value in start_up.items() if name != "peak_mib"},
        **{f"update {name}": value for name, value in figures.items()},
        "update cpu": worker["cpu"],
        **{f"preprocess {name}": value for name, value in preparing.items()},
    }


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (10_000, len(ratios))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="+", help="checkouts of the versions to compare with")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="updates of the quickstart")
    parser.add_argument("--rows", type=int, default=400_000, help="rows to preprocess")
    options = parser.parse_args()
    trees = {commit(tree): tree.resolve() for tree in options.before} | {"now": ROOT}
    done = [json.loads(line) for line in PARTIAL.read_text().splitlines()] if PARTIAL.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        texts = rows_file(Path(folder) / "rows.jsonl", options.rows)
        for number in range(len(done), options.rounds):
            names = list(trees)
            order = names[number % len(names) :] + names[: number % len(names)]
            done.append({name: measure(trees[name], options.steps, texts) for name in order})
            with PARTIAL.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            print(f"round {number + 1} of {options.rounds}", flush=True)
    figures = {"now": commit(ROOT), "steps": options.steps, "rows": options.rows, "rounds": len(done)}
    figures |= {"load": os.getloadavg()[1], "cpus": len(os.sched_getaffinity(0)), "against": {}}
    for other in list(trees)[:-1]:
        print(f"{'':22} {other:>9} {'now':>9} {'ratio':>6}")
        table = figures["against"][other] = {}
        for name in done[0]["now"]:
            ratios = np.array([row["now"][name] / row[other][name] for row in done])
            low, high = interval(ratios)
            middle = {tree: statistics.median(row[tree][name] for row in done) for tree in (other, "now")}
            table[name] = {"before": middle[other], "now": middle["now"], "ratio": float(np.median(ratios))}
            table[name]["interval"] = [low, high]
            print(f"{name:22} {middle[other]:9.3f} {middle['now']:9.3f} {np.median(ratios):6.3f}", end=" ")
            print(f"({low:.3f} to {high:.3f})")
    save("before_after", figures, versions())
    PARTIAL.unlink()


if __name__ == "__main__":
    main()
