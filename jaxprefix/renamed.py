"""What was called otherwise before: how adapters of older formats are read, and what a person who uses an old name is
told."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Renames:
    """Old names and their new ones.

    Attributes:
      classes: of stored values.
      fields: of those classes, by the new name of the class.
      subtrees: the first part of a leaf's path in an adapter.
      parts: any other part of it (the parts of sums of methods are named after their classes).
    """

    classes: Mapping[str, str]
    fields: Mapping[str, Mapping[str, str]]
    subtrees: Mapping[str, str]
    parts: Mapping[str, str]


_WINDOW = {"leaves_window": "subject_to_window"}
_MODEL_TYPE = {"kind": "model_type"}
ADAPTER_FORMATS: dict[int, Renames] = {
    1: Renames(
        classes={"NewWords": "NewTokens"},
        fields={
            **dict.fromkeys(("PTuningV2", "PrefixTuning", "AdaptivePrefix"), _WINDOW),
            **dict.fromkeys(("EncoderConfig", "DecoderConfig"), _MODEL_TYPE),
        },
        subtrees={"born": "initialized"},
        parts={"new_words": "new_tokens"},
    ),
}
"""What was renamed after each format of adapters."""

CHECKPOINT_VERSIONS = {
    1: "jaxprefix 0.1.0",
    2: "jaxprefix 0.2.0 before its release (commit aebc939 or earlier)",  # `labels` where there are `facts` now
}
"""The version of jaxprefix that finishes a run whose checkpoints have an older format."""

BATCH_KEYS = {
    "mask": "attention_mask",
    "segments": "token_type_ids",
    "token_types": "token_type_ids",
    "documents": "segment_ids",
}

MEMBERS: dict[str, Mapping[str, str]] = {
    "PrefixMethod": _WINDOW,
    **dict.fromkeys(("EncoderConfig", "DecoderConfig"), _MODEL_TYPE),
    "Context": {
        "mask": "keys.mask",
        "positions": "queries.positions",
        "documents": "queries.segment_ids",
        "column": "queries.offset",
        "leading": "first_token_hidden",
    },
    "VirtualTokens": {"until": "visible_before"},
    "kernel_attention": {"segments": "segment_ids", "column": "query_offset"},
    "train_population": {"at_once": "vmap_size", "own_order": "independent_order"},
    "Run": {"made_head": "resolve_head"},
    "Bank": {"exchange": "replace"},
}
"""Arguments, fields and methods, by the class (its subclasses are meant too) or function; see `old_names`."""

NAMES = {"NewWords": "NewTokens"}
"""Public names."""


def upgraded_config(value: Any, form: int) -> Any:
    """A configuration as JSON (`typed_json`) that an adapter of format `form` holds, under today's names."""
    for renames in (ADAPTER_FORMATS[older] for older in sorted(ADAPTER_FORMATS) if older >= form):
        value = _upgraded(value, renames)
    return value


def _upgraded(value: Any, renames: Renames) -> Any:
    if isinstance(value, list):
        return [_upgraded(item, renames) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    kind = renames.classes.get(kind, kind) if isinstance(kind, str) else kind
    fields = renames.fields.get(kind, {}) if isinstance(kind, str) else {}
    made = {fields.get(name, name): _upgraded(item, renames) for name, item in value.items()}
    return {**made, "type": kind} if "type" in value else made


def upgraded_path(path: str, form: int) -> str:
    """The path of a leaf (`trainable/method/new_words/rows`) that an adapter of format `form` holds, as it is today."""
    for renames in (ADAPTER_FORMATS[older] for older in sorted(ADAPTER_FORMATS) if older >= form):
        first, *rest = path.split("/")
        path = "/".join([renames.subtrees.get(first, first), *(_renamed_part(part, renames.parts) for part in rest)])
    return path


def _renamed_part(part: str, parts: Mapping[str, str]) -> str:
    """A part of a path; that of a method that a sum has twice ends in its number (`new_words_2`)."""
    name, _, number = part.rpartition("_")
    return f"{parts[name]}_{number}" if number.isdigit() and name in parts else parts.get(part, part)
