"""Runs of several processes on this machine, each with its share of four CPU devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
QUICK = {"HEARTBEAT_SECONDS": 5, "START_SECONDS": 60, "LINGER_SECONDS": 2}


class Several:
    """Starts `jaxprefix train` in 1, 2 or 4 processes, by way of `forked.py`."""

    def __init__(self, cache: Path):
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAXPREFIX_CACHE": str(cache),
        }
        command = [sys.executable, "-m", "tests.training.forked"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
        )

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(30)

    def __call__(
        self,
        config: str | list[str],
        processes: int,
        logs: Path,
        moments: dict[int, tuple[str, int]] | None = None,
        **settings: Any,
    ) -> tuple[list[int], list[str], float]:
        """One run.

        Args:
          config: the config file; or one for each process.
          processes: how many; each has `4 / processes` devices.
          logs: folder for what they print.
          moments: what happens to a process, and at which call; see `MOMENTS`.
          settings: constants of `processes.py` in the place of `QUICK`'s.

        Returns:
          Exit codes, what was printed, and the seconds from the first end to the last.
        """
        configs = [config] * processes if isinstance(config, str) else config
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        found = [str(logs / f"log-{process}") for process in range(processes)]
        requests = []
        for process in range(processes):
            joined = ["--coordinator", address, "--processes", str(processes), "--process", str(process)]
            moment, number = (moments or {}).get(process, ("never", 0))
            requests.append(
                {
                    "args": ["train", configs[process], *(joined if processes > 1 else [])],
                    "log": found[process],
                    "devices": 4 // processes,
                    "moment": moment,
                    "number": number,
                    "settings": {**QUICK, **settings},
                }
            )
        self._server.stdin.write(json.dumps(requests) + "\n")
        self._server.stdin.flush()
        codes, seconds = json.loads(self._server.stdout.readline())
        return codes, [Path(log).read_text() for log in found], seconds
