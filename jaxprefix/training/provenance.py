"""What a run was made of: the rows of its splits and its tokenizer, by digests that checkpoints and adapters keep."""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError
from jaxprefix.hf.sources import EMBEDDED
from jaxprefix.paths import absolute, absolute_fields, placed_as
from jaxprefix.tasks.base import Task
from jaxprefix.tasks.tokenizing import serialised
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.typed_json import to_json

log = logging.getLogger("jaxprefix")

Splits = Mapping[str, Mapping[str, str]]
"""By split, the `name` that its rows go by and the `digest` of their content."""


def described_splits(task: Task, splits: Sequence[str]) -> dict[str, dict[str, str]]:
    """What checkpoints and adapters keep of the rows of splits.

    Raises:
      UserError: a split cannot be found or read, or its first row lacks a column of the task.
    """
    found = {}
    for split in splits:
        rows = task.open_rows(split)
        first = rows[0] if len(rows) else None
        for column in (*task.columns, *task.target_columns):
            if first is not None and column not in first:
                rows.value(first, 0, column)  # which says so
        named = str(getattr(task.source, split))
        name = absolute(rows.name) if named == rows.name else rows.name  # of files; others have no place
        found[split] = {"name": name, "digest": hashlib.sha256(rows.identity.encode()).hexdigest()}
    return found


def refuse_other_rows(folder: str, before: Splits | None, now: Splits) -> None:
    """Refuses, as UserError, to go on with a split whose rows are not those that the run was begun with."""
    if before is None:
        log.info("%s is of a version that kept no digests of rows; whether these are the same cannot be told.", folder)
    for split, rows in now.items():
        known = (before or {}).get(split)
        if known is not None and known["digest"] != rows["digest"]:
            raise UserError(
                f"{folder} holds a run whose {split} split, {known['name']}, had other rows than {rows['name']} has "
                "now; give this run another folder, or put the former rows back."
            )


def say_other_rows(adapter: str, before: Splits | None, split: str, task: Task) -> None:
    """Says in the log where a split is not the one that an adapter's run had."""
    known = (before or {}).get(split)
    if known is None:
        return
    now = described_splits(task, [split])[split]
    if known["digest"] != now["digest"]:
        log.warning(
            "the %s split in %s has other rows than that in %s, which the run of %s had; metrics differ with them.",
            *(split, now["name"], known["name"], adapter),
        )


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 in hex of what a tokenizer makes of texts: without truncation and padding, which each use sets anew."""
    description = json.loads(serialised(tokenizer))
    description.pop("version", None)
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    content = json.dumps([description, special], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def refuse_other_tokenizer(what: str, before: str | None, now: str | None, source: Any, remedy: str) -> None:
    """Refuses, as UserError, another tokenizer than the one that something was trained with.

    Args:
      what: that which was trained, for messages.
      before: the digest that it keeps; None in files of older versions.
      now: the digest of the tokenizer that is there; None where there is none.
      source: the folder that it lies in.
      remedy: the end of the sentence.
    """
    if before is None:
        log.info("%s keeps no digest of its tokenizer; whether that of %s is the same cannot be told.", what, source)
    elif now is not None and now != before:
        raise UserError(f"{what} was trained with another tokenizer than the one in {source} is now; {remedy}.")


def stored_run(run: Run) -> str:
    """The run as checkpoints and adapters store it: JSON in which folders and files are named from the root."""
    return to_json(with_absolute_paths(run))


def with_absolute_paths(run: Run) -> Run:
    """The run with the same files by names that mean them from any folder."""
    backbone = run.backbone
    if isinstance(backbone, NewBackbone):
        backbone = dataclasses.replace(backbone, tokenizer=_model(backbone.tokenizer))
    else:
        backbone = _model(backbone)
    tokenizer = None if run.tokenizer is None else _model(run.tokenizer)
    return dataclasses.replace(absolute_fields(run), backbone=backbone, tokenizer=tokenizer)


def _model(source: str) -> str:
    """A model's folder from the root; the name of one that is no folder here as it is."""
    return absolute(source) if source not in EMBEDDED and Path(source).expanduser().is_dir() else source


def at_its_new_place(before: Run, now: Run) -> Run:
    """A stored run with the files, and the folders of backbone and tokenizer, of `now` in place of its own: that they
    are the same their digests tell, not their names."""
    old, new = before.task.source, now.task.source
    if type(old) is type(new) and old.splits == new.splits:
        before = dataclasses.replace(before, task=dataclasses.replace(before.task, source=placed_as(old, new)))
    if all(isinstance(one, str) and os.path.isabs(one) for one in (before.backbone, now.backbone)):
        before = dataclasses.replace(before, backbone=now.backbone)
    if all(one is not None and os.path.isabs(one) for one in (before.tokenizer, now.tokenizer)):
        before = dataclasses.replace(before, tokenizer=now.tokenizer)
    return before
