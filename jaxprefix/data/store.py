"""Tokenised rows on disk: one folder of `.npy` files and a `meta.json` for each key, there as a whole or not at all."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.paths import sweep, unfinished

log = logging.getLogger("jaxprefix")


@dataclass(frozen=True)
class Store:
    """Named arrays with a description, kept in `folder` under a key. Safe against kills and concurrent writers."""

    folder: Path

    def read(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Memory-mapped arrays and their description, or None where there is nothing whole under this key.

        Every byte is compared with the digests that were stored with it; the log tells of an entry that is damaged.
        """
        place = self.folder / key
        if not place.exists():
            return None
        try:
            _file_digest(place / "meta.json")
            outer = json.loads((place / "meta.json").read_bytes())
            if isinstance(outer, dict) and "sha256" not in outer:  # of a version that kept no digests
                return None
            meta = outer["meta"]
            if _digest(_text(meta)) != outer["sha256"]:
                raise ValueError("meta.json does not match its digest")
            arrays = {}
            for name, digest in meta["arrays"].items():
                if _file_digest(place / f"{name}.npy") != digest:
                    raise ValueError(f"{name}.npy does not match its digest")
                arrays[name] = _load(place / f"{name}.npy")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning("the entry %s of the token cache is damaged (%s); it is made anew.", place, error)
            return None
        return arrays, meta["about"]

    def write(self, key: str, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        """Write under `key`, replacing what is damaged; where another process was quicker, its result stands.

        Raises `UserError` where the disk is full or the folder cannot be written; nothing is left behind then.
        """
        temporary: Path | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder, key)
            temporary = Path(tempfile.mkdtemp(prefix=unfinished(key), dir=self.folder))
            for name, array in arrays.items():
                with (temporary / f"{name}.npy").open("wb") as file:
                    np.save(file, array)
                    _flush(file)
            sums = {name: _file_digest(temporary / f"{name}.npy") for name in arrays}
            meta = {"arrays": sums, "about": about}
            with (temporary / "meta.json").open("wb") as file:
                file.write(json.dumps({"sha256": _digest(_text(meta)), "meta": meta}, indent=1).encode())
                _flush(file)
            _flush_folder(temporary)
            self._put(temporary, key)
            _flush_folder(self.folder)
        except OSError as error:
            raise UserError(
                f"The cache folder {self.folder} cannot be written ({error.strerror or error}); make room there or set "
                "JAXPREFIX_CACHE to another folder."
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def _put(self, temporary: Path, key: str) -> None:
        """Rename into place. Something damaged there is moved aside first, so that the key never names a part of it."""
        place = self.folder / key
        for last in (False, False, True):
            try:
                temporary.rename(place)
                return
            except OSError:
                if self.read(key) is not None:
                    return
                if last or not place.exists():
                    raise
            aside = Path(tempfile.mkdtemp(prefix=unfinished(key), dir=self.folder))
            with contextlib.suppress(FileNotFoundError):  # another writer moved it
                place.rename(aside / "damaged")
            shutil.rmtree(aside, ignore_errors=True)


def _text(meta: Any) -> bytes:
    return json.dumps(json.loads(json.dumps(meta))).encode()  # as it is read back, whose keys are text


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_digest(path: Path) -> str:
    if not path.is_file():  # not there, or nothing that a read would come back from
        raise FileNotFoundError(f"{path.name} is missing")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # A plain view of the same pages indexes faster than np.memmap, whose subclass hooks run at each access.
    return array.view(np.ndarray)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
