"""The device mesh, and where a run's arrays live on it."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.errors import UserError
from jaxprefix.typed_json import register

AXES = ("data", "fsdp", "tp")


@register
@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; one of them may be -1, for all that remain.

    Attributes:
      data: copies of the backbone, each with its share of the batch.
      fsdp: a second axis of the batch.
      tp: a third axis, which the batch does not use.
    """

    data: int = -1
    fsdp: int = 1
    tp: int = 1


def make_mesh(shape: MeshShape, devices: list[Any] | None = None) -> Mesh:
    """The mesh of a shape over all devices (or those given), with Auto axes."""
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
    return Mesh(np.asarray(devices).reshape(sizes), AXES)


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
    return NamedSharding(mesh, P(*[None] * axis, ("data", "fsdp")))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, axis: int = 0) -> dict[str, jax.Array]:
    """This process's rows of a global batch, which lie along `axis`, on the devices."""
    sharding = by_rows(mesh, axis)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
