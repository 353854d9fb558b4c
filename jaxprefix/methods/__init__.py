"""What is trained: one paper per file.

`LISTED` is the one list of methods: the public names `jp.<class>` and the comparison's entries are made from it, and a
class says of itself what they need to know (`Method`). A method is added by its own file, with `register` above its
class, and a line here. Classes are imported at first use, all of them by `load_methods`.
"""

import importlib
from typing import Any

LISTED = {
    "PTuningV2": "p_tuning_v2",
    "PrefixTuning": "prefix_tuning",
    "AdaptivePrefix": "adaptive_prefix",
    "PromptTuning": "prompt_tuning",
    "Inducer": "inducer",
    "MultiHeadAdapter": "multi_head_adapter",
    "LoRA": "lora",
    "IA3": "ia3",
    "ParallelAdapter": "bottleneck",
    "SequentialAdapter": "bottleneck",
    "KernelMix": "kernel_mix",
    "NewTokens": "new_tokens",
    "BitFit": "baselines",
    "HeadOnly": "baselines",
    "FullFineTuning": "baselines",
    "At": "placed",
    "Combined": "base",
}
"""Every method that comes with the package, with the module that it lives in; comparisons show them in this order."""

PUBLIC = {**LISTED, "Method": "base", "collapse": "prefix_tuning", "parts_of": "base"}
"""What this room hands on, as `jp.<name>` too."""

METHODS: tuple[Any, ...]
"""The classes of `LISTED`."""


def __getattr__(name: str) -> Any:
    if name == "METHODS":
        return tuple(__getattr__(listed) for listed in LISTED)
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PUBLIC[name]}"), name)


def load_methods() -> None:
    """Imports every method, so that configs and checkpoints that hold them can be read."""
    for name in LISTED:
        __getattr__(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC, "METHODS"})
