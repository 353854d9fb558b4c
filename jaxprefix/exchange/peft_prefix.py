"""PEFT's prefix tuning: keys and values of virtual tokens, both ways.

PEFT keeps one table `prompt_embeddings` `[P, 2 L K E]` (an MLP is evaluated when it saves), shifts the positions of
real tokens by P, and applies no dropout to the prefix. On decoders it hands the prefix over as keys and values of
tokens that were seen before: keys are stored as they enter the attention (rotated), the table is as wide as the
key/value heads, and in layers with a sliding window the prefix leaves it (`subject_to_window=True`). PEFT ignores
tensors that it does not know, so an adapter with more than that would load there and be another function: `write`
refuses it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.exchange.layout import Tensors, from_table, take, to_table
from jaxprefix.exchange.peft_type import MethodRead, PeftType
from jaxprefix.methods import PrefixTuning, PTuningV2, collapse
from jaxprefix.methods.prefix import PrefixMethod
from jaxprefix.methods.prefix_edits import Prefix
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.positions import convert_positions, has_rotation
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree

TABLE = "prompt_embeddings"


def write(model: TunedModel, trainable: Tree) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The table and its settings.

    Raises:
      UserError: PEFT would read it as another function.
    """
    dims, prefix = model.backbone.dims, exported_prefix(model, trainable)
    table = to_table(np.asarray(prefix.keys, np.float32), np.asarray(prefix.values, np.float32))
    width = dims.kv_heads * dims.head_width
    settings = {
        "encoder_hidden_size": width,
        "num_attention_heads": dims.kv_heads,
        "num_layers": dims.layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": len(table),
        "prefix_projection": False,
        "token_dim": width,
    }
    return {TABLE: table}, settings


def read(tensors: Tensors, config: Mapping[str, Any], module: Module) -> MethodRead:
    """The prefix, without the MLP that PEFT dropped."""
    dims = module.dims
    width = dims.kv_heads * dims.head_width
    table = take(tensors, TABLE, (config.get("num_virtual_tokens"), 2 * dims.layers * width))
    method = PTuningV2(length=len(table), dropout=0.0, subject_to_window=module.config.slides)
    return MethodRead(method, from_table(table, dims.layers, dims.kv_heads, dims.head_width), {TABLE})


def exported_prefix(model: TunedModel, trainable: Tree) -> Prefix:
    """The keys and values `[L, P, K, E]` that the method hands to the layers, where they are all that it does.

    Raises:
      UserError: the method does more than PEFT's prefix can say.
    """
    method, name = model.method, type(model.method).__name__
    assert isinstance(method, PrefixMethod)  # as those of `PREFIX_TUNING.methods` are
    lengths = method.layer_lengths(model.backbone.dims)
    if min(lengths) < max(lengths):
        field = "lengths" if method.lengths is not None else "layers"
        raise UserError(
            f"{name} has {field} = {getattr(method, field)}, but PEFT gives every layer a prefix of the same length, "
            f"and tokens of zeros would take attention too; train without {field}."
        )
    if method.no_op_start:
        raise UserError(f"{name}(no_op_start=True) has masses, which PEFT would silently drop; train without it.")
    config = model.backbone.config
    if config.slides and not method.subject_to_window:
        raise UserError(
            f"{config.model_type} has windows of {config.window} tokens, which a prefix leaves in PEFT, and {name} has "
            "subject_to_window = False; set it to True (which changes nothing for prefix and row together no longer "
            "than a window)."
        )
    if has_rotation(config):
        model, trainable = _moved(model, trainable)
    elif not method.position_offset:
        raise UserError(f"{name} has position_offset = False, but PEFT shifts positions; train with True.")
    edits = model.edits(trainable)
    prefix = edits.layers[0] if len(edits.layers) == 1 else None
    if type(prefix) is not Prefix or len(jax.tree.leaves(prefix)) != 2 or edits.position_offset != prefix.keys.shape[1]:
        raise UserError(f"{name} does more than add keys and values, which PEFT would silently drop; export another.")
    return prefix


def _moved(model: TunedModel, trainable: Tree) -> tuple[TunedModel, Tree]:
    """The same function with the positions of real tokens shifted by P."""
    method, leaves = model.method, trainable["method"]
    assert isinstance(method, PrefixMethod)
    if method.position_offset is True:
        return model, trainable
    if "keys" not in leaves:
        method, leaves = collapse(method, leaves, model.backbone.dims)
    method, leaves = convert_positions(model, method, leaves, True)
    return dataclasses.replace(model, method=method), {**trainable, "method": leaves}


PREFIX_TUNING = PeftType(
    name="PREFIX_TUNING",
    what="a prefix",
    methods=(PTuningV2, PrefixTuning),
    settings=frozenset(
        (
            *("encoder_hidden_size", "init_weights", "num_attention_heads", "num_layers", "num_transformer_submodules"),
            *("num_virtual_tokens", "prefix_projection", "token_dim"),
        )
    ),
    root="base_model.",
    write=write,
    read=read,
)
