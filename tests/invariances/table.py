"""A row of the table: all its cells, each computed, refused by a known sentence, or known to differ."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from tests.invariances import cells
from tests.invariances.options import Row, summed
from tests.invariances.subjects import Subject, module_of, subject

WITHOUT_BIASES = ("gemma3", "llama", "mistral")
ALONE, PADDED = ("batch", "left", "right"), ("capture", "op by op", "float64")  # what `legacy_mask` changes


def expected_refusal(name: str, method: jp.Method, column: str) -> str | None:
    """The sentence by which a cell is refused, None for those that must hold."""
    dims, parts = module_of(name).dims, [getattr(part, "method", part) for part in jp.parts_of(method)]
    whole = {
        "reads tokens that a causal model has not seen yet": dims.causal
        and any(getattr(part, "gate_source", None) == "mean" for part in parts),
        "is for encoders; set legacy_mask=False": dims.causal and any(getattr(p, "legacy_mask", False) for p in parts),
        "are rows of a decoder's vocabulary": not dims.causal and any(isinstance(p, jp.NewTokens) for p in parts),
        "trains the biases of a backbone, and this one has none": name in WITHOUT_BIASES
        and any(isinstance(part, jp.BitFit) for part in parts),
        "trains no leaf, nor does a head": dims.causal and method == jp.HeadOnly(),
    }
    packed = {
        "an encoder reads one example per row": not dims.causal,
        "embedding-level prompt and cached decoding need one example per row": any(
            isinstance(part, jp.PromptTuning) for part in parts
        ),
        "a prefix that leaves the window needs one example per row": any(
            getattr(part, "subject_to_window", False) for part in parts
        )
        and getattr(module_of(name).config, "window", None) is not None,
    }
    steps = {"text is made by a decoder": not dims.causal}
    known = whole | {"packed": packed, "steps": steps}.get(column, {})
    return next((sentence for sentence, holds in known.items() if holds), None)


@functools.cache
def unchanged(name: str) -> np.ndarray:
    """Hidden states of the followed text, behind padding, on the backbone as it is."""
    one = subject(name, jp.LoRA())
    bare = Subject(name, jp.TunedModel(one.model.backbone, jp.HeadOnly()), {}, one.frozen)
    out = cells.Computed(bare, cells.Seen(np.zeros(0), np.zeros(0))).forward(cells.mixed(bare))
    return np.asarray(out.hidden[cells.RIGHT, : cells.LENGTH])


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Without the shape checks of annotations, which take half the time; all other tests have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class Table:
    """The cells of a backbone, and the programs that were computed for them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.programs: dict[str, str] = {}  # the row that each belongs to
        self.in_training: dict[str, str] = {}

    def row(self, row: Row, thorough: bool = False) -> list[list[str]]:
        """Computes a row's cells: `[backbone, row, column, outcome]` each; `thorough` compares jitted float32 too."""
        with unchecked():
            return [[self.name, row.name, column, found] for column, found in self._outcomes(row, thorough).items()]

    def _outcomes(self, row: Row, thorough: bool) -> dict[str, str]:
        try:
            if row.method is None or row.refusal is not None:
                raise UserError(row.refusal)
            one = subject(self.name, row.method)
        except UserError as error:
            return {column: self._refused(row, column, str(error)) for column in cells.COLUMNS}
        program, run = cells.alone(one)
        if program in self.programs:
            if thorough:
                self._train(row.name, one)
            return dict.fromkeys(cells.COLUMNS, f"the program of {self.programs[program]}")
        self.programs[program] = row.name
        computed = cells.Computed(one, run())
        differs = getattr(row.method, "legacy_mask", False)
        found = {column: self._cell(row, column, computed, differs) for column in cells.COLUMNS}
        if thorough:
            cells.check_jitted(computed)
            self._train(row.name, one)
        if not isinstance(row.method, jp.HeadOnly):
            hidden = np.asarray(computed.mixed().hidden[cells.RIGHT, : cells.LENGTH])
            assert not np.abs(hidden - unchanged(self.name)).max() < 0.05 * hidden.std(), "the method does nothing"
        return found

    def _cell(self, row: Row, column: str, computed: cells.Computed, differs: bool) -> str:
        try:
            cells.CHECKS[column](computed)
        except UserError as error:
            return self._refused(row, column, str(error))
        except cells.Differs as error:
            if differs and column in ALONE:
                return "differs by the padding, as documented"
            if differs and column in PADDED:
                cells.check_as_padded(computed)
                return "holds"
            raise AssertionError(f"{row.name}, {column}: {error}") from None
        assert expected_refusal(self.name, row.method, column) is None, f"{row.name}, {column} is no longer refused"
        assert not (differs and column in ALONE), (
            "legacy_mask does not depend on padding, although its docstring says so"
        )
        return "holds"

    def _refused(self, row: Row, column: str, said: str) -> str:
        known = None if row.method is None else expected_refusal(self.name, row.method, column)
        assert known is not None and known in said, f"{row.name}, {column} is refused: {said}"
        return f"refused: {said}"

    def _train(self, name: str, one: Subject) -> None:
        program, run = cells.training(one)
        if program not in self.in_training:
            self.in_training[program] = name
            run()


def run_row(table: Table, row: Row, record: Any, thorough: bool = False) -> None:
    """A test's body: the cells of a row, kept for the count at the end."""
    record("invariances", table.row(row, thorough))


def run_group(table: Table, group: list[Row], record: Any) -> None:
    """A test's body: the cells of rows that are computed in one sum, the first of which says what is refused."""
    name = " + ".join(row.name for row in group)
    found = table.row(Row(name, summed(group)))
    record("invariances", [[table.name, row.name, column, outcome] for row in group for *_, column, outcome in found])


def names(rows: list[Row]) -> Any:
    """Rows as parameters of a test."""
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])
