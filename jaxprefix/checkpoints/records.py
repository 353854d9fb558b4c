"""The record beside a checkpoint's arrays: what it belongs to, and what its leaves must be."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.checkpoints.files import flush
from jaxprefix.errors import UserError
from jaxprefix.paths import parse_json
from jaxprefix.renamed import CHECKPOINT_VERSIONS

FORMAT = 3
_NAME = "record.json"


class Damaged(Exception):
    """A checkpoint that is not what was written; the text says why."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of one checkpoint.

    Attributes:
      step: number of steps done.
      metric: the value that decides which checkpoint is best, if any.
      leaves: for each leaf, by its path, dtype and shape as text, for example "float32 [12,16,768]".
      digests: for each leaf the digest of its bits.
      info: what the caller stored.
    """

    step: int
    metric: float | None
    leaves: dict[str, str]
    digests: dict[str, str]
    info: dict[str, Any]


def plain(info: dict[str, Any]) -> dict[str, Any]:
    """A copy of `info` as JSON gives it back; a `TypeError` where it is no JSON."""
    return json.loads(json.dumps(info))


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, as in "opt_state/0/mu/prefix"; the paths are the names of the arrays on the disk."""
    pairs = [
        (jax.tree_util.keystr(path, simple=True, separator="/") or "value", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    leaves = dict(pairs)
    if len(leaves) != len(pairs):
        raise ValueError("two leaves have the same path once their keys are joined with '/'; rename one of the keys.")
    return leaves


def is_key(leaf: Any) -> bool:
    """Whether a leaf, or its abstract value, is a typed random key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def specs(leaves: dict[str, Any]) -> dict[str, str]:
    """The entries of `Record.leaves`."""
    return {name: f"{leaf.dtype} [{','.join(map(str, leaf.shape))}]" for name, leaf in leaves.items()}


def write(folder: Any, record: Record) -> None:
    """Writes the record into the checkpoint's folder, with a digest of itself."""
    body = dataclasses.asdict(record)
    text = json.dumps({"format": FORMAT, "sha256": _digest(body), "record": body}, indent=1)
    (folder / _NAME).write_text(text)
    flush(folder / _NAME)


def read(folder: Any) -> Record:
    """Reads the record of the checkpoint in `folder`.

    Raises:
      Damaged: it is missing, cut short or changed.
      UserError: a newer or an older version wrote it, or it may not be read.
    """
    try:
        outer = parse_json((folder / _NAME).read_bytes())
        version, digest, body = outer["format"], outer["sha256"], outer["record"]
    except FileNotFoundError as error:
        raise Damaged(f"{_NAME} is missing") from error
    except PermissionError as error:
        raise unreadable(folder, error.strerror or str(error)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{_NAME} cannot be read ({error})") from error
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"the checkpoint {folder} has format {version}, but this version of jaxprefix reads up to {FORMAT}; "
            "upgrade jaxprefix."
        )
    if version in CHECKPOINT_VERSIONS:
        raise UserError(
            f"the checkpoint {folder} has format {version} of {CHECKPOINT_VERSIONS[version]}; finish the run with "
            "that version, or start it again in another folder."
        )
    if _digest(body) != digest:
        raise Damaged(f"{_NAME} does not match its digest")
    return Record(**body)


def unreadable(folder: Any, reason: str) -> UserError:
    """For a checkpoint that may well be whole: it must not be passed over in favour of an older one."""
    return UserError(f"the checkpoint {folder} could not be read ({reason}); cure that and start again.")


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def check_same_leaves(record: Record, wanted: dict[str, str], folder: Any) -> None:
    """Refuses a checkpoint that was made with other settings.

    Raises:
      UserError: some leaf is missing, unknown, or of another shape or dtype; up to three are named.
    """
    lines = []
    for name in [*wanted, *(name for name in record.leaves if name not in wanted)]:
        here, there = wanted.get(name, "not there"), record.leaves.get(name, "not there")
        if here != there:
            lines.append(f"{name} is {there} in the checkpoint and {here} in this run")
    if lines:
        more = f", and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise UserError(
            f"the checkpoint of step {record.step} in {folder} was made with other settings: {'; '.join(lines[:3])}"
            f"{more}; resume with the settings of that run, or choose another work folder."
        )
