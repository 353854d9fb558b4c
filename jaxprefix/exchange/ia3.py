"""PEFT's (IA)3, both ways.

PEFT gives each module that `target_modules` names one vector `ia3_l`: `[O, 1]`, which scales the module's output, or,
where `feedforward_modules` names it as well, `[1, I]`, which scales its input. Its defaults reach further than the
paper: `output.dense` of BERT and RoBERTa is the attention's output map too, and GPT-2's one module of queries, keys and
values has a vector that covers all three.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.exchange.layout import Tensors, take
from jaxprefix.exchange.peft_type import MethodRead, PeftType
from jaxprefix.methods.ia3 import IA3
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree

ROOT, VECTOR = "base_model.model.", ".ia3_l"
Vectors = dict[str, dict[int, np.ndarray]]


class Place(NamedTuple):
    """Where a linear map of a layer lies in a module of the torch model: all of its outputs, or those of `part`.

    `name` is the module's, with `{layer}` in it; `conv` marks GPT-2's `Conv1D`, whose kernel is [in, out].
    """

    map: str
    name: str
    inputs: int
    outputs: int
    part: slice
    conv: bool


def places(module: Module) -> list[Place]:
    """The linear maps of a backbone's layers, by its own table of leaves."""
    prefix, found = module.config.prefix, []
    for leaf in module.config.leaves():
        name = leaf.path.removeprefix("layers/").removesuffix("/kernel")
        if name in module.dims.maps:
            inputs, outputs = leaf.shape
            part = slice(0, outputs) if leaf.part is None else slice(*leaf.part)
            torch_name = prefix + leaf.names[0].removesuffix(".weight")
            found.append(Place(name, torch_name, inputs, leaf.whole or outputs, part, not leaf.transposed))
    return found


def read(tensors: Tensors, config: Mapping[str, Any], module: Module) -> MethodRead:
    """The scales of every map that the settings name.

    Raises:
      UserError: they name none, or a vector is missing or ill-shaped.
    """
    layers = module.dims.layers
    known: set[str] = set()
    outputs: Vectors = {}
    inputs: Vectors = {}
    for place in places(module):
        for layer in range(layers):
            name = place.name.replace("{layer}", str(layer))
            if not _targeted(config, name):
                continue
            tensor = f"{ROOT}{name}{VECTOR}"
            known.add(tensor)
            if _of_inputs(config, name):
                inputs.setdefault(place.map, {})[layer] = take(tensors, tensor, (1, place.inputs))[0]
            else:
                vector = take(tensors, tensor, (place.outputs, 1))[:, 0]
                outputs.setdefault(place.map, {})[layer] = vector[place.part]
    chosen = sorted({layer for vectors in (*outputs.values(), *inputs.values()) for layer in vectors})
    if not chosen:
        raise UserError(
            f"target_modules = {config.get('target_modules')!r} names no linear map of a layer of this backbone; name "
            "the backbone that the adapter was trained on."
        )

    def stacked(vectors: Vectors) -> dict[str, np.ndarray]:
        """Ones in layers that have other vectors than this one."""
        ones = {name: np.ones_like(next(iter(of.values()))) for name, of in vectors.items()}
        return {name: np.stack([of.get(layer, ones[name]) for layer in chosen]) for name, of in vectors.items()}

    method = IA3(tuple(outputs), tuple(inputs), None if len(chosen) == layers else tuple(chosen))
    leaves = {"outputs": stacked(outputs), "inputs": stacked(inputs)}
    return MethodRead(method, {kind: tree for kind, tree in leaves.items() if tree}, known)


def write(model: TunedModel, trainable: Tree) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The vectors of every module that holds a scaled map, ones for maps in it that have no scale.

    Raises:
      UserError: both inputs and outputs of a module are scaled, or maps in one module have different scales of the
        input that they share.
    """
    method: Any = model.method
    leaves, every = trainable["method"], places(model.backbone)
    scaled: dict[str, list[Place]] = {
        place.name: [] for place in every if place.map in (*method.outputs, *method.inputs)
    }
    for place in every:
        if place.name in scaled:
            scaled[place.name].append(place)
    chosen = sorted(range(model.backbone.dims.layers) if method.layers is None else method.layers)
    tensors, forward = {}, []
    for name, inside in scaled.items():
        maps = [place.map for place in inside]
        of_inputs = [leaves["inputs"][own] for own in maps if own in method.inputs]
        if of_inputs and any(own in method.outputs for own in maps):
            raise UserError(
                f"IA3 scales inputs and outputs of {', '.join(maps)}, and PEFT has one vector for each module; train "
                "with one of the two."
            )
        if of_inputs and not _one_vector(of_inputs, len(maps)):
            raise UserError(
                f"the maps {', '.join(maps)} are one module with one input in PEFT, and IA3 has different scales of "
                "it; train with scales of their outputs."
            )
        if of_inputs:
            forward.append(name)
        for place, layer in enumerate(chosen):
            if of_inputs:
                vector = np.asarray(of_inputs[0][place], np.float32)[None]
            else:
                vector = np.ones((inside[0].outputs, 1), np.float32)
                for own in inside:
                    if own.map in method.outputs:
                        vector[own.part, 0] = np.asarray(leaves["outputs"][own.map][place], np.float32)
            tensors[f"{ROOT}{name.replace('{layer}', str(layer))}{VECTOR}"] = np.ascontiguousarray(vector)
    whole = len(chosen) == model.backbone.dims.layers
    others = {place.name for place in every}
    settings = {
        "exclude_modules": None,
        "fan_in_fan_out": all(place.conv for inside in scaled.values() for place in inside),
        "feedforward_modules": [name for module in forward for name in _names(module, chosen, others, whole)],
        "init_ia3_weights": True,
        "target_modules": [name for module in scaled for name in _names(module, chosen, others, whole)],
    }
    return tensors, settings


def _one_vector(vectors: list[Any], maps: int) -> bool:
    return len(vectors) == maps and all(np.array_equal(vectors[0], other) for other in vectors)


def _names(name: str, layers: Iterable[int], others: set[str], whole: bool) -> list[str]:
    """Names by which PEFT finds a module in these layers and no other: what follows the layer's number where that is
    enough, else whole names."""
    tail = name.partition("{layer}.")[2]
    if whole and not any(other.endswith(tail) for other in others - {name}):
        return [tail]
    return [name.replace("{layer}", str(layer)) for layer in layers]


def _targeted(config: Mapping[str, Any], name: str) -> bool:
    """Whether PEFT gives the module a vector."""
    return _matches(config.get("target_modules"), name) and not _matches(config.get("exclude_modules"), name)


def _matches(said: Any, name: str) -> bool:
    """A text is a regular expression of whole names; of a list any entry may be a name or its last parts."""
    if isinstance(said, str):
        return re.fullmatch(said, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in said or ())


def _of_inputs(config: Mapping[str, Any], name: str) -> bool:
    said = config.get("feedforward_modules") or ()
    return re.fullmatch(said, name) is not None if isinstance(said, str) else name.endswith(tuple(said))


IA3_TYPE = PeftType(
    name="IA3",
    what="(IA)3",
    methods=(IA3,),
    settings=frozenset(
        ("exclude_modules", "fan_in_fan_out", "feedforward_modules", "init_ia3_weights", "target_modules")
    ),
    root=ROOT,
    write=write,
    read=read,
)
