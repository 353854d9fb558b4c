"""One tiny world and one cache folder for all tests of runs in a process."""

import pytest

from tests.training.worlds import make_world


def cached_world(tmp_path_factory, **sizes):
    """A tiny encoder and tiny files; what is cached goes to a folder of this session."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        yield make_world(folder, **sizes)


@pytest.fixture(scope="session")
def world(tmp_path_factory, shared_steps):
    """Its encoder has one layer: a loop is the same for all of them, and a program compiles in half the time."""
    yield from cached_world(tmp_path_factory, layers=1)


@pytest.fixture(scope="session")
def world_of_two_layers(tmp_path_factory, shared_steps):
    """For tests that compare layers."""
    yield from cached_world(tmp_path_factory)
