"""One attention layer of the product with weights that a formula gives, in float64."""

import jax.numpy as jnp
import numpy as np

from jaxprefix.edits import Context, Dims
from jaxprefix.edits.hooks import LayerHooks
from jaxprefix.methods.head_mlp import HeadMLP
from jaxprefix.methods.inducer import InducerEdit
from jaxprefix.methods.lora import LoRAEdit, LowRank
from jaxprefix.methods.multi_head_adapter import MultiHeadAdapterEdit
from jaxprefix.models.self_attention import self_attention

SIZES = {"layers": 1, "heads": 2, "kv_heads": 2, "width": 4, "head_width": 2, "mlp_width": 8, "vocab": 9}


def fill(shape, c):
    """`0.5 sin(c + t)`, t the row-major index."""
    return jnp.asarray(0.5 * np.sin(c + np.arange(int(np.prod(shape)))).reshape(shape))


def dims(causal):
    return Dims(**SIZES, positions=32, causal=causal)


def layer(edits, causal=True, mask=(True, True, True), x=None, capture=False):
    """The layer's output `[1, T, 4]`, and under `capture` what its edits show."""
    x = fill((1, 3, 4), 0.1) if x is None else x
    qkv, bias = fill((4, 12), 0.2), fill((12,), 0.3)
    weights = {name: (qkv[:, 4 * i : 4 * i + 4], bias[4 * i : 4 * i + 4]) for i, name in enumerate("qkv")}
    weights["o"] = fill((4, 4), 0.4), fill((4,), 0.5)
    tokens = x.shape[1]
    seen_tokens = jnp.asarray(mask)[None, :tokens]
    ctx = Context.of(seen_tokens, jnp.arange(tokens)[None])
    hooks = LayerHooks(tuple(edits), ctx)

    def linear(name, z):
        kernel, b = weights[name]
        return hooks.project(name, z, z @ kernel + b)

    out, seen = self_attention(x, linear, hooks, ctx, dims(causal), capture=capture)
    return (out, seen) if capture else out


def value_mlp(kind="extension"):
    shapes = {"extension": ((2, 2, 4), (4,)), "share": ((2, 4), (4,)), "per_head": ((2, 2, 2), (2, 2))}
    up, bias = shapes[kind]
    return HeadMLP(fill((2, 2, 2), 0.6), fill((2, 2), 0.7), fill(up, 0.8), fill(bias, 0.9))


def key_mlp():
    return HeadMLP(fill((2, 2, 2), 1.0), fill((2, 2), 1.1), fill((2, 2, 2), 1.2), fill((2, 2), 1.3))


def real_mlp(kind="extension"):
    up, bias = {"extension": ((2, 2, 4), (4,)), "per_head": ((2, 2, 2), (2, 2))}[kind]
    return HeadMLP(fill((2, 2, 2), 1.7), fill((2, 2), 1.8), fill(up, 1.9), fill(bias, 2.0))


def inducer(kind="extension", key=True, **options):
    extension = kind != "per_head"
    return InducerEdit(value_mlp(kind), key_mlp() if key else None, extension=extension, **options)


def lora_q():
    low_rank = LowRank(fill((2, 4), 1.4), fill((4, 2), 1.5), fill((4,), 1.6))
    return LoRAEdit({"q": low_rank}, scale=1.5)


def multi_head_adapter(kind="extension"):
    return MultiHeadAdapterEdit(value_mlp(kind), extension=kind != "per_head")
