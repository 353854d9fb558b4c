"""What is asked of the rows: a kind of task a file, with its head, its metrics and its answers.

`LISTED` is the one list of kinds: the public names `jp.<class>` and what configs and checkpoints may hold
(`typed_json`) are made from it. A kind is added by its own file and a line here. Classes are imported at first use.
"""

import importlib
from typing import Any

LISTED = {
    "classification": ("Classification", "SequenceClassifier"),
    "tagging": ("Tagging", "TokenClassifier"),
    "masked_language": ("MaskedLanguage",),
    "causal_language": ("CausalLanguage",),
    "conditional_generation": ("ConditionalGeneration",),
    "regression": ("Regression", "Regressor"),
    "multi_label": ("MultiLabelClassification", "MultiLabelClassifier"),
}
"""Every module of a kind, with its task and the heads that it brings."""

PUBLIC = {
    **{name: module for module, names in LISTED.items() for name in names},
    **dict.fromkeys(("Evaluated", "Metric", "Task", "register_task"), "base"),
    "Encoded": "tokenizing",
    "Tokenizing": "tokenizing",
}
"""What this room hands on, as `jp.<name>` too."""

_OWN = {**PUBLIC, "prepare": "preparing", "encode_texts": "preparing"}


def load_kinds() -> None:
    """Imports every kind, so that configs and checkpoints may hold it."""
    for module in LISTED:
        importlib.import_module(f"{__name__}.{module}")


def __getattr__(name: str) -> Any:
    if name not in _OWN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_OWN[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OWN})
