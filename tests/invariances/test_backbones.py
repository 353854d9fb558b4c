"""All rows on BERT, in sums, and four methods on every other kind of backbone; see `tests/test_invariances.py`."""

import functools

import pytest

import jaxprefix as jp
from tests.invariances.options import Row, grouped
from tests.invariances.table import Table, names, run_group, run_row, unchecked
from tests.test_invariances import BERT, parameters, refused

pytestmark = pytest.mark.slow
FOUR = [Row(type(method).__name__, method) for method in (jp.PTuningV2(), jp.AdaptivePrefix(), jp.Inducer(), jp.LoRA())]


@pytest.fixture(scope="module")
def table():
    return functools.cache(Table)


with unchecked():
    TAKEN = [row for row in BERT if not refused("bert", row)[0]]
    GROUPS = grouped(TAKEN, lambda row: getattr(row.method, "legacy_mask", False))


@parameters(GROUPS)
def test_on_an_encoder(table, group, record_property):
    run_group(table("bert"), group, record_property)


@names([row for row in BERT if row not in TAKEN])
def test_refused_on_an_encoder(table, row, record_property):
    run_row(table("bert"), row, record_property)


@names(FOUR)
@pytest.mark.parametrize("backbone", ["gpt2", "llama", "mistral", "roberta"])
def test_on_every_other_backbone(table, backbone, row, record_property):
    run_row(table(backbone), row, record_property, thorough=True)
