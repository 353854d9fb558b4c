"""Where arrays lie on a mesh: the names of its axes, and constraints on the activations of a model.

Without constraints the compiler may replicate the residual stream or split heads oddly: on 16 chips that cost 3.6 times
the temporaries and 1.8 times the FLOPs of one training step.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxprefix.edits import Dims

AXES = ("data", "fsdp", "tp")
ROWS = ("data", "fsdp")
"""The axes that share out a batch's rows."""

Axis = Literal["rows", "data", "fsdp", "tp"] | None


def constrain(x: Array, *axes: Axis) -> Array:
    """`x` laid out over the mesh that is set; `x` itself where none is, or one of a single device.

    Args:
      x: any array of as many axes as are named.
      axes: for each of its axes `rows` (over data and fsdp), an axis of the mesh, or None for not divided; what its
        size does not divide by is left out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return x
    named = [divided(size, ROWS if axis == "rows" else axis, mesh) for size, axis in zip(x.shape, axes, strict=True)]
    return jax.lax.with_sharding_constraint(x, P(*named))


def look_up(table: Callable[[Array], Array], ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Rows of an embedding table whose width is divided over fsdp.

    Each device looks up its part of the width for all rows of its fsdp group, and one exchange among them gives each
    its rows in full. Left to itself the compiler gathers either the whole table or the whole batch.
    """
    found = constrain(table(constrain(beyond_if_negative(ids), "data", None)), "data", None, "fsdp")
    return constrain(found, "rows", None, None)


def beyond_if_negative(ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Ids of which those below 0 lie beyond any table, where `jnp.take` gives NaN, and not before its end."""
    ids = jnp.asarray(ids)
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))  # the largest int8 may be in the table
    return jnp.where(ids < 0, jnp.iinfo(ids.dtype).max, ids)


def axis_size(name: str) -> int:
    """Devices along an axis of the mesh that is set; 1 where none is."""
    return jax.sharding.get_abstract_mesh().shape.get(name, 1)


def kernel_axes(name: str, dims: Dims) -> tuple[Axis, Axis]:
    """How the kernel `[I, O]` of a layer's map lies once it is gathered from fsdp: over tp by whole heads, or by units
    of the MLP."""
    units = heads_along(name, dims) or dims.mlp_width
    tp: Axis = "tp" if units % axis_size("tp") == 0 else None
    return (tp, None) if name in ("o", "down") else (None, tp)


def heads_along(name: str, dims: Dims) -> int | None:
    """How many heads lie along the axis of a map that is divided over tp; None where none do."""
    return {"q": dims.heads, "o": dims.heads, "k": dims.kv_heads, "v": dims.kv_heads}.get(name)


def divided(size: int, names: str | tuple[str, ...] | None, mesh: Any) -> str | tuple[str, ...] | None:
    """`names` where an axis of this size divides among those axes of the mesh, else None."""
    if names is None:
        return None
    wanted = (names,) if isinstance(names, str) else names
    if not all(name in mesh.shape for name in wanted):
        return None
    return names if size % math.prod(mesh.shape[name] for name in wanted) == 0 else None
