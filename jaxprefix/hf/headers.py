"""Where the tensors of a model folder lie: one index over the headers of its safetensors files."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.hf.sources import read_config
from jaxprefix.models.backbones import read_hf_config
from jaxprefix.paths import parse_json

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
LONGEST = 100_000_000  # bytes of a header, as in the safetensors library
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The float formats; a tensor in another one is listed, and refused only where its values are asked for."""


@dataclasses.dataclass(frozen=True)
class TensorPlace:
    """Where one tensor lies: `size` bytes from byte `start` of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def has_tensors(folder: Path) -> bool:
    """Whether there is any safetensors file in a folder."""
    return next(folder.glob("*.safetensors"), None) is not None


def read_index(folder: Path) -> dict[str, TensorPlace]:
    """The tensors of a folder, by the headers of its files.

    Raises:
      UserError: no or several unindexed safetensors files, a missing shard, a damaged file.
    """
    if (folder / WHOLE).is_file():
        return _header(folder / WHOLE)
    if (folder / INDEX).is_file():
        return _sharded(folder)
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
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
            f"installed, with {_auto_class(folder)}.from_pretrained(folder).save_pretrained(folder) of transformers."
        )
    raise UserError(f"{folder} holds no safetensors file; give the folder that save_pretrained wrote.")


def _auto_class(folder: Path) -> str:
    """The class of transformers that keeps the head of a language model."""
    config = read_hf_config(read_config(folder))
    return "AutoModelForCausalLM" if config.causal else "AutoModelForMaskedLM"


def _sharded(folder: Path) -> dict[str, TensorPlace]:
    try:
        weight_map = parse_json((folder / INDEX).read_bytes())["weight_map"]
        shards = sorted(set(weight_map.values()))
        if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
            raise ValueError("a shard outside the folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder / INDEX, f"it is no index of shards ({error})") from error
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise UserError(f"{folder} lacks {', '.join(absent)}, which its {INDEX} names; copy or download it again.")
    headers = {shard: _header(folder / shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise damaged(folder / shard, f"it lacks {name}, which {INDEX} places there")
    return {name: headers[shard][name] for name, shard in weight_map.items()}


def _header(file: Path) -> dict[str, TensorPlace]:
    try:
        total = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= min(total - 8, LONGEST) else b""
    except OSError as error:
        raise unreadable(file, error) from error
    if not text:
        raise damaged(file, f"it ends after {total} bytes, inside its header")
    try:
        header = parse_json(text)
    except ValueError as error:
        raise damaged(file, "its header is not JSON") from error
    places = {}
    for name, entry in _entries(file, header):
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        places[name] = TensorPlace(file, entry["dtype"], tuple(entry["shape"]), start, end - start)
        if end > total or end < start:
            raise damaged(file, f"it has {total} bytes, but {name} would end at byte {end}")
        dtype = DTYPES.get(entry["dtype"])
        if dtype is not None and end - start != dtype.itemsize * math.prod(entry["shape"]):
            raise damaged(file, f"{name} has {end - start} bytes, which does not fit its shape {entry['shape']}")
    reached = 8 + length
    for start, size in sorted((place.start, place.size) for place in places.values()):
        if start != reached:
            raise damaged(file, f"its tensors overlap or leave a gap at byte {min(start, reached)}")
        reached = start + size
    if reached != total:
        raise damaged(file, f"it has {total - reached} bytes behind its last tensor")
    return places


def _entries(file: Path, header: object) -> list[tuple[str, dict]]:
    if not isinstance(header, Mapping):
        raise damaged(file, "its header is no table of tensors")
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    for name, entry in entries:
        whole = isinstance(entry, Mapping) and all(
            isinstance(entry.get(key), list) and all(type(n) is int and n >= 0 for n in entry[key])
            for key in ("shape", "data_offsets")
        )
        if not whole or len(entry["data_offsets"]) != 2 or not isinstance(entry.get("dtype"), str):
            raise damaged(file, f"its header does not describe {name}")
    return entries


def damaged(file: Path, what: str) -> UserError:
    """The refusal of a damaged file."""
    return UserError(f"{file} is damaged: {what}; copy or download it again.")


def shorter(file: Path) -> UserError:
    """The refusal of a file that lost bytes since its header was read."""
    return damaged(file, "it became shorter while it was read")


def unreadable(file: Path, error: OSError) -> UserError:
    """The refusal of a file that cannot be opened or read."""
    return UserError(f"cannot read {file} ({error.strerror}); check its permissions.")
