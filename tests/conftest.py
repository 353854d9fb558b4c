"""Every test is also a shape test: the package's jaxtyping annotations are checked at run time here, and only here."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile many tiny programs and run each a few times: LLVM's optimisations cost more than they give.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

from jaxtyping import install_import_hook

install_import_hook("jaxprefix", "beartype.beartype")

MAPS = Path("/proc/self/maps")
MANY = 20_000  # of the 65,530 pieces of memory that Linux lets a process map; every compiled program takes some


@pytest.fixture(autouse=True)
def few_programs():
    """Drops compiled programs before a process has so many that the next one could not be mapped."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        import jax  # after the settings above

        jax.clear_caches()
        gc.collect()
