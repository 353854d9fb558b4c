"""One tiny adapter folder for the tests of the command line."""

import pytest

from tests.cli.adapters import write_classifier


@pytest.fixture(scope="session")
def adapter(tmp_path_factory, shared_steps):
    """The folder of a text classifier with random leaves, and a cache of this session."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        yield write_classifier(folder / "adapter")
