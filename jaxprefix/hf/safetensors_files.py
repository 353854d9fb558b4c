"""The tensors of a model folder: one index over its safetensors files, read one tensor, or a block of one, at a time.

The format: eight bytes with the header's length (little endian), the header in JSON (name -> dtype, shape, byte
range), then the bytes. It is read here, not through the safetensors package, so that bfloat16 needs no detour and no
mapped file lies in memory beside the tree.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.hf.fingerprints import exchange, kept_fingerprints, remember
from jaxprefix.hf.headers import DTYPES, TensorPlace, read_index, shorter, unreadable
from jaxprefix.tree_check import count_not_finite

CHUNK = 2**22  # bytes in memory at a time where a tensor is not read whole
PAGE = 4096  # bytes that a row must have beside the wanted columns for these to be read alone

Block = tuple[tuple[int, int], ...]
"""First and one past the last index along each axis of a tensor."""


class TensorFiles:
    """The tensors of a folder by name; `places` is sorted by name."""

    def __init__(self, folder: Path):
        """Reads the headers, not the tensors.

        Raises:
          UserError: no or several unindexed safetensors files, a missing shard, a damaged file.
        """
        self.folder = folder
        self.places: dict[str, TensorPlace] = dict(sorted(read_index(folder).items()))
        self._known: dict[Path, dict[str, str]] = {}
        self._changed: set[Path] = set()
        self._share: set[str] | None = None

    def share_hashing(self, process: int, processes: int) -> None:
        """From here on this process hashes one tensor of `processes`, and `fingerprints` is a collective.

        What any process has hashed before counts for all.

        Raises:
          UserError: the processes' folders differ.
        """
        stored = [(name, place.dtype, place.shape) for name, place in self.places.items()]
        exchange({str(self.folder): hashlib.sha256(json.dumps(stored).encode()).hexdigest()})
        known = {name: self._fingerprints(place.file).get(name) for name, place in self.places.items()}
        self._adopt(exchange(known))
        self._share = set(list(self.places)[process::processes])

    def read(self, name: str) -> np.ndarray:
        """The tensor as it is stored (float64, float32, float16 or bfloat16), in memory of its own."""
        place, dtype = self.places[name], self._dtype(name)
        raw = _bytes(place)
        if self._to_be_hashed(name):
            self._note(name, raw)
        self._check_finite(name, raw.view(dtype))
        return raw.view(dtype).reshape(place.shape)

    def read_block(self, name: str, block: Block, out: np.ndarray) -> None:
        """Reads a block of a tensor of one or two axes into `out`, cast to its dtype; nothing is hashed.

        Args:
          name: of the tensor.
          block: what to read; no other bytes are, but for rows whose rest is less than a page.
          out: of the block's shape, perhaps a view.
        """
        place, dtype = self.places[name], self._dtype(name)
        (first, last), (left, right) = block if len(block) == 2 else ((0, 1), *block)
        if first == last or left == right:
            return
        target = out if len(block) == 2 else out[None]
        width = place.shape[-1] * dtype.itemsize
        skipped = width - (right - left) * dtype.itemsize
        alone = skipped >= PAGE or last - first == 1  # the columns of each row by themselves
        start, size = (left * dtype.itemsize, width - skipped) if alone else (0, width)
        rows = min(max(1, CHUNK // size), last - first)
        buffer = np.empty((rows, size), np.uint8)
        with _opened(place.file) as file:
            for row in range(first, last, rows):
                count = min(rows, last - row)
                raw = buffer[:count]
                if size == width:
                    _fill(file, raw, place.start + row * width, place.file)
                else:
                    for i in range(count):
                        _fill(file, raw[i], place.start + (row + i) * width + start, place.file)
                values = raw.view(dtype)
                self._check_finite(name, values if alone else np.ascontiguousarray(values[:, left:right]))
                target[row - first : row - first + count] = values if alone else values[:, left:right]

    def fingerprints(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of tensors' bytes in hex, by name; read from the cache where their files were hashed before.

        With `share_hashing` all processes must call it, with the same names.
        """
        names = list(names)
        for name in names:
            if self._to_be_hashed(name):
                self._note(name, _chunks(self.places[name]))
        found = {name: self._fingerprints(self.places[name].file).get(name) for name in names}
        if self._share is not None and names:
            found = exchange(found)
            self._adopt(found)
        return {name: digest for name, digest in found.items() if digest is not None}

    def remember(self) -> None:
        """Writes the new fingerprints to the cache; where that fails it only says so."""
        for file in sorted(self._changed):
            remember(file, self._known[file])
        self._changed.clear()

    def _dtype(self, name: str) -> np.dtype:
        place = self.places[name]
        if place.dtype not in DTYPES:
            raise UserError(
                f"{place.file} holds {name} as {place.dtype}, but only {', '.join(DTYPES)} can be read; "
                "save the model in float32."
            )
        return DTYPES[place.dtype]

    def _check_finite(self, name: str, values: np.ndarray) -> None:
        wrong = count_not_finite(values)
        if wrong:
            raise UserError(
                f"{self.places[name].file} has {wrong:,} values in {name} that are not finite (NaN or infinity); copy "
                "or download it again, or take the weights from before they were lost."
            )

    def _fingerprints(self, file: Path) -> dict[str, str]:
        if file not in self._known:
            self._known[file] = kept_fingerprints(file)
        return self._known[file]

    def _to_be_hashed(self, name: str) -> bool:
        mine = self._share is None or name in self._share
        return mine and name not in self._fingerprints(self.places[name].file)

    def _note(self, name: str, raw: np.ndarray | Iterator[np.ndarray]) -> None:
        digest = hashlib.sha256()
        for part in (raw,) if isinstance(raw, np.ndarray) else raw:
            digest.update(part.data)
        self._adopt({name: digest.hexdigest()})

    def _adopt(self, digests: Mapping[str, str | None]) -> None:
        for name, digest in digests.items():
            file = self.places[name].file
            if digest is not None and self._fingerprints(file).get(name) != digest:
                self._fingerprints(file)[name] = digest
                self._changed.add(file)


def _bytes(place: TensorPlace) -> np.ndarray:
    try:
        raw = np.fromfile(place.file, np.uint8, place.size, offset=place.start)
    except OSError as error:
        raise unreadable(place.file, error) from error
    if raw.size != place.size:
        raise shorter(place.file)
    return raw


def _chunks(place: TensorPlace) -> Iterator[np.ndarray]:
    """A tensor's bytes, piece by piece; a piece is gone when the next one comes."""
    buffer = np.empty(min(CHUNK, place.size), np.uint8)
    with _opened(place.file) as file:
        for start in range(0, place.size, CHUNK):
            piece = buffer[: min(CHUNK, place.size - start)]
            _fill(file, piece, place.start + start, place.file)
            yield piece


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        yield file
    finally:
        os.close(file)


def _fill(file: int, raw: np.ndarray, start: int, path: Path) -> None:
    """Fills a buffer from byte `start` of a file."""
    view, done = raw.reshape(-1).data, 0
    while done < len(view):
        try:
            count = os.preadv(file, [view[done:]], start + done)
        except OSError as error:
            raise unreadable(path, error) from error
        if count == 0:
            raise shorter(path)
        done += count
