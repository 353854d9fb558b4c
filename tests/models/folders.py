"""Tiny random Hugging Face encoder folders in the shapes that one meets, and the tree that each should give.

The names are written down here once more, by hand, so that a wrong name in the package is caught.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

V, D, F, L, N = 11, 6, 10, 3, 9  # vocabulary, width, inner width, layers, positions

LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
MLM = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head"),
}


def config(kind="bert", **changes):
    base = {
        "model_type": kind,
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": L,
        "num_attention_heads": 2,
        "intermediate_size": F,
        "max_position_embeddings": N,
        "type_vocab_size": 2 if kind == "bert" else 1,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0 if kind == "bert" else 1,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


def model(kind="bert", prefix="", old_norms=False, pooler=True, mlm=False, untied=False, dtype=np.float32, seed=0):
    """(Hugging Face tensors, our flat tree): the same random values under both."""
    random = np.random.default_rng(seed)
    tensors, flat = {}, {}
    scale, shift = ("gamma", "beta") if old_norms else ("weight", "bias")

    def draw(*shape):
        return random.standard_normal(shape, np.float32).astype(dtype)

    def table(path, name, rows):
        flat[f"embeddings/{path}/embedding"] = tensors[f"{prefix}embeddings.{name}.weight"] = draw(rows, D)

    def norm(name):
        tensors[f"{name}.{scale}"], tensors[f"{name}.{shift}"] = draw(D), draw(D)
        return {"scale": tensors[f"{name}.{scale}"], "bias": tensors[f"{name}.{shift}"]}

    def linear(name, inputs, outputs):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = draw(outputs, inputs), draw(outputs)
        return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def put(path, leaves):
        flat.update({f"{path}/{name}": leaf for name, leaf in leaves.items()})

    table("word", "word_embeddings", V)
    table("position", "position_embeddings", N)
    table("token_type", "token_type_embeddings", 2 if kind == "bert" else 1)
    put("embeddings/norm", norm(f"{prefix}embeddings.LayerNorm"))
    for ours, theirs in LAYER.items():
        names = [f"{prefix}encoder.layer.{layer}.{theirs}" for layer in range(L)]
        sizes = {"up": (D, F), "down": (F, D)}.get(ours, (D, D))
        per_layer = [norm(name) if "norm" in ours else linear(name, *sizes) for name in names]
        put(f"layers/{ours}", {leaf: np.stack([one[leaf] for one in per_layer]) for leaf in per_layer[0]})
    if pooler:
        put("pooler", linear(f"{prefix}pooler.dense", D, D))
    if mlm:
        head = "" if prefix in ("bert.", "roberta.") else prefix
        dense, normed, top = (head + name for name in MLM[kind])
        put("mlm/dense", linear(dense, D, D))
        put("mlm/norm", norm(normed))
        flat["mlm/bias"] = tensors[f"{top}.bias"] = draw(V)
        if untied:
            tensors[f"{top}.decoder.weight"] = draw(V, D)
            flat["mlm/decoder/kernel"] = tensors[f"{top}.decoder.weight"].T
    return tensors, flat


def write(folder: Path, tensors, settings, shards=1, name="model.safetensors"):
    """Writes a folder; with several shards also their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    if shards == 1:
        save_file(contiguous, folder / name)
        return folder
    places = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: contiguous[key] for key in list(contiguous)[shard::shards]}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def write_tokenizer(folder: Path, words=("hello", "world")):
    """A word tokenizer with 5 special tokens and these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], special, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    return folder
