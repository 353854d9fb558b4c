"""How the processes of a run find one another, without JAX, so that the command line's help and refusals are there
at once."""

import dataclasses
from typing import Literal

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
