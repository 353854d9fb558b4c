"""The linear map and the layer norm of every backbone."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float, Num

from jaxprefix.distributed.constraints import Axis, axis_size, constrain
from jaxprefix.edits.hooks import LayerHooks

Axes = tuple[Axis, Axis]
WHOLE: Axes = (None, None)
PRODUCT = "kernel_product"
"""The name under which the result of `kernel_product` may be kept for the backward pass."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_product(x: Float[Array, "*B I"], kernel: Num[Array, "I O"], axes: Axes = WHOLE) -> Float[Array, "*B O"]:
    """`x W` of a kernel that is stored in another form than it is used in: as int8, in another dtype, or divided over
    fsdp, from which it is gathered.

    The backward pass keeps the kernel as it is stored, and makes the used form again. Left to itself it would keep that
    form, of every layer of a scan: a copy of the whole stack, on every device.

    Args:
      x: the input, whose dtype is that of the product.
      kernel: of int8 or floats; only the latter has a gradient, which costs nothing where nobody asks for it.
      axes: how the used form lies over the mesh (`constrain`).
    """
    return x @ _used(kernel, x.dtype, axes)


def _used(kernel: Array, dtype: Any, axes: Axes) -> Array:
    """Gathered in whichever of both dtypes is smaller."""
    if kernel.dtype.itemsize <= jnp.dtype(dtype).itemsize:
        return constrain(kernel, *axes).astype(dtype)
    return constrain(kernel.astype(dtype), *axes)


def _forward(x: Any, kernel: Any, axes: Axes) -> tuple[Any, tuple[Array | None, Array]]:
    y = kernel_product(x.value, kernel.value, axes)
    return y, (x.value if kernel.perturbed else None, kernel.value)


def _backward(axes: Axes, kept: tuple[Array | None, Array], dy: Array) -> tuple[Array, Array | None]:
    x, kernel = kept
    dx = dy @ _used(kernel, dy.dtype, axes).T
    return dx, None if x is None else jnp.einsum("...i,...o->io", x, dy).astype(kernel.dtype)


kernel_product.defvjp(_forward, _backward, symbolic_zeros=True)


class Linear(nn.Module):
    """`y = x W + b` in the compute dtype, x offered to the edits' `before_project` and y to their `project` under the
    map's own name.

    Parameters are `kernel` `[I, O]` and, with `use_bias`, `bias` `[O]`, cast to `dtype` at use, so that a tree in
    another dtype (bf16 on disk, f32 while it is trained) runs as it is. Beside a kernel in int8 there is a
    `kernel_scale` float32 `[O]`: then `y = (x W) s + b`, and what exists of W in the compute dtype is this layer's.
    `axes` say how the kernel lies over a mesh once it is gathered from fsdp.
    """

    features: int
    dtype: Any = jnp.float32
    initializer_range: float = 0.02
    use_bias: bool = True
    axes: Axes = WHOLE

    @nn.compact
    def __call__(self, x: Float[Array, "*B I"], hooks: LayerHooks | None = None) -> Float[Array, "*B O"]:
        """The map of `x`, as the hooks replace its input and its output."""
        normal = nn.initializers.normal(self.initializer_range)
        kernel = self.param("kernel", normal, (x.shape[-1], self.features))
        x = x.astype(self.dtype)
        name = self.name or ""  # a map that is no other module's has none
        x = x if hooks is None else hooks.before_project(name, x)
        stored_otherwise = kernel.dtype != x.dtype or axis_size("fsdp") > 1
        # named, since a policy of rematerialisation does not see the product inside
        y = checkpoint_name(kernel_product(x, kernel, self.axes), PRODUCT) if stored_otherwise else x @ kernel
        if self.has_variable("params", "kernel_scale"):
            y = (y * self.get_variable("params", "kernel_scale")).astype(self.dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y if hooks is None else hooks.project(name, x, y)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), computed in float32 or wider, returned in the input's dtype."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The normalised `x` in its own dtype."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        h = x.astype(wide)
        h = h - h.mean(-1, keepdims=True)
        h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + self.epsilon)
        return (h * scale.astype(wide) + bias.astype(wide)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang & Sennrich 2019), `x / rms(x) * (scale + offset)`, computed in float32 or
    wider, returned in the input's dtype. With an offset of 1 (Gemma) a fresh scale is 0, else 1."""

    epsilon: float
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The normalised `x` in its own dtype."""
        scale = self.param("scale", nn.initializers.constant(1.0 - self.offset), (x.shape[-1],))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        h = x.astype(wide)
        h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + self.epsilon)
        return (h * (scale.astype(wide) + self.offset)).astype(x.dtype)
