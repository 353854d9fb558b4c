"""Fingerprints of tensors: kept between loads by file, and exchanged among processes that share out the hashing."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxprefix.errors import UserError
from jaxprefix.paths import cache_folder, parse_json, write_atomically

logger = logging.getLogger("jaxprefix")


def kept_fingerprints(file: Path) -> dict[str, str]:
    """What the cache knows of a file, tensor name -> SHA-256 in hex; nothing where the file has changed since."""
    try:
        entry = parse_json(_entry(file).read_bytes())
        if {key: entry[key] for key in ("path", "size", "mtime_ns")} == _version(file):
            return dict(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never hashed, or a damaged entry: it is computed again
    return {}


def remember(file: Path, fingerprints: Mapping[str, str]) -> None:
    """Writes the fingerprints of a file's tensors to the cache; where that fails it only says so."""
    entry = {**_version(file), "sha256": dict(fingerprints)}
    try:
        write_atomically(_entry(file), json.dumps(entry).encode())
    except OSError as error:
        logger.warning("cannot keep the fingerprints of %s: %s", file, error)


def exchange(digests: Mapping[str, str | None]) -> dict[str, str | None]:
    """What any process knows: a collective, to be called by all processes with the same names in the same order.

    Args:
      digests: SHA-256 in hex by name; None for what this process does not know.

    Returns:
      The same names, None for what no process knows.

    Raises:
      UserError: two processes know different digests of one name; raised on all of them.
    """
    own = np.zeros((len(digests), 33), np.uint8)  # whether it is known, and the digest's bytes
    for row, digest in zip(own, digests.values(), strict=True):
        if digest is not None:
            row[0], row[1:] = 1, np.frombuffer(bytes.fromhex(digest), np.uint8)
    every = np.asarray(multihost_utils.process_allgather(own)).reshape(jax.process_count(), *own.shape)
    found: dict[str, str | None] = {}
    for place, name in enumerate(digests):
        knowing = np.flatnonzero(every[:, place, 0])
        values = every[knowing, place, 1:]
        if (values != values[:1]).any():
            other = knowing[(values != values[:1]).any(axis=1)][0]
            raise UserError(
                f"process {other} reads another {name} than process {knowing[0]}; give all processes the same files."
            )
        found[name] = values[0].tobytes().hex() if len(values) else None
    return found


def _version(file: Path) -> dict[str, str | int]:
    """What tells that a file is still the one that was hashed."""
    stat = file.stat()
    return {"path": str(file.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _entry(file: Path) -> Path:
    key = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "fingerprints" / f"{key}.json"
