"""Softmax attention as a kernel estimator over real and virtual tokens: the one signature of all implementations."""

import math
from typing import Any

from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.attention.biases import Bias, DistanceBias, ScoreBias
from jaxprefix.attention.dropout import statically_off
from jaxprefix.attention.implementations import DEFAULT, IMPLEMENTATIONS, Shapes, choose
from jaxprefix.attention.masks import MaskStructure
from jaxprefix.attention.virtual_tokens import VirtualTokens
from jaxprefix.errors import UserError, check_rate
from jaxprefix.old_names import answer_old_names


@answer_old_names
def kernel_attention(
    q: Float[Array, "B T H E"],
    k: Float[Array, "B S K E"],
    v: Float[Array, "B S K E2"],
    *,
    virtual: VirtualTokens | None = None,
    mask: Bool[Array, "B S"] | None = None,
    causal: bool = False,
    segment_ids: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | tuple[int | None, int | None] | None = None,
    query_offset: Any = None,
    key_offset: Any = 0,
    dropout: tuple[Any, Any] | None = None,
    implementation: str = DEFAULT,
) -> tuple[Float[Array, "B T H E2"], Float[Array, "B H T"]]:
    """Attention of T queries over S real and P virtual tokens.

    With scores `s_j = scale * q . k_j + bias_j` of visible real tokens (weight `exp(s_j)`) and
    `s_p = scale * key_scale_p * q . key_p` of virtual ones (weight `mass_p * exp(s_p)`), the output is the weighted
    mean of `v_j` and `value_scale_p * value_p`, and the log-normaliser is the log of the sum of weights. Bias, causal,
    segment and padding masks never touch virtual tokens. Query head `h` reads key/value head `h // (H // K)`.

    With a softcap `c`, every score `s` becomes `c tanh(s / c)` before the bias. A virtual token with a number
    `visible_before` is seen by the queries before that alone, counted from the row's first real key, so that padding on
    the left does not count.

    Softmax runs in float32 (float64 for float64 inputs), products in the inputs' dtype with that accumulation.

    Mass 0 is exactly no token: outputs and the other gradients are those without it, and the mass has a gradient
    (in float32 it saturates when the token's score exceeds the largest weighted one by more than 30, so it is always
    finite). A query that sees no token has output 0, a log-normaliser of about -5e29 (so that `sigmoid(s - lse)` is
    1) and no gradient. A score at or below -5e29 has no weight, so `-inf` is permitted in `bias`.

    Args:
      q: queries.
      k: keys; K divides H.
      v: values.
      virtual: virtual tokens, shared by all rows or per row; None or P = 0 is plain attention.
      mask: True where a key is a real token; padding may lie on either side.
      causal: the query of column c sees the keys of columns j <= c.
      window: a number, with `causal`: it sees those of the last `window` columns alone, its own among them. A pair
        `(before, after)`, causal or not: those from `before` columns before its own to `after` columns after it, None
        for all on that side.
      query_offset: the column of the first query, a number or an integer scalar; where not given that by which the last
        query stands in the last key's column.
      key_offset: the column of the first key, likewise.
      segment_ids: query and key segment ids; a query sees the keys of its own segment.
      bias: added to the scores of real tokens: an array, a table by distance (`DistanceBias`), or a function of
        queries and keys (`ScoreBias`).
      scale: multiplies every score; 1/sqrt(E) by default.
      softcap: bounds every score.
      dropout: rate (a Python float, or a traced scalar) and key; drops weights of real and virtual tokens after
        normalisation and divides those kept by `1 - rate`. It does not enter the log-normaliser.
      implementation: "xla" (joint form), "reference" (explicit concatenation), or another of `IMPLEMENTATIONS`; one
        that cannot compute this call gives way to "xla" (`recorded_choices` says which was taken and why).

    Returns:
      Output in the dtype of `v`, and log-normaliser (natural logarithm) in the softmax's dtype; both differentiable.

    Raises:
      UserError: shapes that do not fit, an impossible dropout rate, an unknown implementation.
    """
    _check_shapes(q, k, v, virtual, mask, segment_ids, bias)
    if dropout is not None:
        check_rate("the rate of a dropout is", dropout[0])
        if statically_off(dropout[0]):
            dropout = None
    if virtual is not None and virtual.length == 0:
        virtual = None
    masks = MaskStructure(
        padding=mask,
        segment_ids=segment_ids,
        query_offset=key_offset + k.shape[1] - q.shape[1] if query_offset is None else query_offset,
        key_offset=key_offset,
        **_reach(causal, window),
    )
    choice = choose(implementation, masks, Shapes.of(q, k, v, virtual, bias, softcap, dropout))
    return IMPLEMENTATIONS[choice.name].attend(
        q,
        k,
        v,
        masks=masks,
        virtual=virtual,
        bias=bias,
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
        softcap=softcap,
        dropout=dropout,
    )


def _reach(causal: bool, window: int | tuple[int | None, int | None] | None) -> dict[str, int | None]:
    """How many columns before and after its own a query sees, None for all."""
    if isinstance(window, tuple):
        before, after = window
    else:
        if window is not None and not causal:
            raise UserError(
                "an attention window of one number looks back from each query; set causal=True with it, or give how "
                "far it looks both ways, as in window=(64, 64)."
            )
        before, after = None if window is None else window - 1, None
    return {"before": before, "after": 0 if causal else after}


def _check_shapes(q, k, v, virtual, mask, segment_ids, bias) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise UserError(
                f"attention wants {name} as [rows, tokens, heads, width], not {x.shape}; reshape it to four axes."
            )
    (b, t, h, e), (s, kv_heads), e2 = q.shape, k.shape[1:3], v.shape[3]
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {"k": (k, (b, s, kv_heads, e)), "v": (v, (b, s, kv_heads, e2))}
    if mask is not None:
        expected["mask"] = (mask, (b, s))
    if segment_ids is not None:
        expected["segments of the queries"] = (segment_ids[0], (b, t))
        expected["segments of the keys"] = (segment_ids[1], (b, s))
    for name, (x, shape) in expected.items():
        if x.shape != shape:
            raise UserError(
                f"the {name} of an attention has shape {x.shape}, but queries {q.shape} and keys {k.shape} need "
                f"{shape}; make them agree."
            )
    if h % kv_heads:
        raise UserError(f"{h} query heads cannot share {kv_heads} key/value heads; the second must divide the first.")
    if isinstance(bias, DistanceBias):
        if bias.table.ndim != 2 or bias.table.shape[1] != h:
            raise UserError(
                f"the table of an attention bias by distance has shape {bias.table.shape}, but there are {h} query "
                f"heads; make it [buckets, {h}]."
            )
    elif not isinstance(bias, ScoreBias | None) and (
        bias.ndim != 4 or any(x not in (1, y) for x, y in zip(bias.shape, (b, h, t, s), strict=True))
    ):
        raise UserError(f"an attention bias of shape {bias.shape} does not broadcast to {(b, h, t, s)}; reshape it.")
    if virtual is None:
        return
    p = virtual.keys.shape[-3] if virtual.keys.ndim >= 3 else -1
    inner = {
        "keys": (p, kv_heads, e),
        "values": (p, kv_heads, e2),
        "key_scale": (p,),
        "value_scale": (p,),
        "mass": (p,),
    }
    if virtual.visible_before is not None and virtual.visible_before.shape not in ((p,), (b, p)):
        raise UserError(
            f"`visible_before` of {p} virtual tokens has shape {virtual.visible_before.shape}; make it {(p,)}, or "
            f"{(b, p)} for those of each row."
        )
    for name, shape in inner.items():
        x = getattr(virtual, name)
        if name in ("key_scale", "value_scale") and x is not None and x.shape == (b, t, p):
            continue
        if x is not None and x.shape not in (shape, (b, *shape)):
            raise UserError(
                f"the {name} of virtual tokens have shape {x.shape}, but this attention needs {shape}, or "
                f"{(b, *shape)} for one set per row; make them agree."
            )
