"""One tiny world, one cache folder and one store of compiled programs for all tests of runs."""

import os

import jax
import pytest

from tests.training.worlds import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny encoder and tiny files; what is cached goes to a folder of this session.

    Most runs compile the same few programs; keeping them, however quickly they were compiled, halves the time.
    """
    folder = tmp_path_factory.mktemp("world")
    session = tmp_path_factory.getbasetemp()
    session = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session  # what all workers share
    settings = {
        "jax_compilation_cache_dir": str(session / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        for name, value in settings.items():
            jax.config.update(name, value)
        yield make_world(folder)
        for name, value in before.items():
            jax.config.update(name, value)
