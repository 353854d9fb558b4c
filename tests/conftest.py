"""Every test is also a shape test: the package's jaxtyping annotations are checked at run time here, and only here."""

import collections
import gc
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Without byte code on disk, every worker and every process that tests start compiles the package and the tests anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Tests compile many small programs and run each a few times: what makes a program fast costs more than it gives, above
# all LLVM's optimisations and the emitters that write fused loops by way of MLIR.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

# Background jobs of a script and those of `nohup` have signals ignored, and children inherit that; tests send them.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("jaxprefix", "beartype.beartype")

MAPS = Path("/proc/self/maps")
# Files that take longer than their number of tests tells begin first, the longest before the others, so that no worker
# ends long after the rest. What is left goes by that number, as pytest-xdist has it.
FIRST = [
    *("training/test_processes.py", "test_kills.py", "invariances/test_windowed.py", "methods/test_matrix.py"),
    *("training/test_meshes.py", "serving/test_threads.py", "past/test_past.py"),
    *("training/test_population.py", "self_check/test_check.py", "comparison/test_comparing.py"),
    *("training/test_devices.py", "training/test_loop.py", "serving/test_bank.py", "test_examples.py"),
]
MANY = 20_000  # of the 65,530 pieces of memory that Linux lets a process map; every compiled program takes some
SELDOM = 16  # tests between two looks at the list of them, which takes up to 30 ms to read


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file stays with one worker, whatever is asked for: its tests share fixtures and traced programs."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # `pytest_collection_modifyitems` does it
    return LoadFileScheduling(config, log)


@pytest.hookimpl(trylast=True)  # of those that are left once markers have chosen
def pytest_collection_modifyitems(items):
    """The order in which the workers of pytest-xdist take files."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    here, counts = Path(__file__).parent, collections.Counter(item.path for item in items)
    first = {here / name: place for place, name in enumerate(FIRST)}
    slow = any(item.get_closest_marker("slow") for item in items)
    items.sort(key=lambda item: (first.get(item.path, len(FIRST)) if slow else 0, -counts[item.path]))


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look through it again and again.

    Nor need it look often at what a trace makes, which is many objects of which few are garbage before it ends.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """One store of compiled programs for all tests, workers of pytest-xdist, and processes that tests start.

    A program that takes less than `jax_persistent_cache_min_compile_time_secs` is compiled again: to write it and read
    it would take as long. Processes that tests start hear of it by the environment.
    """
    import jax  # after the settings above

    session = tmp_path_factory.getbasetemp()
    session = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session  # what all workers share
    settings = {
        "jax_compilation_cache_dir": str(session / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield


@pytest.fixture(scope="session")
def shared_steps():
    """Runs and adapters share what `tests/shared_steps.py` says; for tests that train."""
    from tests.shared_steps import share  # after the hook above

    with pytest.MonkeyPatch.context() as patch:
        share(patch)
        yield


@pytest.fixture(autouse=True)
def few_programs(tests=itertools.count(1)):  # noqa: B008 (one counter for all tests)
    """Drops compiled programs before a process has so many that the next one could not be mapped."""
    yield
    if next(tests) % SELDOM == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        import jax  # after the settings above

        jax.clear_caches()
        gc.collect()


def pytest_terminal_summary(terminalreporter):
    """How many cells of the table of invariances were computed, and what came of them."""
    outcomes = collections.Counter(
        outcome.split(":")[0].split(" of ")[0]
        for report in terminalreporter.getreports("passed")
        for name, cells in report.user_properties
        if name == "invariances" and report.when == "call"
        for *_, outcome in cells
    )
    if outcomes:
        parts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        terminalreporter.write_line(f"invariances: {outcomes.total()} cells: {parts}")
