"""The device mesh, and where a run's arrays live on it."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.errors import UserError
from jaxprefix.models.backbones import Module
from jaxprefix.models.rules import frozen_spec
from jaxprefix.placement import AXES, ROWS, divided
from jaxprefix.trees import Tree, flatten, unflatten
from jaxprefix.typed_json import register


@register
@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; one of the three axes may be -1, for all that remain.

    Attributes:
      data: copies of the backbone, each with its share of the batch.
      fsdp: shares of the batch as well; frozen kernels are divided over it and gathered layer by layer.
      tp: shares of the heads and of the MLP's units.
      slices: groups of devices that only a data centre network joins; they divide `data`.
    """

    data: int = -1
    fsdp: int = 1
    tp: int = 1
    slices: int = 1


def make_mesh(shape: MeshShape, devices: list[Any] | None = None) -> Mesh:
    """The mesh of a shape over all devices (or those given), with Auto axes, neighbours on the chips' own network
    being neighbours along tp first."""
    devices = jax.devices() if devices is None else devices
    sizes = [shape.data, shape.fsdp, shape.tp]
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"the mesh {tuple(sizes)} must have sizes of at least 1, and at most one -1.")
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"the mesh {(shape.data, shape.fsdp, shape.tp)} does not fit {len(devices)} devices; "
            "its sizes must multiply to that number (one of them may be -1)."
        )
    if shape.slices < 1 or sizes[0] % shape.slices:
        raise UserError(
            f"mesh.slices is {shape.slices}, which does not divide the data axis of {sizes[0]}; take a divisor of it."
        )
    if len(devices) == 1:
        return Mesh(np.asarray(devices).reshape(sizes), AXES)
    physical = {"devices": devices, "allow_split_physical_axes": True}
    try:
        if shape.slices > 1:
            inner = (sizes[0] // shape.slices, *sizes[1:])
            return Mesh(mesh_utils.create_hybrid_device_mesh(inner, (shape.slices, 1, 1), **physical), AXES)
        return Mesh(mesh_utils.create_device_mesh(sizes, **physical), AXES)
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"the mesh {tuple(sizes)} cannot be laid over these devices ({error}); take another."
        ) from error


def check_batch(name: str, rows: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuses a batch that does not divide among the devices and the accumulation steps."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows < 1 or rows % (ways * accumulate):
        steps = f" and {accumulate} accumulation steps" if accumulate > 1 else ""
        raise UserError(
            f"{name} is {rows}, which does not divide among {ways} devices (data x fsdp){steps}; "
            f"take a multiple of {ways * accumulate}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, P())


def frozen_shardings(module: Module, mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """From path and shape of a backbone's leaf to its place, by the backbone's rules."""
    return lambda path, shape: NamedSharding(mesh, frozen_spec(module, path, tuple(shape), mesh))


def tree_shardings(module: Module, tree: Tree, mesh: Mesh) -> Tree:
    """The places of `frozen` as `TunedModel.init` gives it: those under `backbone` and under `born` by the backbone's
    rules."""
    place = frozen_shardings(module, mesh)
    return {part: _by_path(leaves, place) for part, leaves in tree.items()}


def trainable_shardings(module: Module, trainable: Tree, mesh: Mesh) -> Tree:
    """The places of trainable leaves: replicated, except prefix keys and values `[N, K, E]` and the maps of inducers
    `[L, H, ...]`, whose heads follow tp where they divide, and leaves of the backbone, which its rules place."""
    place, dims = frozen_shardings(module, mesh), module.dims

    def where(path: str, shape: tuple[int, ...]) -> NamedSharding:
        if path.startswith("backbone/"):
            return place(path.removeprefix("backbone/"), shape)
        of_prefix = re.fullmatch(r"method/(\w+/)*(keys|values)", path) and shape[1:2] == (dims.kv_heads,)
        of_inducer = re.fullmatch(r"method/(\w+/)*(key|value)/[AaBb]", path) and shape[:2] == (dims.layers, dims.heads)
        if (of_prefix and len(shape) == 3) or of_inducer:
            return NamedSharding(mesh, P(None, divided(shape[1], "tp", mesh), *[None] * (len(shape) - 2)))
        return replicated(mesh)

    return _by_path(trainable, where)


def state_shardings(module: Module, state: Any, mesh: Mesh) -> Any:
    """The places of a `TrainState` of arrays or shapes: what the optimizer keeps of a leaf lies where the leaf lies."""
    places = flatten(trainable_shardings(module, state.trainable, mesh))
    shapes = {path: leaf.shape for path, leaf in flatten(state.trainable).items()}

    def where(keys: tuple, leaf: Any) -> NamedSharding:
        path = "/".join(str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey))
        return places[path] if shapes.get(path) == leaf.shape else replicated(mesh)

    return jax.tree_util.tree_map_with_path(where, state)


def _by_path(tree: Tree, where: Callable[[str, tuple[int, ...]], NamedSharding]) -> Tree:
    return unflatten({path: where(path, leaf.shape) for path, leaf in flatten(tree).items()})


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows of a batch, which lie along `axis`, shared out over data and fsdp."""
    return NamedSharding(mesh, P(*[None] * axis, ROWS))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, axis: int = 0) -> dict[str, jax.Array]:
    """This process's rows of a global batch, which lie along `axis`, on the devices."""
    sharding = by_rows(mesh, axis)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
