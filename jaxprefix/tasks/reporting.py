"""A report of the rows of a run before it trains, for every kind of task; `data/report.py` makes a table of it.

A tokenizer and the encoded rows are all that it needs: no backbone and no backend of JAX.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxprefix.data.examples import Examples
from jaxprefix.tasks.base import Task
from jaxprefix.tasks.inputs import read_inputs
from jaxprefix.tasks.tokenizing import serialised

BLOCK = 1 << 20  # tokens that are looked at at a time


def report_rows(
    task: Task, tokenizer: Any, examples: Mapping[str, Examples], folder: Path | None = None
) -> dict[str, Any]:
    """What there is to say of the rows of splits, as JSON (`data.report.Report`).

    Args:
      task: what is asked of them.
      tokenizer: the one that they were encoded by.
      examples: the encoded rows by split, earlier splits first: a row is compared with those of its own split and of
        the splits before it.
      folder: where digests of inputs are kept; by default the cache folder.
    """
    unknown = unknown_token(tokenizer)
    seen: dict[str, np.ndarray] = {}
    splits = {}
    for split, found in examples.items():
        rows = task.open_rows(split)
        inputs = read_inputs(task, rows, folder)
        different = np.unique(inputs.digests)
        equal = {split: len(inputs.digests) - len(different)}
        equal |= {other: int(np.isin(inputs.digests, digests).sum()) for other, digests in seen.items()}
        seen[split] = different
        lengths = text_lengths(found) if len(found) else np.zeros(1, np.int64)
        splits[split] = {
            "name": rows.name,
            "rows": len(rows),
            "examples": len(found),
            "lengths": {
                "shortest": int(lengths.min()),
                "median": float(np.median(lengths)),
                "longest": int(lengths.max()),
            },
            "cut": {"rows": found.cut[0], "words": found.cut[1]},
            "empty": dict(inputs.empty),
            "equal": equal,
            "tokens": count_tokens(found, unknown),
            "targets": dict(task.report_targets(found)),
        }
    return {"columns": list(task.columns), "splits": splits}


def text_lengths(examples: Examples) -> Int[np.ndarray, " texts"]:
    """Tokens of every text: of each sequence, or of what was packed into one."""
    if examples.segment_ids is None:
        return np.diff(examples.offsets)
    starts = np.zeros(len(examples.ids), bool)
    starts[examples.offsets[:-1][np.diff(examples.offsets) > 0]] = True
    starts[1:] |= examples.segment_ids[1:] != examples.segment_ids[:-1]
    return np.diff(np.append(np.flatnonzero(starts), len(starts)))


def unknown_token(tokenizer: Any) -> int | None:
    """The id that a tokenizer gives to what it does not know; None where it knows every text, as one of bytes does."""
    model = json.loads(serialised(tokenizer))["model"]
    if isinstance(model.get("unk_id"), int):
        return model["unk_id"]
    token = model.get("unk_token")
    return None if token is None else tokenizer.convert_tokens_to_ids(token)


def count_tokens(examples: Examples, unknown: int | None) -> dict[str, int | None]:
    """How many tokens there are beside special ones, and how many of them are the one of that id."""
    special = [token for token in examples.vocabulary.special_ids if token != unknown]
    every = none = 0
    for start in range(0, len(examples.ids), BLOCK):
        ids = examples.ids[start : start + BLOCK]
        every += len(ids) - int(np.isin(ids, special).sum())
        none += 0 if unknown is None else int((ids == unknown).sum())
    return {"all": every, "unknown": None if unknown is None else none}
