"""Memory of large temporary buffers on Linux CPUs."""

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_large_buffers() -> bool:
    """Lets glibc keep freed memory instead of handing it back to the system; returns whether it could.

    XLA allocates the temporaries of a training step as one buffer of hundreds of megabytes. By default glibc maps it
    anew for every step and the system clears every page of it: a fifth of a step's time on a CPU
    (`benchmarks/step_speed.py` measures it). The process keeps the memory of its largest step until it ends.

    Call it before jax is imported, since it has to precede the threads that allocate. The command line does.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library
    # One arena that is never trimmed and never mapped piecewise: each of the three alone changes nothing.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])
