"""Writing a backbone as a Hugging Face folder, which transformers and `load_pretrained` read."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig
from jaxprefix.models.quantizing import refuse_quantized
from jaxprefix.trees import Tree, flatten


def save_pretrained(folder: str | Path, config: BackboneConfig, tree: Tree, tokenizer: Any = None) -> Path:
    """Writes `config.json`, `model.safetensors` (float32) and the tokenizer's files.

    Args:
      folder: created where it does not exist.
      config: the backbone's.
      tree: its leaves as `load_pretrained` gives them; parts that files may lack (`pooler`, `mlm`) may be absent.
      tokenizer: a transformers tokenizer; None leaves the folder's own files as they are.

    Raises:
      UserError: the tree lacks leaves or is quantized, or no `config.json` of its family says what its config
        says.
    """
    from safetensors.numpy import save_file

    refuse_quantized(tree, "save_pretrained writes")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flat, tensors = flatten(tree), {}
    settings = config.to_hf(frozenset(tree))
    for leaf in config.leaves(config.prefix):
        if leaf.path not in flat and leaf.optional is not None:
            continue
        if leaf.path not in flat:
            raise UserError(
                f"the tree to be saved has no {leaf.path}; give the backbone's whole tree, as load_pretrained does."
            )
        value = np.asarray(flat[leaf.path], np.float32)
        value = np.ascontiguousarray(np.swapaxes(value, -1, -2)) if leaf.transposed else value
        for layer, (name, *_) in enumerate(leaf.tensor_names(config.layers)):
            own = value[layer] if leaf.stacked else value
            if leaf.part is None:
                tensors[name] = own
            else:  # its place in a tensor that other leaves share
                whole = tensors.setdefault(name, np.empty(leaf.stored_shape, np.float32))
                whole[(slice(*leaf.part),) if leaf.transposed else (..., slice(*leaf.part))] = own
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    return folder
