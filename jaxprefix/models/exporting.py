"""Writing an encoder as a Hugging Face folder, which transformers and `load_pretrained` read."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.models.config import EncoderConfig
from jaxprefix.models.names import encoder_leaves
from jaxprefix.trees import Tree, flatten

_ARCHITECTURES = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM"}


def save_pretrained(folder: str | Path, config: EncoderConfig, tree: Tree, tokenizer: Any = None) -> Path:
    """Writes `config.json`, `model.safetensors` (float32) and the tokenizer's files.

    Args:
      folder: created where it does not exist.
      config: the encoder's.
      tree: its leaves as `load_pretrained` gives them: `embeddings`, `layers`, where it has them `pooler` and `mlm`.
      tokenizer: a transformers tokenizer; None leaves the folder's own files as they are.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat, tensors = flatten(tree), {}
    for leaf in encoder_leaves(config, f"{config.kind}."):
        if leaf.path not in flat:
            continue
        value = np.asarray(flat[leaf.path], np.float32)
        value = np.ascontiguousarray(np.swapaxes(value, -1, -2)) if leaf.transposed else value
        for layer in range(config.layers) if leaf.stacked else (None,):
            name = leaf.names[0] if layer is None else leaf.names[0].replace("{layer}", str(layer))
            tensors[name] = value if layer is None else value[layer]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_hf_config(config, "mlm" in tree), indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    return folder


def _hf_config(config: EncoderConfig, masked_lm: bool) -> dict[str, Any]:
    return {
        "architectures": [_ARCHITECTURES[config.kind] if masked_lm else f"{config.kind.capitalize()}Model"],
        "model_type": config.kind,
        "vocab_size": config.vocab,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.norm_eps,
        "pad_token_id": config.padding_id,
        "hidden_act": config.activation,
        "hidden_dropout_prob": config.hidden_dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": True,
    }
