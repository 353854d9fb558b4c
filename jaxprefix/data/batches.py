"""Padded batches. The global batch is a pure function of (seed, step); processes take rows of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from jaxprefix.data.examples import Examples
from jaxprefix.errors import UserError

Batch = dict[str, np.ndarray]
Places = Integer[np.ndarray, " b"]


class Batches:
    """Endless training batches; every row once per epoch, in another order each time.

    `batch(step)` needs no state and no other step, so resuming costs nothing, and the order does not depend on the
    number of processes. All rows of a global batch are padded to one of a few lengths (`buckets`), chosen by the
    longest row of the global batch, so that all processes run the same compiled step.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, buckets: Sequence[int] | None = None):
        """`batch_size` counts rows of the global batch; `seed` is at least 0; `buckets` overrides the lengths."""
        import grain

        if batch_size < 1:
            raise UserError(f"The batch size is {batch_size}; it must be at least 1.")
        if seed < 0:
            raise UserError(f"The seed is {seed}; it must be at least 0.")
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.buckets = training_buckets(examples, batch_size) if buckets is None else _checked(buckets, examples)
        order = grain.MapDataset.source(range(len(examples))).seed(seed % 2**32).shuffle().repeat(None)
        self._rows = order.batch(batch_size)
        self._lengths, self._tokens = examples.lengths, examples.token_counts

    @property
    def epoch_steps(self) -> int:
        """Steps after which every row has been seen once."""
        return batches_per_epoch(len(self.examples), self.batch_size)

    def rows(self, step: int) -> Integer[np.ndarray, " B"]:
        """The rows' numbers in the global batch of a step."""
        return np.asarray(self._rows[step], np.int64)

    def width(self, step: int) -> int:
        """T of the global batch of a step: one of `buckets`."""
        return _bucket(int(self._lengths[self.rows(step)].max()), self.buckets)

    def tokens(self, step: int) -> int:
        """Tokens of the global batch of a step, padding not counted."""
        return int(self._tokens[self.rows(step)].sum())

    def batch(self, step: int, own: Places | None = None, width: int | None = None) -> Batch:
        """The rows at the places `own` of the global batch, which are this process's; None for all of them.

        int32 `input_ids` [B, T], bool `attention_mask` [B, T], float32 `weight` [B], and the examples' targets under
        their names, `[B, ...]` or `[B, T, ...]`; where texts are packed int32 `segment_ids` [B, T], and where tokens
        have types int32 `token_type_ids` [B, T], both 0 for padding. Where examples have several sequences there is an
        axis C behind B, and sequences that pad it have no real token. T is `width(step)`, or a larger `width` that is
        given.
        """
        rows = self.rows(step)
        width = self.width(step) if width is None else width
        rows = rows if own is None else rows[own]
        return _padded(self.examples, rows, width, self.seed, step, np.ones(len(rows), np.float32))


def batches_per_epoch(rows: int, batch_size: int) -> int:
    """Batches needed to see every row once."""
    return -(-rows // batch_size)


def evaluation_batches(
    examples: Examples,
    batch_size: int,
    buckets: Sequence[int] | None = None,
    own: Places | None = None,
) -> Iterator[tuple[Batch, Integer[np.ndarray, " rows"]]]:
    """Every example once, sorted by length so that little is padded.

    Yields each batch (its rows at the places `own`, of the form that `Batches.batch` gives) with the numbers of the
    rows in the *global* batch: `result[index] = outputs[:len(index)]`, or `restore_order`. A last batch is filled up
    with copies of its last row, of weight 0, that `index` does not count. Masked language rows are masked as at step 0
    of seed 0, the same in every evaluation.
    """
    buckets = evaluation_buckets(examples) if buckets is None else _checked(buckets, examples)
    own = np.arange(batch_size) if own is None else own
    lengths = examples.lengths
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        filled = np.concatenate([index, np.repeat(index[-1:], batch_size - len(index))])
        width = _bucket(int(lengths[index].max()), buckets)
        weight = (np.arange(batch_size) < len(index)).astype(np.float32)[own]
        yield _padded(examples, filled[own], width, 0, 0, weight), index


def one_batch(examples: Examples, index: Integer[np.ndarray, " B"]) -> Batch:
    """The examples of these numbers as one batch, padded to the longest."""
    width = int(examples.lengths[index].max(initial=1))
    return _padded(examples, index, width, 0, 0, np.ones(len(index), np.float32))


def restore_order(
    outputs: Sequence[Any], indices: Sequence[Integer[np.ndarray, " _"]], fill: int | float
) -> np.ndarray:
    """Outputs of evaluation batches, [B, ...] each, as one array in the order of the rows.

    Outputs per token, [B, T] or [B, T, ...], have another T in each bucket; they are padded to the longest with `fill`.
    """
    rows = sum(map(len, indices))
    shapes = [np.shape(output)[1:] for output in outputs]
    result = np.full((rows, *map(max, zip(*shapes, strict=True))), fill, np.asarray(outputs[0]).dtype)
    for output, index in zip(outputs, indices, strict=True):
        result[(index, *(slice(size) for size in np.shape(output)[1:]))] = np.asarray(output)[: len(index)]
    return result


def training_buckets(examples: Examples, batch_size: int) -> tuple[int, ...]:
    """Three lengths that random batches choose about equally often, the last holding the longest row.

    A batch is as long as its longest row: quantile q of the batches is quantile q^(1/batch_size) of the rows.
    """
    return _buckets(examples, [(1 / 3) ** (1 / batch_size), (2 / 3) ** (1 / batch_size), 1.0])


def evaluation_buckets(examples: Examples) -> tuple[int, ...]:
    """Lengths for batches of rows sorted by length, the last holding the longest row."""
    return _buckets(examples, [0.5, 0.9, 1.0])


def _buckets(examples: Examples, quantiles: list[float]) -> tuple[int, ...]:
    if not len(examples):
        return (8,)
    lengths = np.quantile(examples.lengths, quantiles, method="higher")
    rounded = (np.ceil(np.maximum(lengths, 1) / 8) * 8).astype(int)  # whole vector registers; fewer distinct lengths
    return tuple(sorted({min(int(length), examples.max_length) for length in rounded}))


def _checked(buckets: Sequence[int], examples: Examples) -> tuple[int, ...]:
    longest = int(examples.lengths.max(initial=0))
    if not buckets or min(buckets) < 1:
        raise UserError(f"The buckets {tuple(buckets)} must be lengths of at least 1; give two to four.")
    if max(buckets) < longest:
        raise UserError(
            f"The longest bucket is {max(buckets)} but a row is {longest} tokens long; add a bucket of {longest} "
            "or more, or lower max_length."
        )
    return tuple(sorted(set(buckets)))


def _bucket(longest: int, buckets: tuple[int, ...]) -> int:
    return next(bucket for bucket in buckets if bucket >= longest)


def _padded(examples: Examples, rows: np.ndarray, width: int, seed: int, step: int, weight: np.ndarray) -> Batch:
    choices, columns = examples.choices, np.arange(width)
    if choices is None:
        sequence, there = rows, np.ones(len(rows), bool)  # [B]
    else:
        assert examples.sequences is not None  # else there are no choices
        first = examples.sequences[rows]
        there = np.arange(choices) < (examples.sequences[rows + 1] - first)[:, None]  # [B, C]
        sequence = np.where(there, first[:, None] + np.arange(choices), 0)
    starts = examples.offsets[sequence]
    lengths = np.where(there, examples.offsets[sequence + 1] - starts, 0)
    mask = columns < lengths[..., None]  # [B, T] or [B, C, T]
    places = np.where(mask, starts[..., None] + columns, 0)
    ids = np.where(mask, examples.ids[places], np.int32(examples.vocabulary.padding_id))
    batch = {"input_ids": ids, "attention_mask": mask, "weight": weight}
    if examples.segment_ids is not None:
        batch["segment_ids"] = np.where(mask, examples.segment_ids[places], np.int32(0))
    if examples.token_type_ids is not None:
        batch["token_type_ids"] = np.where(mask, examples.token_type_ids[places], np.int32(0))
    for name, target in examples.targets.items():
        spec = target.spec
        if spec.per == "row":
            batch[name] = target.values[rows]
        else:
            place, real = (sequence, there) if spec.per == "sequence" else (places, mask)
            real = real & (weight > 0).reshape(-1, *[1] * (real.ndim - 1))
            real = real.reshape(*real.shape, *[1] * len(spec.shape))
            batch[name] = np.where(real, target.values[place], np.asarray(spec.fill, target.values.dtype))
    return batch if examples.finish is None else examples.finish(batch, rows, seed, step)
