"""Writing a backbone as a Hugging Face folder, which transformers and `load_pretrained` read."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.hf.decoder_config import decoder_to_hf
from jaxprefix.models.backbones import BackboneConfig, model_prefix
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.decoder_leaves import decoder_leaves
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.models.encoder_leaves import encoder_leaves
from jaxprefix.models.quantizing import refuse_quantized
from jaxprefix.trees import Tree, flatten

_ARCHITECTURES = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM"}


def save_pretrained(folder: str | Path, config: BackboneConfig, tree: Tree, tokenizer: Any = None) -> Path:
    """Writes `config.json`, `model.safetensors` (float32) and the tokenizer's files.

    Args:
      folder: created where it does not exist.
      config: the backbone's.
      tree: its leaves as `load_pretrained` gives them; an encoder's `pooler` and `mlm` may be absent.
      tokenizer: a transformers tokenizer; None leaves the folder's own files as they are.

    Raises:
      UserError: the tree lacks leaves or is quantized, or no `config.json` of the decoder's family says what its config
        says.
    """
    from safetensors.numpy import save_file

    refuse_quantized(tree, "save_pretrained writes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat, tensors = flatten(tree), {}
    if isinstance(config, DecoderConfig):
        settings = decoder_to_hf(config)
        leaves = decoder_leaves(config, model_prefix(config))
    else:
        settings = _hf_config(config, "mlm" in tree)
        leaves = encoder_leaves(config, model_prefix(config))
    for leaf in leaves:
        if leaf.path not in flat and leaf.top in ("pooler", "mlm"):
            continue
        if leaf.path not in flat:
            raise UserError(
                f"the tree to be saved has no {leaf.path}; give the backbone's whole tree, as load_pretrained does."
            )
        value = np.asarray(flat[leaf.path], np.float32)
        value = np.ascontiguousarray(np.swapaxes(value, -1, -2)) if leaf.transposed else value
        for layer in range(config.layers) if leaf.stacked else (None,):
            name = leaf.names[0] if layer is None else leaf.names[0].replace("{layer}", str(layer))
            own = value if layer is None else value[layer]
            if leaf.part is None:
                tensors[name] = own
            else:  # its place in a tensor that other leaves share
                tensors.setdefault(name, np.empty(leaf.stored_shape, np.float32))[..., slice(*leaf.part)] = own
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
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
