"""The README's first command, installation aside: wall time, peak memory, held-out metric beside the head alone.

    python benchmarks/quickstart.py

Runs configs/quickstart.py from an empty cache folder; its baseline, the head alone, is part of the run.
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

CONFIG = "configs/quickstart.py"


def run(extra: list[str]) -> dict[str, Any]:
    """One run of `train.py` from an empty cache: seconds, CPU seconds, peak memory, metrics, the baseline's too."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAXPREFIX_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        busy, started = busy_seconds(), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "train.py", CONFIG, "--folder", f"{folder}/run", *extra], cwd=ROOT, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{CONFIG} ended with code {process.returncode}")
        adapter = Path(folder) / "run" / "adapter"
        found = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mib": round(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)),
            "adapter_kib": round(sum(file.stat().st_size for file in adapter.iterdir()) / 1024),
            "metrics": json.loads((adapter / "metrics.json").read_text()),
            "baseline": json.loads((adapter.parent / "baseline" / "adapter" / "metrics.json").read_text()),
        }
        if busy is not None:
            found["others_cores"] = round((busy_seconds() - busy - found["cpu_seconds"]) / seconds, 2)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, extra = parser.parse_known_args()
    found = run(extra)
    split = "test" if "test" in found["metrics"] else "validation"
    metric = next(iter(found["metrics"][split]))
    values = {"quickstart": found["metrics"][split][metric], "head_only": found["baseline"][split][metric]}
    gap = round(100 * (values["quickstart"] - values["head_only"]), 1)
    figures = {"run": found, "split": split, "metric": metric, "values": values, "gap_points": gap}
    save("quickstart", figures, versions(("jax", "jaxlib", "flax", "transformers")))
    print(figures)


if __name__ == "__main__":
    main()
