"""Time to import, and from a command to its first finished step with a cold and a warm compilation cache.

    python benchmarks/start_up.py configs/quickstart.py

Imports run in fresh processes, the smallest of several counts. For the first step the command `python train.py CONFIG`
runs with `--steps 1` until the line of step 1 stands in its metrics.jsonl: twice with the same empty cache folder
(JAXPREFIX_CACHE: compiled programs, tokens, fingerprints, the prepared data set), each time in a fresh run folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, busy_seconds, save, versions

IMPORTS = {
    "python": "pass",
    "import jaxprefix": "import jaxprefix",
    "import jax": "import jax",
    "every public name": "import jaxprefix\nfor name in jaxprefix.__all__: getattr(jaxprefix, name)",
}


def import_seconds(code: str, times: int) -> float:
    """The smallest wall time of a fresh process that runs `code`."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        found.append(time.perf_counter() - started)
    return min(found)


def first_step_seconds(config: str, extra: list[str], cache: str, limit: float) -> float:
    """From the command to the line of step 1 in metrics.jsonl."""
    with tempfile.TemporaryDirectory() as folder:
        metrics, log = Path(folder) / "run" / "metrics.jsonl", Path(folder) / "log"
        words = [sys.executable, "train.py", config, "--steps", "1", "--log-every", "1", "--folder", f"{folder}/run"]
        started = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(
                [*words, *extra], cwd=ROOT, env={**os.environ, "JAXPREFIX_CACHE": cache}, stdout=output, stderr=output
            )
            while not (metrics.exists() and metrics.read_text().endswith("\n")):
                if process.poll() is not None or time.perf_counter() - started > limit:
                    process.kill()
                    raise SystemExit(f"no step was finished:\n{log.read_text()}")
                time.sleep(0.02)
            seconds = time.perf_counter() - started
            process.wait()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="configs/quickstart.py")
    parser.add_argument("--times", type=int, default=5, help="fresh processes for each import")
    parser.add_argument("--warm", type=int, default=2, help="runs with the warm cache; the smallest counts")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which a run has failed")
    options, extra = parser.parse_known_args()
    busy, started = busy_seconds(), time.perf_counter()
    own = os.times()
    imports = {name: round(import_seconds(code, options.times), 3) for name, code in IMPORTS.items()}
    print(imports, flush=True)
    with tempfile.TemporaryDirectory() as cache:
        cold = first_step_seconds(options.config, extra, cache, options.limit)
        print("cold", cold, flush=True)
        warm = min(first_step_seconds(options.config, extra, cache, options.limit) for _ in range(options.warm))
        print("warm", warm, flush=True)
    figures = {
        "imports": imports,
        "first_step": {"cold_seconds": round(cold, 2), "warm_seconds": round(warm, 2), "warm_runs": options.warm},
        "times": options.times,
    }
    others = None
    if busy is not None:
        now = os.times()
        used = now.children_user + now.children_system - own.children_user - own.children_system
        others = max(0.0, busy_seconds() - busy - used) / (time.perf_counter() - started)
    save("start_up", figures, versions(("jax", "jaxlib", "flax", "transformers")), others)


if __name__ == "__main__":
    main()
