"""Writes `fixtures/`: tiny random backbones, and the folders that live PEFT saves for them with the logits it gives.

Run `python -m tests.exchange.make_fixtures` from the repository's root, with the extra `parity` installed. The tests
that read the fixtures need neither torch nor peft.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file

from tests.models.folders import write_tokenizer

FOLDER = Path(__file__).with_name("fixtures")
SIZES = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 20,
}
LABELS, TOKENS, ROWS, LENGTH = 3, 7, 3, 3
TASKS = {"classification": ("SequenceClassification", "SEQ_CLS"), "tagging": ("TokenClassification", "TOKEN_CLS")}
CASES = [(kind, task, mlp) for kind in ("bert", "roberta") for task in TASKS for mlp in (False, True)]


def name_of(kind: str, task: str, mlp: bool) -> str:
    return f"{kind}-{task}{'-mlp' if mlp else ''}"


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every parameter, biases and norms too, so that nothing may be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.5, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)


def inputs(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of different lengths, padded on the right."""
    random, pad = np.random.default_rng(seed), 0 if kind == "bert" else 1
    mask = np.arange(TOKENS) < np.array([TOKENS, 4, 1])[:ROWS, None]
    ids = np.where(mask, random.integers(5, SIZES["vocab_size"], mask.shape), pad)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, mask.shape) * (kind == "bert"),
    }


def logits_of(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch["input_ids"]),
            attention_mask=torch.tensor(batch["attention_mask"].astype(int)),
            token_type_ids=torch.tensor(batch["token_type_ids"]),
        ).logits.numpy()


def write_backbone(kind: str, folder: Path | str) -> None:
    """A `BertModel` or `RobertaModel`; only the first comes with a pooler."""
    name = {"bert": "Bert", "roberta": "Roberta"}[kind]
    config = getattr(transformers, f"{name}Config")(
        **SIZES, type_vocab_size=2 if kind == "bert" else 1, pad_token_id=0 if kind == "bert" else 1
    )
    model = getattr(transformers, f"{name}Model")(config, add_pooling_layer=kind == "bert")
    randomise(model, seed=1)
    model.save_pretrained(folder)
    write_tokenizer(Path(folder))


def base_model(kind: str, task: str, folder: Path | str) -> torch.nn.Module:
    auto = getattr(transformers, f"AutoModelFor{TASKS[task][0]}")
    return auto.from_pretrained(folder, num_labels=LABELS).eval()


def prefixed(kind: str, task: str, mlp: bool, folder: Path | str, **options) -> torch.nn.Module:
    """A PEFT model whose prefix and head are random."""
    config = peft.PrefixTuningConfig(
        task_type=TASKS[task][1],
        num_virtual_tokens=LENGTH,
        prefix_projection=mlp,
        encoder_hidden_size=5 if mlp else None,
        **options,
    )
    model = peft.get_peft_model(base_model(kind, task, folder), config).eval()
    for part in ("prompt_encoder", "modules_to_save"):
        for name, module in model.named_modules():
            if name.split(".")[-1] == part:
                randomise(module, seed=2)
    return model


def unshifted_hidden(kind: str, folder: Path | str, table: np.ndarray, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Last hidden states with a prefix in every layer and real tokens where they stand without one, as in the
    `adapters` library, which cannot be installed beside this transformers: an explicit cache and explicit positions."""
    base = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    layers, heads = SIZES["num_hidden_layers"], SIZES["num_attention_heads"]
    length = len(table)
    slices = torch.tensor(table).view(length, 2 * layers, heads, -1).permute(1, 2, 0, 3)[:, None]
    slices = slices.expand(-1, len(batch["attention_mask"]), -1, -1, -1)
    cache = transformers.DynamicCache()
    for layer in range(layers):
        cache.update(slices[2 * layer].contiguous(), slices[2 * layer + 1].contiguous(), layer)
    mask = batch["attention_mask"].astype(int)
    positions = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    if kind == "roberta":
        positions = np.where(batch["attention_mask"], mask.cumsum(1) + 1, 1)
    with torch.no_grad():
        return base(
            input_ids=torch.tensor(batch["input_ids"]),
            attention_mask=torch.tensor(np.concatenate([np.ones((len(mask), length), int), mask], axis=1)),
            token_type_ids=torch.tensor(batch["token_type_ids"]),
            position_ids=torch.tensor(positions.copy()),
            past_key_values=cache,
        ).last_hidden_state.numpy()


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    os.chdir(FOLDER)  # so that the folders name their backbone by a relative path
    expected: dict[str, np.ndarray] = {}
    for kind in ("bert", "roberta"):
        write_backbone(kind, kind)
        expected |= {f"{kind}/{name}": value for name, value in inputs(kind).items()}
    for case in CASES:
        model = prefixed(*case, case[0])
        model.save_pretrained(name_of(*case))
        Path(name_of(*case), "README.md").unlink()
        expected[name_of(*case)] = logits_of(model, inputs(case[0]))
    for kind in ("bert", "roberta"):
        table = load_file(Path(name_of(kind, "tagging", False), "adapter_model.safetensors"))["prompt_embeddings"]
        expected[f"{kind}/unshifted"] = unshifted_hidden(kind, kind, table, inputs(kind))
    np.savez_compressed("expected.npz", **expected)


if __name__ == "__main__":
    main()
