"""Configs of models: any `config.json`, as a dict and as a file, and the module that is made of it."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.hf.folders import open_folder
from jaxprefix.models.backbones import make_backbone, read_hf_config
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import dumped, mutate_bytes, mutate_tree, near, value
from tests.models import decoder_folders
from tests.models.test_config_gate import BERT

MODELS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
SIZES = {  # a field of ours, and what it is called in the files
    "vocab": ("vocab_size",),
    "width": ("hidden_size", "n_embd"),
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "mlp_width": ("intermediate_size", "n_inner"),
    "positions": ("max_position_embeddings", "n_positions"),
    "kv_heads": ("num_key_value_heads",),
    "head_width": ("head_dim",),
    "token_types": ("type_vocab_size",),
    "norm_eps": ("layer_norm_eps", "rms_norm_eps", "layer_norm_epsilon"),
    "initializer_range": ("initializer_range",),
    "hidden_dropout": ("hidden_dropout_prob", "resid_pdrop"),
    "attention_dropout": ("attention_probs_dropout_prob",),
}
MORE = {  # keys that some families read and these configs lack
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "sliding_window": 4,
    "layer_types": ["full_attention"] * 3,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 6,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "rms_norm_eps": 1e-6,
    "architectures": ["BertModel"],
    "pad_token_id": 0,
    "quantization_config": {"bits": 4},
    "auto_map": {"AutoConfig": "code.C"},
    "tie_word_embeddings": True,
    "use_sliding_window": True,
    "max_window_layers": 1,
    "scale_attn_weights": True,
    "attention_bias": False,
}


class ConfigsGate(Gate):
    """What is read has the sizes that the file says, can be written and read again, and makes a module."""

    name = "configs"
    first_check = "that it is a JSON object whose model_type is known"

    def __init__(self, folder: Path):
        self.configs = [BERT, {**BERT, "model_type": "roberta", "pad_token_id": 1}]
        self.configs += [{**decoder_folders.config(kind)} for kind in MODELS]

    def draw(self, draw: random.Random, places: Places) -> Trial:
        raw = dict(draw.choice(self.configs))
        for name in draw.sample([*MORE], draw.choice([0, 0, 1, 2])):
            raw[name] = MORE[name] if draw.random() < 0.4 else near(draw, MORE[name])
        for _ in range(draw.choice([0, 1, 1, 1, 2])):
            name = draw.choice([name for name in raw if name != "model_type" or draw.random() < 0.2])
            raw[name] = near(draw, raw[name]) if draw.random() < 0.7 else value(draw)
        if draw.random() < 0.1:
            raw = mutate_tree(draw, raw)
        text, in_file = dumped(raw), draw.random() < 0.4
        if in_file:
            if draw.random() < 0.3:
                text = mutate_bytes(draw, text)
            (places.given / "config.json").write_bytes(text)

        def call() -> Any:
            found = open_folder(places.given).config if in_file else read_hf_config(raw)
            small = max(found.layers, found.dims.heads) <= 8
            if small:
                module = make_backbone(found)
                jax.eval_shape(module.init, jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})
            return found

        def right(found: Any) -> None:
            assert dataclasses.replace(found) == found
            assert read_hf_config(found.to_hf()) == found
            if in_file:
                return
            for field, names in SIZES.items():
                for name in names:
                    if isinstance(raw.get(name), int | float) and hasattr(found, field) and _reads(raw, name):
                        assert getattr(found, field) == raw[name], (field, name, raw[name], getattr(found, field))

        def first(said: str) -> bool:
            return any(
                words in said for words in ("is damaged", "not a supported", "does not name its", "no model folder")
            )

        return Trial(text.decode(errors="replace"), len(text), call, right, first)


def _reads(raw: dict, name: str) -> bool:
    """Whether a key is one of the family's own."""
    gpt2, encoder = raw.get("model_type") == "gpt2", raw.get("model_type") in ("bert", "roberta")
    if name in ("rms_norm_eps", "head_dim", "num_key_value_heads"):
        return not gpt2 and not encoder
    if name in ("type_vocab_size", "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        return encoder
    own = name.startswith("n_") or name in ("layer_norm_epsilon", "resid_pdrop")
    return own == gpt2 or name in ("vocab_size", "initializer_range")
