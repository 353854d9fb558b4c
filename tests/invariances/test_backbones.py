"""Each row by itself on BERT, and four methods on every other kind of backbone; see `tests/test_invariances.py`."""

import functools

import pytest

import jaxprefix as jp
from tests.invariances.options import Row
from tests.invariances.table import Table, names, run_row
from tests.test_invariances import BERT

pytestmark = pytest.mark.slow
FOUR = [Row(type(method).__name__, method) for method in (jp.PTuningV2(), jp.AdaptivePrefix(), jp.Inducer(), jp.LoRA())]


@pytest.fixture(scope="module")
def table():
    return functools.cache(Table)


@names(BERT)
def test_on_an_encoder(table, row, record_property):
    run_row(table("bert"), row, record_property, thorough=True)


@names(FOUR)
@pytest.mark.parametrize("backbone", ["gpt2", "llama", "mistral", "roberta"])
def test_on_every_other_backbone(table, backbone, row, record_property):
    run_row(table(backbone), row, record_property, thorough=True)
