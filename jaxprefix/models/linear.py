"""The linear map and the layer norm of every backbone."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int8


@jax.custom_vjp
def int8_product(x: Float[Array, "*B I"], kernel: Int8[Array, "I O"]) -> Float[Array, "*B O"]:
    """`x W` of a kernel in int8, without a gradient by the kernel.

    The backward pass keeps the kernel as it is. Left to itself it would keep the kernel's cast, of every layer of a
    scan: the float copy of the stack that int8 is to save.
    """
    return x @ kernel.astype(x.dtype)


def _forward(x: Array, kernel: Array) -> tuple[Array, Array]:
    return int8_product(x, kernel), kernel


def _backward(kernel: Array, dy: Array) -> tuple[Array, None]:
    return dy @ kernel.astype(dy.dtype).T, None


int8_product.defvjp(_forward, _backward)


class Linear(nn.Module):
    """`y = x W + b` in the compute dtype, offered to the edits' `project` hook under the map's own name.

    Parameters are `kernel` `[I, O]` and, with `use_bias`, `bias` `[O]`, cast to `dtype` at use, so that a tree in
    another dtype (bf16 on disk, f32 while it is trained) runs as it is. Beside a kernel in int8 there is a
    `kernel_scale` float32 `[O]`: then `y = (x W) s + b`, and what exists of W in the compute dtype is this layer's.
    """

    features: int
    dtype: Any = jnp.float32
    initializer_range: float = 0.02
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B I"], project: Callable[[str, Array, Array], Array] | None = None
    ) -> Float[Array, "*B O"]:
        normal = nn.initializers.normal(self.initializer_range)
        kernel = self.param("kernel", normal, (x.shape[-1], self.features))
        if self.has_variable("params", "kernel_scale"):
            scale = self.get_variable("params", "kernel_scale")
            y = (int8_product(x.astype(self.dtype), kernel) * scale).astype(self.dtype)
        else:
            y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y if project is None else project(self.name, x, y)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), computed in float32 or wider, returned in the input's dtype."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
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
        scale = self.param("scale", nn.initializers.constant(1.0 - self.offset), (x.shape[-1],))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        h = x.astype(wide)
        h = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + self.epsilon)
        return (h * (scale.astype(wide) + self.offset)).astype(x.dtype)
