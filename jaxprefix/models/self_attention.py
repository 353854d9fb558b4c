"""The attentions of a layer with the edits' hooks in their places: what every backbone does with its normed input."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jaxtyping import Float

from jaxprefix.attention import Bias, kernel_attention
from jaxprefix.attention.operation import DEFAULT
from jaxprefix.distributed.constraints import Axis, constrain
from jaxprefix.edits import Context, Dims
from jaxprefix.edits.hooks import LayerHooks

BY_HEADS: tuple[Axis, ...] = ("rows", None, "tp", None)


def self_attention(
    x: Float[Array, "B T D"],
    linear: Callable[[str, Array], Array],
    hooks: LayerHooks,
    ctx: Context,
    dims: Dims,
    **options: Any,
) -> tuple[Float[Array, "B T D"], tuple[dict[str, Array], ...] | None]:
    """The attention of tokens over themselves, and over those before them in cached decoding: `attention_block` whose
    keys and values are made of `x`, with the same arguments."""
    return attention_block(x, x, linear, hooks, ctx, dims, **options)


def attention_block(
    x: Float[Array, "B T D"],
    memory: Float[Array, "B S D2"],
    linear: Callable[[str, Array], Array],
    hooks: LayerHooks,
    ctx: Context,
    dims: Dims,
    *,
    h: Float[Array, "B T D"] | None = None,
    prepare: Callable[[str, Array], Array] | None = None,
    recall: Callable[[Array, Array], tuple[Array, Array]] | None = None,
    bias: Bias | None = None,
    dropout: tuple[Any, Any] | None = None,
    capture: bool = False,
    implementation: str = DEFAULT,
) -> tuple[Float[Array, "B T D"], tuple[dict[str, Array], ...] | None]:
    """Projections, attention over real and virtual tokens, output projection, and what edits add to it.

    Args:
      x: the input of the queries' projection.
      memory: that of the keys' and values': `x` itself, or another stack's output in cross-attention.
      linear: the layer's linear map of a name (`q k v o`) at an input, the edits' `project` included.
      hooks: of the layer's edits.
      ctx: its masks are structure, handed to the attention as such; its `window`, `softcap` and `scale` are this
        attention's.
      dims: the site's sizes; `causal` of it as well.
      h: the layer's input, which virtual tokens may depend on; `x` where the layer does not norm it first.
      prepare: what becomes of the queries `[B, T, H, E]` and keys `[B, T, K, E]` of the real tokens, by name, before
        they meet: rotation, norms. Edits see queries and keys as they meet.
      recall: from the new keys and values to those of all tokens (`S` of them), where some were seen before.
      bias: what is added to the scores of real tokens.
      dropout: rate and key of the attention weights.
      capture: whether the edits show what they do.
      implementation: of `kernel_attention`.

    Returns:
      The sublayer's output before its residual dropout, and what the edits show.
    """
    h = x if h is None else h
    segment_ids = None
    if ctx.queries.segment_ids is not None and ctx.keys.segment_ids is not None:
        segment_ids = ctx.queries.segment_ids, ctx.keys.segment_ids

    def split(name: str, x: Array, heads: int) -> Array:
        y = constrain(linear(name, x).reshape(*x.shape[:-1], heads, dims.head_width), *BY_HEADS)
        return y if prepare is None else prepare(name, y)

    q = split("q", x, dims.heads)
    k, v = split("k", memory, dims.kv_heads), split("v", memory, dims.kv_heads)
    if recall is not None:
        k, v = recall(k, v)
    with jax.named_scope("attention"):
        v, virtual = hooks.replace_values(k, v, hooks.virtual_tokens(h))
        o, lse = kernel_attention(
            q,
            k,
            v,
            virtual=virtual,
            mask=ctx.keys.mask,
            causal=dims.causal,
            window=ctx.window,
            query_offset=ctx.queries.offset,
            key_offset=ctx.keys.offset,
            segment_ids=segment_ids,
            bias=bias,
            scale=ctx.scale,
            softcap=ctx.softcap,
            dropout=dropout,
            implementation=implementation,
        )
        seen = hooks.observe(h, q, k, lse) if capture else None
        o, extras = hooks.after_attention(q, k, v, o, lse)
    a = linear("o", constrain(o, *BY_HEADS).reshape(*o.shape[:-2], -1))
    for extra in extras:
        a = a + extra
    return a, seen
