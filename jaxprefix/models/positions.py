"""Prefixes from one position convention to another, exactly, where positions are rotations (RoPE).

Two conventions are in use: the prefix takes the first P positions and real tokens follow it (Hugging Face PEFT,
P-Tuning v2: `position_offset=True`), or it takes none and real tokens start at 0 (the `adapters` library:
`position_offset=False`). A rotated score depends on the distance of its two tokens alone, so that moving the real
tokens by d positions is undone by turning the prefix's keys, which are stored as they enter the attention, by d
positions too. Values are not rotated.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxprefix.errors import UserError
from jaxprefix.methods.base import Combined, Method, parts_of
from jaxprefix.methods.prefix import PrefixMethod, slots
from jaxprefix.models.backbone_config import BackboneConfig, Module
from jaxprefix.models.rope import Rope, rotate, turns
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree

M = TypeVar("M", bound=Method)


def has_rotation(config: BackboneConfig) -> bool:
    """Whether positions are rotations, rather than rows of a table."""
    return None not in config.layer_ropes


def move_keys(config: BackboneConfig, keys: Float[Array, "L P K E"], by: int) -> Float[Array, "L P K E"]:
    """Keys as they would be `by` positions further on, each layer by its own rotation; an amplitude, which they have
    already, stays as it is."""

    def moved(layer: Array, rope: Rope | None) -> Array:
        assert rope is not None  # `has_rotation`
        by_tokens = turns(dataclasses.replace(rope, amplitude=1.0), jnp.full(layer.shape[:1], by), layer.shape[-1])
        return rotate(layer, by_tokens)

    return jnp.stack([moved(layer, rope) for layer, rope in zip(keys, config.layer_ropes, strict=True)])


def convert_positions(
    backbone: Module | TunedModel, method: M, params: Tree, position_offset: bool | int
) -> tuple[M, Tree]:
    """The same function with real tokens at other positions; exact up to rounding.

    What a prefix from the `adapters` library (`position_offset=False`) needs to go to Hugging Face PEFT (`True`), or
    the other way round.

    Args:
      backbone: the decoder, or a model on it.
      method: a prefix method without MLP, gated or not, or a sum with one such part.
      params: its leaves (`trainable["method"]`); they stay as they are.
      position_offset: as the prefix method has it; True for P.

    Returns:
      The method with that offset, and its leaves.

    Raises:
      UserError: learned positions, an MLP (`jp.collapse` it first), no prefix, or several.
    """
    module = backbone.backbone if isinstance(backbone, TunedModel) else backbone
    if not has_rotation(module.config):
        raise UserError(
            f"{module.config.model_type} has learned positions, under which a prefix cannot be moved exactly; keep the "
            "position_offset that it was trained with."
        )
    parts = parts_of(method)
    prefixes = [index for index, part in enumerate(parts) if isinstance(part, PrefixMethod)]
    if len(prefixes) != 1:
        raise UserError(
            f"{type(method).__name__} has {len(prefixes)} prefixes, and positions are converted for one; give a method "
            "with one."
        )
    (index,) = prefixes
    if not isinstance(method, Combined):
        return _converted(module, method, params, position_offset)
    name = method.names[index]
    part, leaves = _converted(module, parts[index], params[name], position_offset)
    return dataclasses.replace(method, parts=(*parts[:index], part, *parts[index + 1 :])), {**params, name: leaves}


def _converted(module: Module, method: Any, params: Tree, position_offset: bool | int) -> tuple[Any, Tree]:
    if "keys" not in params:
        raise UserError(
            f"{type(method).__name__} makes its keys by an MLP, which cannot be rotated; collapse it first "
            "(jp.collapse)."
        )
    dims, made = module.dims, dataclasses.replace(method, position_offset=position_offset)
    layer, token = slots(made.layer_lengths(dims))
    by = made.offset(dims) - method.offset(dims)
    keys = jnp.zeros((dims.layers, int(token.max()) + 1, *params["keys"].shape[1:]), params["keys"].dtype)
    moved = jax.jit(move_keys, static_argnums=(0, 2))(module.config, keys.at[layer, token].set(params["keys"]), by)
    return made, {**params, "keys": moved[layer, token]}
