"""The README's first command, installation aside: wall time, peak memory, held-out metric beside the head alone.

    python benchmarks/quickstart.py

Runs configs/quickstart.py and the same with `HeadOnly`, each as a command of its own from an empty cache folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, busy_seconds, save, versions

CONFIGS = {"quickstart": "configs/quickstart.py", "head_only": "benchmarks/quickstart_head_only.py"}


def run(config: str, extra: list[str]) -> dict[str, Any]:
    """One run of `train.py` from an empty cache: seconds, CPU seconds, peak memory, metrics by split."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAXPREFIX_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        busy, started = busy_seconds(), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "train.py", config, "--folder", f"{folder}/run", *extra], cwd=ROOT, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{config} ended with code {process.returncode}")
        adapter = Path(folder) / "run" / "adapter"
        found = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mib": round(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)),
            "adapter_kib": round(sum(file.stat().st_size for file in adapter.iterdir()) / 1024),
            "metrics": json.loads((adapter / "metrics.json").read_text()),
        }
        if busy is not None:
            found["others_cores"] = round((busy_seconds() - busy - found["cpu_seconds"]) / seconds, 2)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, extra = parser.parse_known_args()
    runs = {}
    for name, config in CONFIGS.items():
        runs[name] = run(config, extra)
        print(name, runs[name], flush=True)
    split = "test" if "test" in runs["quickstart"]["metrics"] else "validation"
    values = {name: next(iter(found["metrics"][split].values())) for name, found in runs.items()}
    figures = {
        "runs": runs,
        "split": split,
        "metric": next(iter(runs["quickstart"]["metrics"][split])),
        "values": values,
        "gap_points": round(100 * (values["quickstart"] - values["head_only"]), 1),
    }
    save("quickstart", figures, versions(("jax", "jaxlib", "flax", "transformers")))
    print({"values": values, "gap_points": figures["gap_points"]})


if __name__ == "__main__":
    main()
