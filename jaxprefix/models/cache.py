"""What a causal model keeps of the tokens that it has seen, so that each new one costs one token."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.edits import Dims, edit, static


@edit
class Cache:
    """Keys and values of real tokens, in S columns that are filled from the left; virtual tokens are never in it.

    Every row is filled to the same column; rows that are shorter have padding on the left. Heads stand before rows,
    as the attention multiplies them.

    Attributes:
      keys, values: `[L, K, B, S, E]`; where layers are unrolled a tuple with one of `[K, B, S, E]` per layer, so that
        none is copied out of the stack at every step.
      mask: True where there is a real token, an embedding-level prompt's rows included.
      first_token_hidden: each layer's input at each row's first real token, which gates read.
      length: how many columns are filled.
      filled: whether any is; an empty cache is filled by a pass over the whole prompt.
    """

    keys: Any
    values: Any
    mask: Bool[Array, "B S"]
    first_token_hidden: Float[Array, "L B D"]
    length: Int[Array, ""]
    filled: bool = static(default=False)

    @classmethod
    def empty(cls, dims: Dims, rows: int, columns: int, dtype: Any = jnp.float32, unrolled: bool = False) -> "Cache":
        """A cache for `rows` rows of up to `columns` tokens, prompt and new ones together."""
        shape = (dims.kv_heads, rows, columns, dims.head_width)

        def stack() -> Any:
            if unrolled:
                return tuple(jnp.zeros(shape, dtype) for _ in range(dims.layers))
            return jnp.zeros((dims.layers, *shape), dtype)

        return cls(
            stack(),
            stack(),
            jnp.zeros((rows, columns), bool),
            jnp.zeros((dims.layers, rows, dims.width), dtype),
            jnp.zeros((), jnp.int32),
        )

    @property
    def capacity(self) -> int:
        """S."""
        return self.mask.shape[1]

    def seeing(self, mask: Bool[Array, "B T"]) -> Bool[Array, "B S"]:
        """Which columns hold real tokens once T more are in, whose own mask is given."""
        return jax.lax.dynamic_update_slice_in_dim(self.mask, mask, self.length, axis=1)

    def put(self, layer: Any, k: Float[Array, "B T K E"], v: Float[Array, "B T K E"]) -> "Cache":
        """The cache with a layer's T new keys and values in their columns."""

        def write(stack: Any, new: Array) -> Any:
            zero = jnp.zeros((), self.length.dtype)  # a plain 0 is another integer type where 64 bits are on
            new, at = new.transpose(2, 0, 1, 3), (zero, zero, self.length, zero)
            if not isinstance(stack, tuple):
                at = (jnp.asarray(layer, zero.dtype), *at)
                return jax.lax.dynamic_update_slice(stack, new[None].astype(stack.dtype), at)
            written = jax.lax.dynamic_update_slice(stack[layer], new.astype(stack[layer].dtype), at)
            return (*stack[:layer], written, *stack[layer + 1 :])

        return dataclasses.replace(self, keys=write(self.keys, k), values=write(self.values, v))

    def of(self, layer: Any) -> tuple[Float[Array, "B S K E"], Float[Array, "B S K E"]]:
        """A layer's keys and values."""
        return self.keys[layer].transpose(1, 2, 0, 3), self.values[layer].transpose(1, 2, 0, 3)

    def of_rows(self, rows: Int[Array, "R"]) -> "Cache":
        """A cache of these rows of this one, the same row more than once perhaps."""
        keys, values = jax.tree.map(lambda stack: jnp.take(stack, rows, axis=-3), (self.keys, self.values))
        return dataclasses.replace(
            self, keys=keys, values=values, mask=self.mask[rows], first_token_hidden=self.first_token_hidden[:, rows]
        )
