"""The kernels of the frozen layers as int8: weight only, symmetric, one scale per output channel.

    s_o = max_i |W_io| / 127        Q_io = round(W_io / s_o)        y = (x Q) s + b

so that `|W_io - s_o Q_io| <= s_o / 2`. The scale stands behind the product (`Linear`), where it costs a multiplication
per output and no float copy of the stack. Embeddings, norms, biases and heads stay as they are.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int8

from jaxprefix.errors import UserError
from jaxprefix.trees import Tree, flatten, unflatten

Quantize = Literal["int8"]


def is_quantized_path(path: str) -> bool:
    """Whether the leaf at a path (`layers/q/kernel`) is one that is kept as int8."""
    return path.startswith("layers/") and path.endswith("/kernel")


def int8_kernel(kernel: Float[Array, "*L I O"]) -> tuple[Int8[Array, "*L I O"], Float[Array, "*L O"]]:
    """The kernel as int8, and its scales in float32; a channel of zeros has scale 1."""
    wide = kernel.astype(jnp.float32)
    largest = jnp.abs(wide).max(-2)
    scale = jnp.where(largest == 0, 1, largest / 127)
    return jnp.round(wide / scale[..., None, :]).astype(jnp.int8), scale


def scale_sharding(kernel: Sharding) -> Sharding | None:
    """The sharding of the scales beside a kernel `[L, I, O]`: as its layers and outputs; None lets the compiler say."""
    if isinstance(kernel, NamedSharding):
        layers, _, outputs = (*kernel.spec, None, None, None)[:3]
        return NamedSharding(kernel.mesh, P(layers, outputs))
    return kernel if kernel.is_fully_replicated else None


def quantized_shapes(path: str, leaf: Array | jax.ShapeDtypeStruct) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the leaves that `quantized` makes, from those of the leaf."""
    if not is_quantized_path(path):
        return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)}
    kernel, scale = jax.eval_shape(int8_kernel, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    where = None if leaf.sharding is None else scale_sharding(leaf.sharding)
    return {
        path: jax.ShapeDtypeStruct(kernel.shape, kernel.dtype, sharding=leaf.sharding),
        f"{path}_scale": jax.ShapeDtypeStruct(scale.shape, scale.dtype, sharding=where),
    }


def quantized(path: str, leaf: Array) -> dict[str, Array]:
    """The leaves, by path, that stand for a leaf: a kernel of the layers becomes int8 and scales, others stay."""
    if not is_quantized_path(path):
        return {path: leaf}
    shapes = quantized_shapes(path, leaf)
    made = jax.jit(int8_kernel, out_shardings=tuple(shape.sharding for shape in shapes.values()))(leaf)
    # waits, so that the float kernel is gone before the next leaf comes; no buffer of it could be donated to int8
    return dict(zip(shapes, jax.block_until_ready(made), strict=True))


def quantize_tree(tree: Tree) -> Tree:
    """A backbone's tree with its layers' kernels as int8."""
    flat: dict[str, Array] = {}
    for path, leaf in flatten(tree).items():
        flat |= quantized(path, leaf)
    return unflatten(flat)


def dequantize_tree(tree: Tree) -> Tree:
    """The float32 kernels `s Q` that a quantized tree computes with, in a tree without scales."""
    flat = flatten(tree)
    for path in [path for path in flat if path.endswith("/kernel_scale")]:
        kernel = path.removesuffix("_scale")
        flat[kernel] = flat[kernel].astype(jnp.float32) * flat.pop(path)[..., None, :]
    return unflatten(flat)


def refuse_quantized(tree: Tree, what: str) -> None:
    """Refuses a tree with int8 leaves where float ones are needed; `what` needs them, as a subject with its verb."""
    for path, leaf in flatten(tree).items():
        if np.issubdtype(leaf.dtype, np.integer):
            raise UserError(
                f"{what} the float values of {path}, and this backbone was loaded with quantize='int8'; load it "
                "without quantize."
            )
