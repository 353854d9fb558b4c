"""Writes `decoder_fixtures/`, as `make_fixtures` does for encoders: tiny random decoders, and what live PEFT saves for
them with the logits that it gives.

Run `python -m tests.exchange.make_decoder_fixtures` from the repository's root, with the extra `parity` installed.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

from tests.exchange.make_fixtures import randomise
from tests.models.folders import write_tokenizer

FOLDER = Path(__file__).with_name("decoder_fixtures")
V, LABELS, TOKENS, LENGTH, WINDOW = 12, 3, 9, 3, 5
SIZES = {
    "vocab_size": V,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 30,
}
GPT2 = {"vocab_size": V, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 30, "n_inner": 12}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 8}
KINDS = {
    "gpt2": GPT2,
    "llama": SIZES,
    "llama-yarn": {**SIZES, "rope_parameters": YARN},
    "mistral": {**SIZES, "sliding_window": WINDOW},
    "qwen2": {**SIZES, "head_dim": 2},
    "qwen2-sliding": {
        **SIZES,
        "num_hidden_layers": 3,
        "head_dim": 2,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
    },
    "qwen3": {**SIZES, "head_dim": 6},
    "gemma2": {**SIZES, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {
        **SIZES,
        "num_hidden_layers": 3,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
}
TASKS = {
    "causal": ("CausalLM", "CAUSAL_LM"),
    "classification": ("SequenceClassification", "SEQ_CLS"),
    "tagging": ("TokenClassification", "TOKEN_CLS"),
}
CASES = (
    ("gpt2", "causal", False),
    ("gpt2", "classification", True),
    ("gpt2", "tagging", False),
    ("llama", "causal", True),
    ("llama", "classification", False),
    ("llama", "tagging", False),
    ("mistral", "causal", False),
    ("gemma3_text", "causal", False),
)


def name_of(kind, task, mlp):
    return f"{kind}-{task}{'-mlp' if mlp else ''}"


def inputs(seed=0):
    """Rows of different lengths, padded on the right; id 0 is padding and nothing else."""
    random = np.random.default_rng(seed)
    mask = np.arange(TOKENS) < np.array([TOKENS, 5, 1])[:, None]
    return {"input_ids": np.where(mask, random.integers(5, V, mask.shape), 0), "attention_mask": mask}


def logits_of(model, batch):
    with torch.no_grad():
        ids, mask = (torch.tensor(batch[name]).long() for name in ("input_ids", "attention_mask"))
        return model(input_ids=ids, attention_mask=mask).logits.numpy()


def write_backbone(kind, folder):
    """A language model whose every parameter is random."""
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.AutoConfig.for_model(kind.split("-")[0], **KINDS[kind], **special)
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomise(model, seed=1)
    model.save_pretrained(folder)
    (Path(folder) / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(Path(folder))
    return folder


def base_model(task, folder):
    auto = getattr(transformers, f"AutoModelFor{TASKS[task][0]}")
    options = {} if task == "causal" else {"num_labels": LABELS}
    # one implementation for all of them; Gemma 2 has no other on CPU
    return auto.from_pretrained(folder, attn_implementation="eager", **options).eval()


def prefixed(task, mlp, folder, length=LENGTH, seed=2):
    """A PEFT model whose prefix and head are random."""
    config = peft.PrefixTuningConfig(
        task_type=TASKS[task][1],
        num_virtual_tokens=length,
        prefix_projection=mlp,
        encoder_hidden_size=5 if mlp else None,
    )
    model = peft.get_peft_model(base_model(task, folder), config).eval()
    for name, module in model.named_modules():
        if name.split(".")[-1] in ("prompt_encoder", "modules_to_save"):
            randomise(module, seed=seed)
    return model


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    os.chdir(FOLDER)  # so that the folders name their backbone by a relative path
    for kind in dict.fromkeys(kind for kind, _, _ in CASES):
        write_backbone(kind, kind)
    expected = inputs()
    for case in CASES:
        model = prefixed(*case[1:], case[0])
        model.save_pretrained(name_of(*case))
        Path(name_of(*case), "README.md").unlink()
        expected[name_of(*case)] = logits_of(model, inputs())
    np.savez_compressed("expected.npz", **expected)


if __name__ == "__main__":
    main()
