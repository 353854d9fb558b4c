"""The tensors of a model folder: one index over its safetensors files, read one tensor, or a block of one, at a time.

The format: eight bytes with the header's length (little endian), the header in JSON (name -> dtype, shape, byte
range), then the bytes. It is read here, not through the safetensors package, so that bfloat16 needs no detour and no
mapped file lies in memory beside the tree.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.hf.fingerprints import exchange, kept_fingerprints, remember

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The float formats; a tensor in another one is listed, and refused only where its values are asked for."""

CHUNK = 2**22  # bytes in memory at a time where a tensor is not read whole
PAGE = 4096  # bytes that a row must have beside the wanted columns for these to be read alone

Block = tuple[tuple[int, int], ...]
"""First and one past the last index along each axis of a tensor."""


@dataclasses.dataclass(frozen=True)
class TensorPlace:
    """Where one tensor lies: `size` bytes from byte `start` of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


class TensorFiles:
    """The tensors of a folder by name; `places` is sorted by name."""

    def __init__(self, folder: Path):
        """Reads the headers, not the tensors.

        Raises:
          UserError: no or several unindexed safetensors files, a missing shard, a damaged file.
        """
        self.folder = folder
        self.places: dict[str, TensorPlace] = dict(sorted(_index(folder).items()))
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
            digest.update(part)
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
        raise _unreadable(place.file, error) from error
    if raw.size != place.size:
        raise _shorter(place.file)
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
        raise _unreadable(path, error) from error
    try:
        yield file
    finally:
        os.close(file)


def _fill(file: int, raw: np.ndarray, start: int, path: Path) -> None:
    """Fills a buffer from byte `start` of a file."""
    view, done = memoryview(raw.reshape(-1)), 0
    while done < len(view):
        try:
            count = os.preadv(file, [view[done:]], start + done)
        except OSError as error:
            raise _unreadable(path, error) from error
        if count == 0:
            raise _shorter(path)
        done += count


def _index(folder: Path) -> dict[str, TensorPlace]:
    if (folder / WHOLE).is_file():
        return _header(folder / WHOLE)
    if (folder / INDEX).is_file():
        return _sharded(folder)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return _header(files[0])
    if files:
        raise UserError(
            f"{folder} holds {len(files)} safetensors files and no {INDEX} that says which to read; "
            "leave one of them there, or save the model again with save_pretrained."
        )
    torch_files = sorted(path.name for path in folder.glob("*.bin"))
    if torch_files:
        raise UserError(
            f"{folder} holds its weights only as {torch_files[0]}, which is a pickle; convert it once, where torch is "
            "installed, with AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder) of transformers."
        )
    raise UserError(f"{folder} holds no safetensors file; give the folder that save_pretrained wrote.")


def _sharded(folder: Path) -> dict[str, TensorPlace]:
    try:
        weight_map = json.loads((folder / INDEX).read_bytes())["weight_map"]
        shards = sorted(set(weight_map.values()))
        if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
            raise ValueError("a shard outside the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / INDEX, f"it is no index of shards ({error})") from error
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise UserError(f"{folder} lacks {', '.join(absent)}, which its {INDEX} names; copy or download it again.")
    headers = {shard: _header(folder / shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise _damaged(folder / shard, f"it lacks {name}, which {INDEX} places there")
    return {name: headers[shard][name] for name, shard in weight_map.items()}


def _header(file: Path) -> dict[str, TensorPlace]:
    try:
        total = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= total - 8 else b""
    except OSError as error:
        raise _unreadable(file, error) from error
    if not text:
        raise _damaged(file, f"it ends after {total} bytes, inside its header")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _damaged(file, "its header is not JSON") from error
    places = {}
    for name, entry in _entries(file, header):
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        places[name] = TensorPlace(file, entry["dtype"], tuple(entry["shape"]), start, end - start)
        if end > total or end < start:
            raise _damaged(file, f"it has {total} bytes, but {name} would end at byte {end}")
        dtype = DTYPES.get(entry["dtype"])
        if dtype is not None and end - start != dtype.itemsize * math.prod(entry["shape"]):
            raise _damaged(file, f"{name} has {end - start} bytes, which does not fit its shape {entry['shape']}")
    return places


def _entries(file: Path, header: object) -> list[tuple[str, dict]]:
    if not isinstance(header, Mapping):
        raise _damaged(file, "its header is no table of tensors")
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in entries:
        whole = isinstance(entry, Mapping) and all(
            isinstance(entry.get(key), list) and all(isinstance(n, int) and n >= 0 for n in entry[key])
            for key in ("shape", "data_offsets")
        )
        if not whole or len(entry["data_offsets"]) != 2 or not isinstance(entry.get("dtype"), str):
            raise _damaged(file, f"its header does not describe {name}")
    return entries


def _damaged(file: Path, what: str) -> UserError:
    return UserError(f"{file} is damaged: {what}; copy or download it again.")


def _shorter(file: Path) -> UserError:
    return _damaged(file, "it became shorter while it was read")


def _unreadable(file: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {file} ({error.strerror}); check its permissions.")
