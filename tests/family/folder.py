"""A folder of the family that lives outside, written tensor by tensor under its own names."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.family.prenorm import PreNormConfig
from tests.training.worlds import words_of, write_tokenizer

V, D, F, L, H, N = 64, 16, 24, 3, 4, 48  # vocabulary, width, inner width, layers, heads, positions
SIZES = {"vocab": V, "width": D, "layers": L, "heads": H, "mlp_width": F, "positions": N}
SETTINGS = {
    "model_type": "prenorm",
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": L,
    "num_attention_heads": H,
    "intermediate_size": F,
    "max_position_embeddings": N,
    "rope_theta": 10000.0,
}


def config(**changes) -> PreNormConfig:
    return PreNormConfig("prenorm", **{**SIZES, **changes})


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors as torch would store them, `[out, in]`."""
    random = np.random.default_rng(seed)
    shapes = {"prenorm.tok_embeddings.weight": (V, D), "prenorm.final_norm.weight": (D,)}
    for layer in range(L):
        at = f"prenorm.layers.{layer}."
        shapes |= {f"{at}attn_norm.weight": (D,), f"{at}mlp_norm.weight": (D,), f"{at}attn.Wqkv.weight": (3 * D, D)}
        shapes |= {f"{at}attn.Wo.weight": (D, D), f"{at}mlp.Wgate.weight": (F, D), f"{at}mlp.Wup.weight": (F, D)}
        shapes[f"{at}mlp.Wdown.weight"] = (D, F)
    return {name: random.standard_normal(shape).astype(np.float32) / D**0.5 for name, shape in shapes.items()}


def write(folder: Path, seed: int = 0) -> Path:
    assert len(words_of()) <= V
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    save_file(tensors(seed), folder / "model.safetensors")
    return folder
