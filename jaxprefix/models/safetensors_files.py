"""The tensors of a model folder: one index over its safetensors files, read one tensor at a time.

The format: eight bytes with the header's length (little endian), the header in JSON (name -> dtype, shape, byte
range), then the bytes. It is read here, not through the safetensors package, so that bfloat16 needs no detour and no
mapped file lies in memory beside the tree.
"""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxprefix.cache import cache_folder, write_atomically
from jaxprefix.errors import UserError

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The float formats; a tensor in another one is listed, and refused only where its values are asked for."""

logger = logging.getLogger("jaxprefix")


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
        self.places: dict[str, TensorPlace] = dict(sorted(_index(folder).items()))
        self._known: dict[Path, dict[str, str]] = {}
        self._changed: set[Path] = set()

    def read(self, name: str) -> np.ndarray:
        """The tensor as it is stored (float64, float32, float16 or bfloat16), in memory of its own."""
        place = self.places[name]
        if place.dtype not in DTYPES:
            raise UserError(
                f"{place.file} holds {name} as {place.dtype}, but only {', '.join(DTYPES)} can be read; "
                "save the model in float32."
            )
        raw = _bytes(place)
        if name not in self._fingerprints(place.file):
            self._note(name, raw)
        return raw.view(DTYPES[place.dtype]).reshape(place.shape)

    def fingerprint(self, name: str) -> str:
        """SHA-256 of the tensor's bytes in hex; read from the cache where this file was hashed before."""
        place = self.places[name]
        known = self._fingerprints(place.file)
        if name not in known:
            self._note(name, _bytes(place))
        return known[name]

    def remember(self) -> None:
        """Writes the new fingerprints to the cache; where that fails it only says so."""
        for file in sorted(self._changed):
            entry = {**_version(file), "sha256": self._known[file]}
            try:
                write_atomically(_cache_entry(file), json.dumps(entry).encode())
            except OSError as error:
                logger.warning("cannot keep the fingerprints of %s: %s", file, error)
        self._changed.clear()

    def _fingerprints(self, file: Path) -> dict[str, str]:
        if file not in self._known:
            self._known[file] = _cached_fingerprints(file)
        return self._known[file]

    def _note(self, name: str, raw: np.ndarray) -> None:
        file = self.places[name].file
        self._fingerprints(file)[name] = hashlib.sha256(raw).hexdigest()
        self._changed.add(file)


def _bytes(place: TensorPlace) -> np.ndarray:
    try:
        raw = np.fromfile(place.file, np.uint8, place.size, offset=place.start)
    except OSError as error:
        raise _unreadable(place.file, error) from error
    if raw.size != place.size:
        raise _damaged(place.file, "it became shorter while it was read")
    return raw


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


def _unreadable(file: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {file} ({error.strerror}); check its permissions.")


def _version(file: Path) -> dict[str, str | int]:
    """What tells that a file is still the one that was hashed."""
    stat = file.stat()
    return {"path": str(file.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _cache_entry(file: Path) -> Path:
    key = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "fingerprints" / f"{key}.json"


def _cached_fingerprints(file: Path) -> dict[str, str]:
    try:
        entry = json.loads(_cache_entry(file).read_bytes())
        if {key: entry[key] for key in ("path", "size", "mtime_ns")} == _version(file):
            return dict(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never hashed, or a damaged entry: it is computed again
    return {}
