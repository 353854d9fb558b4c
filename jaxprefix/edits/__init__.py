"""The contract between tuning methods and backbones: what an edit of a frozen layer is, and how edits compose.

A method builds *edits* from its parameters once per call, outside the scan over layers. A `LayerEdit` is a pytree
whose every leaf is stacked `[L, ...]`; the layer stack slices it, so inside a layer its hooks see their own layer's
leaves. A backbone calls the hooks at fixed places and knows no method by name; a method writes hooks and knows no
backbone by name.

To write one, subclass `LayerEdit` as a registered frozen dataclass (`@edit`), annotate leaves as arrays and mark
hyperparameters with `static()`; override the hooks that the method needs. No checks in `__post_init__`: unflattening
runs it on tracers.
"""

from jaxprefix.edits.composition import NO_EDITS, Edits, StackEdits, check_stacked
from jaxprefix.edits.context import Context, Tokens, segment_starts
from jaxprefix.edits.dims import BUILT_RATES, Dims, Rates
from jaxprefix.edits.layer_edit import LayerEdit
from jaxprefix.edits.leaves import Leaf, declare, leaf
from jaxprefix.edits.pytree import edit, static

__all__ = [
    "BUILT_RATES",
    "NO_EDITS",
    "Context",
    "Dims",
    "Edits",
    "LayerEdit",
    "Leaf",
    "Rates",
    "StackEdits",
    "Tokens",
    "check_stacked",
    "declare",
    "edit",
    "leaf",
    "segment_starts",
    "static",
]
