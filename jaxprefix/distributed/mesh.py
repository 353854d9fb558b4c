"""The device mesh of a run, and where the rows of its batches lie on it."""

import dataclasses
from typing import Annotated, Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.distributed.constraints import AXES, ROWS
from jaxprefix.distributed.devices import found_devices
from jaxprefix.errors import UserError
from jaxprefix.typed_json import register
from jaxprefix.values import Bounds, Count

Size = Annotated[int, Bounds(low=-1)]


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

    data: Size = -1
    fsdp: Size = 1
    tp: Size = 1
    slices: Count = 1


def make_mesh(shape: MeshShape, devices: list[Any] | None = None) -> Mesh:
    """The mesh of a shape over all devices (or those given), with Auto axes, neighbours on the chips' own network
    being neighbours along tp first."""
    devices = found_devices() if devices is None else devices
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


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Rows of a batch, which lie along `axis`, shared out over data and fsdp."""
    return NamedSharding(mesh, P(*[None] * axis, ROWS))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, axis: int = 0) -> dict[str, jax.Array]:
    """This process's rows of a global batch, which lie along `axis`, on the devices."""
    sharding = by_rows(mesh, axis)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
