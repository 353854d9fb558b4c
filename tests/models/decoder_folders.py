"""Tiny random Hugging Face decoder folders, and the tree that each should give; `folders.write` writes them.

The names are written down here once more, by hand, so that a wrong name in the package is caught.
"""

import numpy as np

V, D, F, L, N, H, K, E = 11, 8, 12, 3, 9, 4, 2, 6
LLAMA = {
    "q": ("self_attn.q_proj", D, H * E),
    "k": ("self_attn.k_proj", D, K * E),
    "v": ("self_attn.v_proj", D, K * E),
    "o": ("self_attn.o_proj", H * E, D),
    "gate": ("mlp.gate_proj", D, F),
    "up": ("mlp.up_proj", D, F),
    "down": ("mlp.down_proj", F, D),
}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
FOUR_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
KINDS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")


def config(kind, **changes):
    if kind == "gpt2":
        base = {"vocab_size": V, "n_embd": D, "n_layer": L, "n_head": H, "n_positions": N, "n_inner": F}
    else:
        base = {
            "vocab_size": V,
            "hidden_size": D,
            "num_hidden_layers": L,
            "num_attention_heads": H,
            "num_key_value_heads": K,
            "head_dim": E,
            "intermediate_size": F,
            "max_position_embeddings": N,
            "pad_token_id": 0,
        }
    merged = {"model_type": kind, "tie_word_embeddings": kind == "gpt2", **base, **changes}
    return {key: value for key, value in merged.items() if value is not ...}


def model(kind="llama", prefix=None, head=None, tied=None, biases=(), dtype=np.float32, seed=0):
    """(Hugging Face tensors, our flat tree): the same random values under both.

    `prefix` stands before the backbone's names, `head` before `lm_head`; `biases` names the maps of a Llama-like layer
    that have one.
    """
    random = np.random.default_rng(seed)
    tensors, flat = {}, {}
    prefix = {"gpt2": "transformer."}.get(kind, "model.") if prefix is None else prefix
    tied = kind == "gpt2" if tied is None else tied

    def draw(name, *shape):
        tensors[name] = random.standard_normal(shape, np.float32).astype(dtype)
        return tensors[name]

    def each_layer(path, name, *shape):
        return np.stack([draw(f"{prefix}{path.format(layer)}{name}", *shape) for layer in range(L)])

    if kind == "gpt2":
        flat["embeddings/word/embedding"] = draw(f"{prefix}wte.weight", V, D)
        flat["embeddings/position/embedding"] = draw(f"{prefix}wpe.weight", N, D)
        flat["norm/scale"], flat["norm/bias"] = draw(f"{prefix}ln_f.weight", D), draw(f"{prefix}ln_f.bias", D)
        fused = each_layer("h.{}.", "attn.c_attn.weight", D, 3 * D), each_layer("h.{}.", "attn.c_attn.bias", 3 * D)
        for place, name in enumerate("qkv"):
            for leaf, whole in zip(("kernel", "bias"), fused, strict=True):
                flat[f"layers/{name}/{leaf}"] = whole[..., place * D : (place + 1) * D]
        for name, theirs, inputs, outputs in (
            ("o", "attn.c_proj", D, D),
            ("up", "mlp.c_fc", D, F),
            ("down", "mlp.c_proj", F, D),
        ):
            flat[f"layers/{name}/kernel"] = each_layer("h.{}.", f"{theirs}.weight", inputs, outputs)
            flat[f"layers/{name}/bias"] = each_layer("h.{}.", f"{theirs}.bias", outputs)
        for name, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            flat[f"layers/{name}/scale"] = each_layer("h.{}.", f"{theirs}.weight", D)
            flat[f"layers/{name}/bias"] = each_layer("h.{}.", f"{theirs}.bias", D)
    else:
        flat["embeddings/word/embedding"] = draw(f"{prefix}embed_tokens.weight", V, D)
        flat["norm/scale"] = draw(f"{prefix}norm.weight", D)
        for name, (theirs, inputs, outputs) in LLAMA.items():
            kernel = each_layer("layers.{}.", f"{theirs}.weight", outputs, inputs)
            flat[f"layers/{name}/kernel"] = kernel.swapaxes(1, 2)
            if name in biases or (kind == "qwen2" and name in "qkv"):
                flat[f"layers/{name}/bias"] = each_layer("layers.{}.", f"{theirs}.bias", outputs)
        for name, theirs in (FOUR_NORMS if kind.startswith("gemma") else NORMS).items():
            flat[f"layers/{name}/scale"] = each_layer("layers.{}.", f"{theirs}.weight", D)
        for name in "qk" if kind in ("qwen3", "gemma3_text") else "":
            flat[f"layers/{name}_norm/scale"] = each_layer("layers.{}.", f"self_attn.{name}_norm.weight", E)
    if not tied:
        flat["lm_head/kernel"] = draw(f"{'' if head is None else head}lm_head.weight", V, D).T
    return tensors, flat
