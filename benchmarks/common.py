"""What every measurement needs: the machine's kind, workers that take orders, and the file of figures.

The scripts want the package installed (`pip install -e .`), or the repository on PYTHONPATH.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
WORKERS = Path(__file__).resolve().parent / "workers"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "transformers", "torch", "peft")


def machine() -> dict[str, Any]:
    """The kind of machine: processor, cores, memory, system, Python. Nothing that names it."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = lines[0] if lines else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model,
        "cores": cores,
        "memory_gib": round(memory),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of packages; those that are missing are left out. Workers report theirs with it."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line of this process; paths outside the repository are replaced by what they stand for."""
    script = Path(sys.argv[0]).resolve()
    words, before = ["python", str(script.relative_to(ROOT))], ""
    for word in sys.argv[1:]:
        outside = os.path.isabs(word) or word.startswith(("~", ".."))
        name = before.lstrip("-").replace("-", "_").upper() if before.startswith("--") else "FOLDER"
        words.append(name if outside else word)
        before = word
    return " ".join(words)


def save(name: str, figures: dict[str, Any], used: dict[str, str], others: float | None = None) -> Path:
    """Writes `results/<name>.json`.

    Args:
      name: of the result.
      figures: what was measured.
      used: versions of the packages that were measured.
      others: cores that other processes kept busy meanwhile, so that a reader can judge times.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    record = {"command": command(), "date": time.strftime("%Y-%m-%d"), "machine": machine(), "packages": used}
    if others is not None:
        record["others_cores"] = round(others, 2)
    path.write_text(json.dumps({**record, "figures": figures}, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")
    return path


def commit(tree: Path) -> str:
    """The short hash of the commit of a checkout."""
    words = ["git", "-C", str(tree), "rev-parse", "--short=7", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def busy_seconds() -> float | None:
    """Core seconds that all processes of the machine have used since it started; None where that is not told."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    ticks = [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A process that answers every line it is sent with a line of JSON; the first answer comes unasked.

    Lines that do not start with `{` are passed over, since libraries print too.
    """

    def __init__(self, python: str, script: str, *args: Any, environment: dict[str, str] | None = None):
        paths = os.pathsep.join(filter(None, (str(ROOT), str(RESULTS.parent), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [python, str(WORKERS / script), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        )
        self.first = self._read()

    def ask(self, line: str = "go") -> dict[str, Any]:
        """Sends a line and waits for the answer."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the worker {self._process.args[1]} ended with code {self._process.wait()}; see above.")
