"""The columns of the table: each compares two ways to compute what the model says of one text.

The reference is the text alone, `[1, n]`, jitted, in float64, without capture. Against it stand: the rows of one batch
that is computed operation by operation in float32 with capture, while it fills a cache (the text with padding on either
side and on both, beside other texts; and permuted); packed rows; and steps of one token, jitted, from that cache cut
back to every length. So each comparison holds several columns at once, and few programs serve them all.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprefix as jp
from jaxprefix.models.cache import Cache
from tests.invariances.subjects import LENGTH, TOKENS, Subject

COLUMNS = ("batch", "left", "right", "permuted", "packed", "steps", "capture", "op by op", "float64")
NARROW, WIDE = 1e-5, 1e-4  # of the outputs' standard deviation: in float32, and between it and float64


class Seen(NamedTuple):
    """What a model says of the n tokens of a text.

    Attributes:
      hidden: `[n, D]`.
      logits: `[n, V]`, or `[C]` of a classifier.
    """

    hidden: np.ndarray
    logits: np.ndarray


class Differs(AssertionError):
    """Two ways to compute the same differ."""


def assert_same(found: Seen, expected: Seen, within: float = NARROW) -> None:
    """Equal within a part of the standard deviation of the expected values."""
    for name, one, other in zip(Seen._fields, found, expected, strict=True):
        bound, gap = within * float(np.std(other)), float(np.max(np.abs(np.asarray(one, np.float64) - other)))
        if not gap <= bound:
            raise Differs(f"{name} differ by {gap:.1e}, which may be {bound:.1e}")


def place(subject: Subject, out: Any, row: int, columns: slice) -> Seen:
    """What an output says of the text in these columns of a row."""
    logits = out.logits[row, columns] if subject.causal else out.logits[row]
    return Seen(np.asarray(out.hidden[row, columns]), np.asarray(logits))


def alone(subject: Subject) -> tuple[str, Callable[[], Seen]]:
    """The program of the reference, as text, and a function that compiles and runs it."""
    with jax.enable_x64(True):
        wide = subject.wide()
        batch = subject.batch([[(0, text(subject))]], LENGTH)
        forward = jax.jit(lambda *arrays: wide.model.forward(*arrays))
        traced = forward.trace(wide.trainable, wide.frozen, batch)
    program = str(traced.jaxpr) + "".join(str(np.asarray(const)) for const in traced.jaxpr.consts)

    def run() -> Seen:
        with jax.enable_x64(True):
            out = traced.lower().compile()(wide.trainable, wide.frozen, batch)
            return place(subject, out, 0, slice(None))

    return program, run


def text(subject: Subject) -> np.ndarray:
    """The text that is followed."""
    return subject.row(LENGTH, 0)


def others(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """One as long as a batch is wide, and one that with the text fills a row."""
    return subject.row(TOKENS, 1), subject.row(TOKENS - LENGTH, 2)


LEFT, RIGHT, BOTH, FULL, SHORT = range(5)  # the rows of `mixed`


def mixed(subject: Subject) -> dict[str, Any]:
    """The text with padding on the left, on the right and on both sides, and two other texts."""
    own, (full, short) = text(subject), others(subject)
    return subject.batch([[(TOKENS - LENGTH, own)], [(0, own)], [(1, own)], [(0, full)], [(4, short)]])


COLUMN_OF = {LEFT: TOKENS - LENGTH, RIGHT: 0, BOTH: 1}


def packed(subject: Subject) -> tuple[dict[str, Any], list[int]]:
    """Rows in which the text shares with another, stands behind or before it, or alone; and where it begins in each."""
    own, (_, short) = text(subject), others(subject)
    rows = [[(0, short), (len(short), own)], [(0, own), (LENGTH, short)], [(0, own)], [(TOKENS - LENGTH, own)]]
    return subject.batch([*rows, [(0, short), (3, short), (6, short)]]), [len(short), 0, 0, TOKENS - LENGTH]


@dataclasses.dataclass
class Computed:
    """The outputs from which cells are read, each computed at its first use.

    Attributes:
      subject: the model.
      reference: the text alone.
    """

    subject: Subject
    reference: Seen

    def forward(self, batch: dict[str, Any], **options: Any) -> Any:
        """Operation by operation, in float32."""
        subject = self.subject
        arrays = {name: jnp.asarray(value) for name, value in batch.items()}
        return subject.model.forward(subject.trainable, subject.frozen, arrays, **options)

    def mixed(self) -> Any:
        """The batch of all paddings, with capture; a decoder fills a cache with it."""
        if not hasattr(self, "_mixed"):
            options = {"cache": self.empty_cache()} if self.subject.causal else {}
            self._mixed = self.forward(mixed(self.subject), capture=True, **options)
        return self._mixed

    def empty_cache(self) -> Cache:
        """With more room than the batch needs."""
        rows = 5
        return Cache.empty(self.subject.model.backbone.dims, rows, TOKENS + self.prompt + 2)

    @property
    def prompt(self) -> int:
        """Rows of an embedding-level prompt."""
        prompt = jax.eval_shape(self.subject.model.edits, self.subject.trainable).prompt
        return 0 if prompt is None else prompt.shape[0]

    def rows(self, *indices: int) -> None:
        """The text in these rows of the batch is the text alone."""
        for row in indices:
            start = COLUMN_OF[row]
            assert_same(place(self.subject, self.mixed(), row, slice(start, start + LENGTH)), self.reference)


def check_batch(computed: Computed) -> None:
    """A row alone is the row beside others."""
    computed.rows(BOTH)


def check_left(computed: Computed) -> None:
    """Padding on the left."""
    computed.rows(LEFT)


def check_right(computed: Computed) -> None:
    """Padding on the right."""
    computed.rows(RIGHT)


def check_permuted(computed: Computed) -> None:
    """Every row of a permuted batch is what it was."""
    subject, batch, order = computed.subject, mixed(computed.subject), np.array([3, 0, 4, 2, 1])
    found = computed.forward({name: value[order] for name, value in batch.items()})
    for row, before in enumerate(order):
        real = np.flatnonzero(batch["attention_mask"][before])
        assert_same(place(subject, found, row, real), place(subject, computed.mixed(), before, real))


def check_packed(computed: Computed) -> None:
    """Beside other texts in its row."""
    batch, starts = packed(computed.subject)
    out = computed.forward(batch)
    for row, start in enumerate(starts):
        assert_same(place(computed.subject, out, row, slice(start, start + LENGTH)), computed.reference)


def check_steps(computed: Computed) -> None:
    """Each token from a cache of the tokens before it, whatever their number; and one after another."""
    subject, batch = computed.subject, mixed(computed.subject)
    if not subject.causal:
        jp.generate(subject.model, subject.trainable, subject.frozen, batch)  # which says why not
    filled, real = computed.mixed().cache, batch["attention_mask"]

    @jax.jit
    def step(trainable: Any, frozen: Any, column: dict[str, Any], cache: Cache) -> Any:
        out = subject.model.forward(trainable, frozen, column, cache=cache)
        return out.hidden[:, 0], out.logits[:, 0], out.cache

    def cut(columns: int) -> Cache:
        count = computed.prompt + columns
        seen = filled.mask & (np.arange(filled.capacity) < count)
        return dataclasses.replace(filled, length=jnp.asarray(count, jnp.int32), mask=seen)

    def compare(column: int, cache: Cache) -> Cache:
        names = ("input_ids", "attention_mask")
        new = {name: jnp.asarray(batch[name][:, column : column + 1]) for name in names}
        hidden, logits, cache = step(subject.trainable, subject.frozen, new, cache)
        for row, start in COLUMN_OF.items():
            if real[row, column] and column > start:
                at = column - start
                expected = Seen(computed.reference.hidden[at], computed.reference.logits[at])
                assert_same(Seen(np.asarray(hidden[row]), np.asarray(logits[row])), expected)
        return cache

    for column in range(1, TOKENS):
        compare(column, cut(column))
    cache = cut(TOKENS - LENGTH + 1)
    for column in range(TOKENS - LENGTH + 1, TOKENS):
        cache = compare(column, cache)


def check_capture(computed: Computed) -> None:
    """Capture gives every layer's output beside the same answer, and what edits show of the text's own tokens."""
    out, subject = computed.mixed(), computed.subject
    for name, leaf in ((name, leaf) for edit in out.observed for name, leaf in edit.items()):
        leaf = np.asarray(leaf)  # [L, B, ...], of queries [L, B, H, T]
        seen = [leaf[:, row] for row in COLUMN_OF]
        if name in ("share", "weight"):
            starts = [computed.prompt + start for start in COLUMN_OF.values()]
            seen = [one[..., start : start + LENGTH] for one, start in zip(seen, starts, strict=True)]
        for one in seen[1:]:
            if not np.allclose(one, seen[0], rtol=1e-5, atol=1e-5):
                raise Differs(f"what edits show differs: {name}")
    assert out.captured.shape[0] == subject.model.backbone.dims.layers + 1
    computed.rows(LEFT, RIGHT, BOTH)
    if not subject.causal:  # of a decoder it is the state before the last norm
        np.testing.assert_array_equal(out.captured[-1], out.hidden)


def check_op_by_op(computed: Computed) -> None:
    """Not jitted."""
    computed.rows(LEFT, RIGHT, BOTH)


def check_float64(computed: Computed) -> None:
    """In float32, what it is in float64."""
    for row in COLUMN_OF:
        start = COLUMN_OF[row]
        found = place(computed.subject, computed.mixed(), row, slice(start, start + LENGTH))
        assert_same(found, computed.reference, WIDE)


CHECKS: dict[str, Callable[[Computed], None]] = dict(
    zip(
        COLUMNS,
        (
            *(check_batch, check_left, check_right, check_permuted, check_packed, check_steps),
            *(check_capture, check_op_by_op, check_float64),
        ),
        strict=True,
    )
)


def check_as_padded(computed: Computed) -> None:
    """The batch of all paddings, jitted in float64: the reference where results depend on padding."""
    subject, batch = computed.subject, mixed(computed.subject)
    with jax.enable_x64(True):
        wide = subject.wide()
        out = jax.jit(lambda *arrays: wide.model.forward(*arrays))(wide.trainable, wide.frozen, batch)
        out = jax.tree.map(np.asarray, out)
    for row in COLUMN_OF:
        real = np.flatnonzero(batch["attention_mask"][row])
        assert_same(place(subject, computed.mixed(), row, real), place(subject, out, row, real))


def check_jitted(computed: Computed) -> None:
    """The batch of all paddings in one float32 program: without a cache, with what edits show."""
    subject, batch = computed.subject, mixed(computed.subject)
    forward = jax.jit(lambda *arrays: subject.model.forward(*arrays, capture=True))
    out = forward(subject.trainable, subject.frozen, batch)
    for row in range(len(batch["input_ids"])):
        real = np.flatnonzero(batch["attention_mask"][row])
        expected = place(subject, computed.mixed(), row, real)
        assert_same(place(subject, out, row, real), expected)
    for ours, theirs in zip(out.observed, computed.mixed().observed, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-4), ours, theirs)


def training(subject: Subject) -> tuple[str, Callable[[], None]]:
    """A training pass's program as text, and a function that compares it with one that is computed operation by
    operation with capture, and with one in float64: the same key draws the same masks in all."""
    batch = mixed(subject)

    def passed(one: Subject, **options: Any) -> Callable[..., Any]:
        key = jax.random.key(3)
        return lambda *arrays: one.model.forward(*arrays, key=key, training=True, **options)

    traced = jax.jit(passed(subject)).trace(subject.trainable, subject.frozen, batch)

    def run() -> None:
        real = np.asarray(batch["attention_mask"])
        out = traced.lower().compile()(subject.trainable, subject.frozen, batch)
        by_operation = passed(subject, capture=True)(subject.trainable, subject.frozen, batch)
        with jax.enable_x64(True):
            wide = subject.wide()
            exact = jax.jit(passed(wide))(wide.trainable, wide.frozen, batch)
            found, slowly, expected = (
                Seen(np.asarray(one.hidden)[real], np.asarray(one.logits)) for one in (out, by_operation, exact)
            )
        if subject.causal:
            found, slowly, expected = (one._replace(logits=one.logits[real]) for one in (found, slowly, expected))
        assert_same(slowly, found)
        assert_same(found, expected, WIDE)

    return str(traced.jaxpr), run
