"""Every method once more, from its equations, in numpy and float64: one row at a time, head by head, virtual tokens
concatenated, no padding, no batch, no stacking. Slow and obvious; shares nothing with the package but leaf names."""

import math

import numpy as np

from jaxprefix.methods import (
    AdaptivePrefix,
    BitFit,
    FullFineTuning,
    HeadOnly,
    Inducer,
    KernelMix,
    LoRA,
    MultiHeadAdapter,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    PTuningV2,
    SequentialAdapter,
    parts_of,
)

erf = np.vectorize(math.erf)


def norm(x, leaves, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * leaves["scale"] + leaves["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Part:
    """What one method does in one layer; the base does nothing."""

    def __init__(self, method, leaves, layer, config, x, first):
        self.method, self.p, self.layer, self.config = method, leaves, layer, config
        self.x, self.first = x, first
        self.prepare()

    def prepare(self):
        pass

    def project(self, name, x, y):
        return y

    def values(self, k, v):
        return v

    def tokens(self):
        return []  # of (key [K, E], value [K, E], mass, column or None)

    def attention(self, q, k, o, total, weights):
        return o, 0

    def after_mlp(self, z, f):
        return f

    def after_block(self, h):
        return h


class Prefix(Part):
    def prepare(self):
        m, p, c = self.method, self.p, self.config
        heads, width = getattr(c, "kv_heads", c.heads), c.head_width
        lengths = m.lengths or tuple(m.length if m.layers is None or i in m.layers else 0 for i in range(c.layers))
        start, count = sum(lengths[: self.layer]), lengths[self.layer]
        if m.mlp_width is None:
            keys, values = p["keys"][start : start + count], p["values"][start : start + count]
        else:
            table = np.tanh(p["embedding"] @ p["up_kernel"] + p["up_bias"]) @ p["down_kernel"] + p["down_bias"]
            kept = [i for i, n in enumerate(lengths) if n]
            table = table.reshape(max(lengths), len(kept), 2, heads, width)
            at = kept.index(self.layer) if count else 0
            keys, values = table[:count, at, 0], table[:count, at, 1]
        self.found = []
        for j in range(count):
            gate = 1.0
            if isinstance(m, AdaptivePrefix):
                g = p["gate"]
                if m.token_gate:
                    h = self.x.mean(0) if m.gate_source == "mean" else self.x[self.first]
                    if m.gate_source == "mean":
                        h = self.x[self.first :].mean(0)
                    z = 0.0 if m.gate_source == "none" else h @ g["kernel"][start + j]
                    z += g["bias"][start + j] if "bias" in g else 0.0
                    gate *= sigmoid(z)
                if m.layer_scale:
                    gate *= g["scale"][sum(n > 0 for n in lengths[: self.layer])]
            mass = max(p["mass"][start + j], 0.0) if m.no_op_start else 1.0
            column = j - max(lengths)  # where it stands if it leaves a sliding window
            self.found.append((gate * keys[j], gate * values[j], mass, column if m.subject_to_window else None))

    def tokens(self):
        return self.found


class Low(Part):
    def project(self, name, x, y):
        if name not in self.method.maps:
            return y
        p = {leaf: value[self.layer] for leaf, value in self.p[name].items()}
        return y + self.method.scale * (x @ p["A"].T @ p["B"].T + p.get("b", 0))


class Heads(Part):
    """Inducer and multi-head adapter."""

    def mlp(self, name, head, x, read=None):
        p = {leaf: value[self.layer] for leaf, value in self.p[name].items()}
        read = head if read is None else read
        u = np.tanh(x @ p["A"][read] + p["a"][read])
        shared = p["B"].ndim == 2
        per_head = p["b"].ndim == 2
        return u @ (p["B"] if shared else p["B"][head]) + (p["b"][head] if per_head else 0)

    def attention(self, q, k, o, total, weights):
        m = self.method
        o, extra = o.copy(), 0
        for head in range(q.shape[1]):
            g = self.mlp("value", head, q[:, head])
            p = np.ones(len(q))
            if isinstance(m, Inducer):
                key = q[:, head] + (self.mlp("key", head, q[:, head]) if m.key_mode == "mlp" else 0)
                s = (q[:, head] * key).sum(-1) / math.sqrt(q.shape[-1])
                if m.key_mode == "adaptive":
                    s = s * np.sqrt(np.arange(1, len(q) + 1))
                p = np.exp(s) / (np.exp(s) + total[:, head])
            p = p[:, None]
            kept = (1 - p) * o[:, head] if getattr(m, "gating_ablation", False) else o[:, head]
            added = p * g
            if getattr(m, "value_gating", False):
                kv = head * k.shape[1] // q.shape[1]
                added = added + (1 - p) * (weights[:, head] @ self.mlp("real", head, k[:, kv], kv))
            if m.value_extension:
                extra = extra + added
            else:
                kept = kept + added
            o[:, head] = kept
        if m.value_extension:
            extra = extra + self.p["value"]["b"][self.layer]
            extra = extra + (self.p["real"]["b"][self.layer] if getattr(m, "value_gating", False) else 0)
        return o, extra


class Bottleneck(Part):
    def adapter(self, x):
        p = {leaf: value[self.layer] for leaf, value in self.p.items()}
        if self.method.norm:
            x = norm(x, {"scale": p["norm_scale"], "bias": p["norm_bias"]}, 1e-5)
        u = np.maximum(x @ p["down"] + p["down_bias"], 0)
        return self.method.scale * (u @ p["up"] + p["up_bias"])

    def project(self, name, x, y):
        return y + self.adapter(y) if name == "o" and getattr(self.method, "place", "") == "attention" else y

    def after_mlp(self, z, f):
        if isinstance(self.method, ParallelAdapter):
            return f + self.adapter(z)
        return f + self.adapter(f) if self.method.place == "mlp" else f

    def after_block(self, h):
        return h + self.adapter(h) if getattr(self.method, "place", "") == "block" else h


class Mix(Part):
    def prepare(self):
        self.h = {leaf: value[self.layer] for leaf, value in self.p["heads"].items()}

    def project(self, name, x, y):
        if name == "q":
            own = [x @ self.h["q_A"][i].T @ self.h["q_B"][i].T + self.h["q_b"][i] for i in range(self.config.heads)]
            y = y + np.concatenate(own, axis=-1)
        if name in ("q", "v", "o"):
            shared = self.p[f"shared_{name}"]
            y = y + x @ shared["A"][self.layer].T @ shared["B"][self.layer].T
        return y

    def values(self, k, v):
        own = [k[:, i] @ self.h["v_A"][i].T @ self.h["v_B"][i].T + self.h["v_b"][i] for i in range(k.shape[1])]
        return v + np.stack(own, axis=1)

    def attention(self, q, k, o, total, weights):
        own = sum(o[:, i] @ self.h["o_A"][i].T @ self.h["o_B"][:, i].T for i in range(o.shape[1]))
        return o, own + self.h["o_b"]


PARTS = {
    PTuningV2: Prefix, PrefixTuning: Prefix, AdaptivePrefix: Prefix, LoRA: Low, Inducer: Heads,
    MultiHeadAdapter: Heads, ParallelAdapter: Bottleneck, SequentialAdapter: Bottleneck, KernelMix: Mix,
    PromptTuning: Part, BitFit: Part, FullFineTuning: Part, HeadOnly: Part,
}  # fmt: skip


def hidden_row(config, tree, method, leaves, ids, token_type_ids):
    """The last hidden state `[T, D]` of one unpadded row; `tree` holds every backbone leaf, moved ones included."""
    parts = parts_of(method)
    owned = [leaves] if len(parts) == 1 else [leaves.get(name, {}) for name in method.names]
    e = tree["embeddings"]
    prompts = [p["prompt"] for part, p in zip(parts, owned, strict=True) if isinstance(part, PromptTuning)]
    prompt = np.concatenate([*prompts, np.zeros((0, config.width))])
    offset = 0
    for part in parts:
        if isinstance(part, PTuningV2 | PrefixTuning):
            length = max(part.lengths) if part.lengths else part.length
            offset += length if part.position_offset is True else int(part.position_offset)
    words = np.concatenate([prompt, e["word"]["embedding"][ids]])
    first = offset + (config.padding_id + 1 if config.model_type == "roberta" else 0)
    types = np.concatenate([np.zeros(len(prompt), int), token_type_ids])
    h = words + e["position"]["embedding"][first + np.arange(len(words))] + e["token_type"]["embedding"][types]
    h = norm(h, e["norm"], config.norm_eps)
    for layer in range(config.layers):
        w = {name: {leaf: value[layer] for leaf, value in m.items()} for name, m in tree["layers"].items()}
        made = []
        for part, p in zip(parts, owned, strict=True):
            chosen = None if PARTS[type(part)] is Prefix else getattr(part, "layers", None)  # a prefix counts tokens
            if chosen is None:
                made.append(PARTS[type(part)](part, p, layer, config, h, len(prompt)))
            elif layer in chosen:
                made.append(PARTS[type(part)](part, p, chosen.index(layer), config, h, len(prompt)))

        def linear(name, x, w=w, made=made):
            y = x @ w[name]["kernel"] + w[name]["bias"]
            for part in made:
                y = part.project(name, x, y)
            return y

        h = layer_row(config, w, made, linear, h)
    return h[len(prompt) :]


def layer_row(config, w, made, linear, x):
    heads, width = config.heads, config.width // config.heads
    q, k, v = (linear(name, x).reshape(len(x), heads, width) for name in "qkv")
    for part in made:
        v = part.values(k, v)
    tokens = [token for part in made for token in part.tokens()]
    o, total, weights = np.zeros((len(x), heads, v.shape[-1])), np.zeros((len(x), heads)), []
    for head in range(heads):
        keys = np.stack([*(t[0][head] for t in tokens), *k[:, head]])
        values = np.stack([*(t[1][head] for t in tokens), *v[:, head]])
        mass = np.array([*(t[2] for t in tokens), *np.ones(len(x))])
        weight = mass * np.exp(q[:, head] @ keys.T / math.sqrt(width))
        total[:, head] = weight.sum(-1)
        weight = weight / weight.sum(-1, keepdims=True)
        o[:, head] = weight @ values
        weights.append(weight[:, len(tokens) :])
    weights = np.stack(weights, axis=1)
    extras = []
    for part in made:
        o, extra = part.attention(q, k, o, total, weights)
        extras.append(extra)
    a = linear("o", o.reshape(len(x), -1)) + sum(extras)
    x = norm(x + a, w["attention_norm"], config.norm_eps)
    up = linear("up", x)
    f = linear("down", 0.5 * up * (1 + erf(up / math.sqrt(2))))
    for part in sorted(made, key=lambda part: getattr(part.method, "after_dropout", False)):  # a later place
        f = part.after_mlp(x, f)
    h = norm(x + f, w["mlp_norm"], config.norm_eps)
    for part in made:
        h = part.after_block(h)
    return h
