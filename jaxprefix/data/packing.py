"""Several examples in a row: little padding, and none sees another (`segment_ids`)."""

from collections.abc import Mapping
from heapq import heappop, heappush

import numpy as np
from jaxtyping import Int, Int64


def first_fit(lengths: Int[np.ndarray, " examples"], room: int) -> Int64[np.ndarray, " examples"]:
    """The row of each example: the first one, in the order in which rows were begun, that it still fits in.

    `lengths` are from 1 to `room`. Nothing but the lengths and their order decides.
    """
    none = np.iinfo(np.int64).max
    earliest = np.full(room + 1, none)  # of the rows with so many columns left
    begun: list[list[int]] = [[] for _ in range(room + 1)]
    rows, count = np.zeros(len(lengths), np.int64), 0
    for example, length in enumerate(np.asarray(lengths).tolist()):
        left = length + int(np.argmin(earliest[length:]))
        if earliest[left] == none:
            row, left, count = count, room, count + 1
        else:
            row = heappop(begun[left])
            earliest[left] = begun[left][0] if begun[left] else none
        rows[example] = row
        left -= length
        heappush(begun[left], row)
        earliest[left] = begun[left][0]
    return rows


def packed(arrays: Mapping[str, np.ndarray], room: int) -> dict[str, np.ndarray]:
    """Examples put together in rows of up to `room` tokens, those of a row in their order.

    Args:
      arrays: `offsets` `[examples + 1]`, and arrays with one entry for each token.
      room: longest row; no example is longer.

    Returns:
      The same names, `offsets` being those of rows, and `segment_ids` int32: 1 for the tokens of the first example of a
      row, 2 for those of the second and so on.
    """
    lengths = np.diff(arrays["offsets"])
    full = np.flatnonzero(lengths)  # an example without tokens is nowhere
    rows = first_fit(lengths[full], room)
    order = np.argsort(rows, kind="stable")
    rows, chosen = rows[order], full[order]
    taken = lengths[chosen]
    starts = np.cumsum(taken) - taken
    places = np.repeat(arrays["offsets"][chosen] - starts, taken) + np.arange(taken.sum())
    first = np.searchsorted(rows, rows)  # of the examples, the first of the same row
    columns = np.bincount(rows, weights=taken, minlength=0).astype(np.int64)
    return {
        **{name: array[places] for name, array in arrays.items() if name != "offsets"},
        "offsets": np.concatenate([[0], np.cumsum(columns)]).astype(np.int64),
        "segment_ids": np.repeat(np.arange(len(rows)) - first + 1, taken).astype(np.int32),
    }
