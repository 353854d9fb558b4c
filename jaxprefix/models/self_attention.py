"""Self-attention with the edits' hooks in their places: what every backbone's layer does with its normed input."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import Float

from jaxprefix.attention import kernel_attention
from jaxprefix.edits import Context, Dims, LayerHooks


def self_attention(
    x: Float[Array, "B T D"],
    linear: Callable[[str, Array], Array],
    hooks: LayerHooks,
    ctx: Context,
    dims: Dims,
    *,
    dropout: tuple[Any, Any] | None = None,
    capture: bool = False,
    implementation: str = "xla",
) -> tuple[Float[Array, "B T D"], tuple[dict[str, Array], ...] | None]:
    """Projections, attention over real and virtual tokens, output projection, and what edits add to it.

    Args:
      x: the input.
      linear: the layer's linear map of a name (`q k v o`) at an input, the edits' `project` included.
      hooks: of the layer's edits.
      ctx: its mask is that of the keys.
      dims: the backbone's sizes; `causal` of it as well.
      dropout: rate and key of the attention weights.
      capture: whether the edits show what they do.
      implementation: of `kernel_attention`.

    Returns:
      The sublayer's output before its residual dropout, and what the edits show.
    """

    def split(name: str, heads: int) -> Array:
        return linear(name, x).reshape(*x.shape[:-1], heads, dims.head_width)

    q, k, v = split("q", dims.heads), split("k", dims.kv_heads), split("v", dims.kv_heads)
    with jax.named_scope("attention"):
        v, virtual = hooks.replace_values(k, v, hooks.virtual_tokens(x))
        o, lse = kernel_attention(
            q,
            k,
            v,
            virtual=virtual,
            mask=ctx.mask,
            causal=dims.causal,
            dropout=dropout,
            implementation=implementation,
        )
        seen = hooks.observe(x, q, k, lse) if capture else None
        o, extras = hooks.after_attention(q, k, v, o, lse)
    a = linear("o", o.reshape(*o.shape[:-2], -1))
    for extra in extras:
        a = a + extra
    return a, seen
