"""The backbones and rows of `make_fixtures`: random, and as small as they can be."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import jaxprefix as jp
from jaxprefix.models.backbones import drawn_backbone
from jaxprefix.models.rope import Rope

GOOD, BAD = ("good", "bright", "kind", "sweet", "calm"), ("bad", "dark", "cruel", "bitter", "loud")
FILLER_TEXT = "the a cat dog sat ran on mat far in paris london alice bob saw it was"
FILLER = tuple(FILLER_TEXT.split())
NAMES = ("paris", "london", "alice", "bob")
ENCODER_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DECODER_SPECIAL = ("<none>", "<unk>", "<s>", "</s>", "=>")
VOCAB = 5 + len(FILLER) + len(GOOD) + len(BAD)
SIZES = {"vocab": VOCAB, "width": 8, "layers": 2, "heads": 2, "mlp_width": 12, "positions": 64}
ENCODER = {**SIZES, "initializer_range": 0.3}
DECODER = {**SIZES, "kv_heads": 1, "head_width": 4, "initializer_range": 0.3}
GPT2 = {
    **DECODER,
    "kv_heads": 2,
    "norm": "layer",
    "norm_eps": 1e-5,
    "gated_mlp": False,
    "activation": "gelu_new",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "tied": True,
    "rope": None,
}
CONFIGS = {
    "bert": jp.EncoderConfig("bert", **ENCODER),  # with a pooler and a masked-LM head
    "roberta": jp.EncoderConfig("roberta", **ENCODER, padding_id=0, token_types=1),  # with neither
    "gpt2": jp.DecoderConfig("gpt2", **GPT2, hidden_dropout=0.1, embedding_dropout=0.1, attention_dropout=0.1),
    "llama": jp.DecoderConfig("llama", **DECODER, rope=Rope(100.0)),  # its head is not tied
}


def random_tree(config: Any, seed: int) -> dict[str, Any]:
    """A backbone's tree whose every leaf, biases and norms included, is random."""
    tree = drawn_backbone(config, jax.random.key(seed))
    if config.kind == "bert":
        dims = jp.Encoder(config).dims
        tree |= jp.MaskedLM().born(jax.random.key(seed), dims, {})
        tree |= jp.SequenceClassifier(pooling="pooler").born(jax.random.key(seed), dims, {})
    elif config.kind == "roberta":
        tree = {name: leaves for name, leaves in tree.items() if name not in ("pooler", "mlm")}
    leaves, structure = jax.tree.flatten(tree)
    random = np.random.default_rng(seed)
    noisy = [np.asarray(leaf + 0.2 * random.standard_normal(leaf.shape), np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


def write_tokenizer(folder: Path, encoder: bool) -> None:
    """One token for each word."""
    special = ENCODER_SPECIAL if encoder else DECODER_SPECIAL
    vocabulary = {word: index for index, word in enumerate((*special, *FILLER, *GOOD, *BAD))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=special[1]))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    fields = ("pad", "unk", "cls", "sep", "mask") if encoder else ("pad", "unk", "bos", "eos")
    names = {f"{field}_token": word for field, word in zip(fields, special, strict=False)}
    if encoder:
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")


def write_backbones(folder: Path) -> None:
    """A Hugging Face folder of each kind."""
    for seed, (kind, config) in enumerate(CONFIGS.items(), 1):
        write_tokenizer(folder / kind, encoder=isinstance(config, jp.EncoderConfig))
        jp.save_pretrained(folder / kind, config, random_tree(config, seed))


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a column for every task and format."""
    random = np.random.default_rng(seed)

    def words(low: int, high: int) -> list[str]:
        return [str(word) for word in random.choice(FILLER, random.integers(low, high))]

    made = []
    for index in range(count):
        label = ("bad", "good")[index % 2]
        tokens = [*words(1, 6), str(random.choice(GOOD if label == "good" else BAD)), *words(1, 4)]
        target = " ".join(words(2, 4))
        made.append(
            {
                "text": " ".join(tokens),
                "second": " ".join(words(1, 4)),
                "label": label,
                "tokens": tokens,
                "tags": ["B-NAME" if word in NAMES else "O" for word in tokens],
                "prompt": " ".join(words(1, 4)),
                "target": target,
                "triples": [words(3, 4)[:3]],
                "table": f"name : {words(1, 2)[0]}",
                "document": " ".join(tokens),
                "history": [target, "it was"],
                "answer": target,
                "src": " ".join(tokens),
                "tgt": target,
            }
        )
    return made


def write_rows(folder: Path) -> None:
    """Rows to train on, and rows held out."""
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate({"train": 12, "held": 4}.items()):
        lines = (json.dumps(row) + "\n" for row in rows(count, seed))
        (folder / f"{name}.jsonl").write_text("".join(lines))
