"""Invariances as one table: a row for every method and every value of its options that changes the program
(`tests/invariances/options.py`), a column for every way to compute the same (`tests/invariances/cells.py`).

Here every row meets every column on a windowed decoder, and what only an encoder takes on BERT, in few programs: a row
of each method in one sum. The slow tests compute each row by itself, on both, and four methods on the other backbones
(`tests/invariances`). Outcomes are `holds`, `refused:` with a sentence that is expected, `the program of` another row,
letter by letter, or that of `legacy_mask`, which differs by its docstring.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import pytest

import jaxprefix as jp
from jaxprefix.attention import MaskStructure
from tests.invariances import options
from tests.invariances.subjects import module_of
from tests.invariances.table import Table, expected_refusal, run_group, run_row, unchecked

with unchecked():
    GEMMA = options.rows(module_of("gemma3").dims)
    BERT = options.rows(module_of("bert").dims)


def refused(name, row):
    """Whether a row is refused as a whole, and whether its packed rows are."""
    batch, packed = (row.method and expected_refusal(name, row.method, column) for column in ("batch", "packed"))
    return row.refusal is not None or batch is not None, packed is not None


def kept_apart(row):
    return refused("gemma3", row)[1], getattr(row.method, "legacy_mask", False)


with unchecked():
    ON_GEMMA = [row for row in GEMMA if not refused("gemma3", row)[0]]
    NAMES = {row.name for row in ON_GEMMA}
    ON_BERT = [row for row in BERT if row.name not in NAMES and not refused("bert", row)[0]]
    GROUPS, BERT_GROUPS = (options.grouped(rows, kept_apart) for rows in (ON_GEMMA, ON_BERT))


def parameters(groups):
    return pytest.mark.parametrize("group", groups, ids=[f"{len(group)} rows, {group[0].name}" for group in groups])


@pytest.fixture(scope="module")
def gemma():
    return Table("gemma3")


@parameters(GROUPS)
def test_on_a_windowed_decoder(gemma, group, record_property):
    run_group(gemma, group, record_property)


@parameters(BERT_GROUPS)
def test_what_only_an_encoder_takes(group, record_property):
    run_group(Table("bert"), group, record_property)


@pytest.mark.parametrize("row", [row for row in GEMMA if row.name not in NAMES], ids=lambda row: row.name)
def test_refused_on_a_decoder(gemma, row, record_property):
    run_row(gemma, row, record_property)


def test_a_new_field_is_a_new_row():
    """Of every kind of annotation that methods have, listed without an edit."""

    @dataclasses.dataclass(frozen=True)
    class Longer(jp.PTuningV2):
        mode: Literal["a", "b", "c"] = "b"
        flag: bool = False
        factor: float | None = None

    found = {row.name for row in options.rows_of(Longer, module_of("gemma3").dims)}
    before = {row.name.replace("PTuningV2", "Longer") for row in GEMMA if row.name.startswith("PTuningV2(")}
    assert found - before == {"Longer(mode='a')", "Longer(mode='c')", "Longer(flag=True)", "Longer(factor=0.5)"}
    assert before < found


def test_a_fault_is_seen(monkeypatch):
    """Were columns counted in place of the row's own tokens, a prefix would leave a window too early behind padding."""
    (row,) = (row for row in GEMMA if row.name == "PTuningV2(subject_to_window=True)")
    monkeypatch.setattr(MaskStructure, "first", property(lambda self: jnp.zeros(1, jnp.int32)))
    with pytest.raises(AssertionError, match="batch: hidden differ by"):
        Table("gemma3").row(row)
