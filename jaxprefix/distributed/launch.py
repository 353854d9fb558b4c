"""How the processes of a run find one another, as a command line says it; without JAX, so that help and refusals are
there at once."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Literal

FLAGS = " [--distributed auto|on|off] [--coordinator HOST:PORT --processes N --process I]"
Mode = Literal["auto", "on", "off"]


@dataclasses.dataclass(frozen=True)
class Launch:
    """How the processes of a run find one another.

    Attributes:
      mode: `on`, `off`, or `auto`: where the other fields, the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
        JAX_PROCESS_ID, or a cluster that JAX knows (TPU, SLURM, Open MPI, Kubernetes) name several processes.
      coordinator: `HOST:PORT` of process 0.
      processes: how many there are.
      process: which one this is, from 0 on.
    """

    mode: Mode = "auto"
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def take_launch(args: Sequence[str]) -> tuple[Launch, list[str]]:
    """The launch that arguments of a command line name, and the arguments that are left."""
    parser = argparse.ArgumentParser(prog="jaxprefix train", add_help=False, allow_abbrev=False)
    parser.add_argument("--distributed", dest="mode", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--coordinator", metavar="HOST:PORT")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    options, rest = parser.parse_known_args(args)
    return Launch(**vars(options)), rest
