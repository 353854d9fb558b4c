"""One tiny world and one cache folder for all tests of runs in a process."""

import pytest

from tests.training.worlds import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory, shared_steps):
    """A tiny encoder and tiny files; what is cached goes to a folder of this session."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        yield make_world(folder)
