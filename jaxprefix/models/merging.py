"""Putting a trained LoRA into the weights it updates, so that it costs nothing any more."""

import dataclasses
import itertools

from jaxprefix.errors import UserError
from jaxprefix.methods.base import Combined, parts_of
from jaxprefix.methods.baselines import HeadOnly
from jaxprefix.methods.lora import LoRA, merge_update
from jaxprefix.models.quantizing import refuse_quantized
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree, flatten, merge, split


def merge_lora(model: TunedModel, trainable: Tree, frozen: Tree) -> tuple[TunedModel, Tree, Tree]:
    """The same function without its LoRA: `W + s A^T B^T` in place of W, `b + s c` in place of b.

    Exact up to rounding in the dtype of the backbone's leaves; merge into a float32 tree where that matters.

    Args:
      model: its method is a LoRA, or a sum with one among its parts.
      trainable: its trained leaves; the tree stays as it is.
      frozen: its other leaves; the tree stays as it is.

    Returns:
      Model, trainable tree and frozen tree; the method is what remains of the sum, `HeadOnly` where nothing does.

    Raises:
      UserError: there is no LoRA, a part before it acts on an output that it updates, or the backbone is quantized.
    """
    parts = parts_of(model.method)
    names = model.method.names if isinstance(model.method, Combined) else ("",)
    if not any(isinstance(part, LoRA) for part in parts):
        raise UserError(f"{type(model.method).__name__} has no LoRA to merge; give a model that was tuned with one.")
    backbone = merge(frozen["backbone"], trainable.get("backbone", {}))
    refuse_quantized(backbone, "merge_lora changes")
    leaves, kept = trainable.get("method", {}), {}
    for index, (name, part) in enumerate(zip(names, parts, strict=True)):
        own = leaves.get(name, {}) if name else leaves
        if not isinstance(part, LoRA):
            kept[name] = (part, own)
            continue
        for before, map_name in itertools.product(parts[:index], part.maps):
            if before.reads_output(map_name):
                raise UserError(
                    f"the LoRA of the map {map_name} comes after the {type(before).__name__} on that map's output, so "
                    f"merging it would change what the {type(before).__name__} reads; write the LoRA first in the sum "
                    "and tune again."
                )
        backbone = merge_update(part, own, backbone, model.backbone.dims)
    moved = set(flatten(trainable.get("backbone", {})))
    moved_tree, kept_tree = split(backbone, lambda path: path in moved)
    method, tree = _remaining(kept)
    rest = {"method": tree, "backbone": moved_tree, "head": trainable.get("head", {})}
    rest = {name: value for name, value in rest.items() if flatten(value)}
    return dataclasses.replace(model, method=method), rest, {**frozen, "backbone": kept_tree}


def _remaining(kept: dict) -> tuple:
    """Method and leaves of the parts that are left; names are counted anew."""
    if not kept:
        return HeadOnly(), {}
    parts, trees = zip(*kept.values(), strict=True)
    if len(parts) == 1:
        return parts[0], trees[0]
    method = Combined(parts)
    return method, {name: tree for name, tree in zip(method.names, trees, strict=True) if tree}
