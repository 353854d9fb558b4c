"""The tiny world of the tests of runs."""

from tests.training.conftest import world  # noqa: F401
