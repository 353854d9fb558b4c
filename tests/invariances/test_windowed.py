"""Each row by itself on a windowed decoder; see `tests/test_invariances.py`."""

import pytest

from tests.invariances.table import Table, names, run_row
from tests.test_invariances import GEMMA


@pytest.fixture(scope="module")
def gemma():
    return Table("gemma3")


@pytest.mark.slow
@names(GEMMA)
def test_on_a_windowed_decoder(gemma, row, record_property):
    run_row(gemma, row, record_property, thorough=True)
