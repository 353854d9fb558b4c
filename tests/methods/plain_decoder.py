"""A decoder once more, from its equations, in numpy and float64: one row, head by head, query by query. With `plain`,
whose methods act in it, it shares nothing with the package but leaf names."""

import math

import numpy as np

from jaxprefix.methods import PrefixTuning, PromptTuning, PTuningV2, parts_of
from tests.methods import plain


def normed(config, x, leaves):
    if config.norm == "layer":
        return plain.norm(x, leaves, config.norm_eps)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * leaves["scale"]


def turned(config, x, positions):
    """`[T, H, E]`: channels i and i + E/2 are one complex number, which turns."""
    if config.rope is None:
        return x
    half = x.shape[-1] // 2
    angle = positions[:, None] * config.rope.theta ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)


def hidden_row(config, tree, method, leaves, ids):
    """The hidden state `[T, D]` of one unpadded row behind the last norm."""
    parts = parts_of(method)
    owned = [leaves] if len(parts) == 1 else [leaves.get(name, {}) for name in method.names]
    prompts = [p["prompt"] for part, p in zip(parts, owned, strict=True) if isinstance(part, PromptTuning)]
    prompt = np.concatenate([*prompts, np.zeros((0, config.width))])
    offset = 0
    for part in parts:
        if isinstance(part, PTuningV2 | PrefixTuning):
            length = max(part.lengths) if part.lengths else part.length
            offset += length if part.position_offset is True else int(part.position_offset)
    h = np.concatenate([prompt, tree["embeddings"]["word"]["embedding"][ids]])
    positions = offset + np.arange(len(h))
    if config.rope is None:
        h = h + tree["embeddings"]["position"]["embedding"][positions]
    for layer in range(config.layers):
        w = {name: {leaf: value[layer] for leaf, value in m.items()} for name, m in tree["layers"].items()}
        made = []
        for part, p in zip(parts, owned, strict=True):
            kind = plain.PARTS[type(part)]
            chosen = None if kind is plain.Prefix else getattr(part, "layers", None)
            if chosen is None or layer in chosen:
                place = layer if chosen is None else chosen.index(layer)
                made.append(kind(part, p, place, config, h, len(prompt)))
        h = layer_row(config, w, made, h, positions, config.pattern[layer % len(config.pattern)])
    return normed(config, h, tree["norm"])[len(prompt) :]


def layer_row(config, w, made, x, positions, kind):
    def linear(name, x):
        y = x @ w[name]["kernel"] + w[name].get("bias", 0)
        for part in made:
            y = part.project(name, x, y)
        return y

    heads, kv_heads, width = config.heads, config.kv_heads, config.head_width
    z = normed(config, x, w["attention_norm"])
    q = turned(config, linear("q", z).reshape(len(x), heads, width), positions)
    k = turned(config, linear("k", z).reshape(len(x), kv_heads, width), positions)
    v = linear("v", z).reshape(len(x), kv_heads, width)
    for part in made:
        v = part.values(k, v)
    tokens = [token for part in made for token in part.tokens()]
    window = config.window if kind == "sliding" else math.inf
    o, total = np.zeros((len(x), heads, width)), np.zeros((len(x), heads))
    weights = np.zeros((len(x), heads, len(x)))
    for t, head in np.ndindex(len(x), heads):
        kv = head * kv_heads // heads
        for key, value, mass, column in tokens:
            if column is None or t - column < window:
                weight = mass * np.exp(q[t, head] @ key[kv] / math.sqrt(width))
                total[t, head] += weight
                o[t, head] += weight * value[kv]
        for s in range(t + 1):
            if t - s < window:
                weights[t, head, s] = np.exp(q[t, head] @ k[s, kv] / math.sqrt(width))
                total[t, head] += weights[t, head, s]
                o[t, head] += weights[t, head, s] * v[s, kv]
    o, weights = o / total[..., None], weights / total[..., None]
    extras = []
    for part in made:
        o, extra = part.attention(q, k, o, total, weights)
        extras.append(extra)
    x = x + linear("o", o.reshape(len(x), -1)) + sum(extras)
    z = normed(config, x, w["mlp_norm"])
    if config.gated_mlp:
        gate = linear("gate", z)
        inner = gate * plain.sigmoid(gate) * linear("up", z)
    else:
        up = linear("up", z)
        inner = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    f = linear("down", inner)
    for part in sorted(made, key=lambda part: getattr(part.method, "after_dropout", False)):
        f = part.after_mlp(z, f)
    h = x + f
    for part in made:
        h = part.after_block(h)
    return h
