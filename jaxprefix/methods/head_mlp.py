"""A small MLP for every attention head, and its leaves."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxprefix.edits import Dims, edit, leaf
from jaxprefix.methods.layers import chosen_layers, folded_normal, in_layers


@edit
class HeadMLP:
    """A two-layer MLP for every head: `tanh(x A + a) B + b`.

    Attributes:
      A, a: the hidden layer.
      B, b: `[H, r, O]` and `[H, O]` for an output per head; `[H, r, D]`, or `[r, D]` shared by the heads, and `[D]` for
        one output of all heads together.
    """

    A: Float[Array, "*L H E r"]
    a: Float[Array, "*L H r"]
    B: Array
    b: Array

    def hidden(self, x: Float[Array, "B T H E"]) -> Float[Array, "B T H r"]:
        """The hidden layer `tanh(x A + a)` of every head."""
        # not asked for wider: XLA has no such product with a batch of heads for bfloat16 on a CPU
        z = jnp.einsum("bthe,her->bthr", x, self.A.astype(x.dtype))
        return jnp.tanh(z + self.a).astype(x.dtype)

    def per_head(self, u: Float[Array, "B T H r"]) -> Float[Array, "B T H O"]:
        """Without the bias."""
        return jnp.einsum("bthr,hro->btho", u, self.B.astype(u.dtype))

    def over_heads(self, u: Float[Array, "B T H r"]) -> Float[Array, "B T D"]:
        """The sum over heads, without the bias."""
        if self.B.ndim == 2:
            return u.sum(2) @ self.B.astype(u.dtype)
        return u.reshape(*u.shape[:2], -1) @ self.B.reshape(-1, self.B.shape[-1]).astype(u.dtype)


class HeadMLPLeaves(nn.Module):
    """`A` `[L, H, E, r]`, `a`, `B`, `b` of a `HeadMLP`: an entry for each layer that the method chose, spread over all.

    Attributes:
      method: has the fields `layers`, `value_extension`, `head_share`, `zero_init_up`.
      dims: of the backbone.
      rank: r.
      kind: `value`: as the method's extension says; `key`: an output per head, never zero at the start; `real`: like
        `value`, with the hidden layers of the key/value heads.
    """

    method: Any
    dims: Dims
    rank: int
    kind: str

    @nn.compact
    def __call__(self) -> HeadMLP:
        """Makes the leaves; the MLPs of all layers."""
        method, dims, rank = self.method, self.dims, self.rank
        layers, heads = len(chosen_layers(method, dims)), dims.heads
        hidden_heads = dims.kv_heads if self.kind == "real" else heads
        up: tuple[int, ...] = (heads, rank, dims.head_width)
        bias: tuple[int, ...] = (heads, dims.head_width)
        if self.kind != "key" and method.value_extension:
            up, bias = ((rank, dims.width) if method.head_share else (heads, rank, dims.width)), (dims.width,)
        start = nn.initializers.zeros if method.zero_init_up and self.kind != "key" else folded_normal
        leaves = {
            "A": leaf(self, "A", folded_normal, (layers, hidden_heads, dims.head_width, rank), tp=1, matrix=(2, 3)),
            "a": leaf(self, "a", folded_normal, (layers, hidden_heads, rank), decay=False, tp=1),
            # what the heads share follows none of them
            "B": leaf(self, "B", start, (layers, *up), tp=1 if len(up) == 3 else None, matrix=(len(up) - 1, len(up))),
            "b": leaf(self, "b", start, (layers, *bias), decay=False, tp=1 if len(bias) == 2 else None),
        }
        return HeadMLP(**in_layers(leaves, method, dims))
