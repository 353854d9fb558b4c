"""The inputs of rows as numbers, by which equal ones are found, and how many texts are empty; no row is held."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt64

from jaxprefix.data.rows import Rows
from jaxprefix.data.store import Store
from jaxprefix.paths import cache_folder
from jaxprefix.tasks.base import Task
from jaxprefix.tasks.cells import INVISIBLE
from jaxprefix.tasks.preparing import described_task

FORMAT = 1  # of what is stored; raise it when the same key would give other numbers
SIZE = 8  # bytes of a digest: of 400,000 different rows two have the same one once in 200 million data sets
_text_of = json.JSONEncoder(separators=(",", ":"), default=repr).encode


@dataclass(frozen=True)
class Inputs:
    """What a report says of the inputs of a split.

    Attributes:
      digests: of each row's input; equal inputs have equal ones.
      empty: by column, in how many rows it holds no text.
    """

    digests: UInt64[np.ndarray, " rows"]
    empty: Mapping[str, int]


def read_inputs(task: Task, rows: Rows, folder: Path | None = None) -> Inputs:
    """The inputs of all rows, from the cache if the same task met the same rows before.

    Args:
      task: says what a row's input is (`Task.input_reader`).
      rows: of a split.
      folder: where the numbers are kept; by default `inputs` in the cache folder. Those of a task whose encoded rows
        are not kept are not kept either.
    """
    if task.cache_version is None:
        return _read(task, rows)
    store = Store(folder or cache_folder() / "inputs")
    key = hashlib.sha256(json.dumps([FORMAT, *described_task(task), rows.identity]).encode()).hexdigest()[:32]
    stored = store.read(key)
    if stored is None:
        found = _read(task, rows)
        store.write(key, {"digests": found.digests}, {"empty": dict(found.empty)})
        return found
    arrays, about = stored
    return Inputs(arrays["digests"], about["empty"])


def _read(task: Task, rows: Rows) -> Inputs:
    digests, empty, read = bytearray(), {}, task.input_reader(rows)
    for index, row in enumerate(rows):
        found = read(row, index)
        text = _text_of([_comparable(value) for value in found.values()]).encode()
        digests += hashlib.blake2b(text, digest_size=SIZE).digest()
        for column, value in found.items():
            empty[column] = empty.get(column, 0) + is_empty(value)
    return Inputs(np.frombuffer(digests, np.uint64), empty)


def _comparable(value: Any) -> Any:
    """A value of a column; a number as the text that files without numbers have in its place."""
    return json.dumps(value) if type(value) in (int, float) else value


def is_empty(value: Any) -> bool:
    """Whether a value of a column holds no text: nothing, white space and characters of no width, or a list of such."""
    if isinstance(value, str):
        return all(character.isspace() or character in INVISIBLE for character in value)
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or value == b""
