"""A tiny encoder folder, tiny files of rows, and runs over them that take a second or two."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jaxprefix.data import Files
from jaxprefix.methods import PTuningV2
from jaxprefix.tasks import Classification, MaskedLanguage, Tagging
from jaxprefix.training.config import Run
from jaxprefix.training.optimizer import Optimizer

GOOD, BAD = ("good", "bright", "kind", "sweet", "calm"), ("bad", "dark", "cruel", "bitter", "loud")
FILLER_TEXT = "the a cat dog sat ran on mat far away in paris london alice bob visited and saw it is was not"
FILLER = FILLER_TEXT.split()
NAMES = ("paris", "london", "alice", "bob")
SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
WIDTH, LAYERS, HEADS, MLP, POSITIONS = 32, 2, 4, 64, 48
DROPOUT = {"hidden_dropout": None, "attention_dropout": None}  # of a run: as the encoder has it
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


def words_of(kind: str = "bert") -> list[str]:
    return [*SPECIAL[kind], *FILLER, *GOOD, *BAD, *"abcdefghijklmnop"[1:], *(f"##{letter}" for letter in "abcdefst")]


def write_tokenizer(folder: Path, kind: str = "bert") -> None:
    """A WordPiece tokenizer with the special tokens of the kind."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = SPECIAL[kind]
    names = dict(zip(["pad", "unk", "cls", "sep", "mask"], special, strict=True))
    if kind == "roberta":
        names = dict(zip(["cls", "pad", "sep", "unk", "mask"], special, strict=True))
    vocabulary = {word: index for index, word in enumerate(words_of(kind))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(
        (names["sep"], vocabulary[names["sep"]]), (names["cls"], vocabulary[names["cls"]])
    )
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{k}_token": v for k, v in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_encoder(folder: Path, kind: str = "bert", seed: int = 0, dropout: float = 0.1, layers: int = LAYERS) -> Path:
    """A random encoder in Hugging Face's format, with its tokenizer; returns the folder."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def draw(name: str, *shape: int, std: float) -> None:
        tensors[name] = (std * random.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def linear(name: str, inputs: int, outputs: int) -> None:
        draw(f"{name}.weight", outputs, inputs, std=inputs**-0.5)
        draw(f"{name}.bias", outputs, std=0.02)

    vocab, types = len(words_of(kind)), 2 if kind == "bert" else 1
    for name, rows in (("word", vocab), ("position", POSITIONS), ("token_type", types)):
        draw(f"embeddings.{name}_embeddings.weight", rows, WIDTH, std=0.5 if name == "word" else 0.05)
    norm("embeddings.LayerNorm")
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(at + name, WIDTH, WIDTH)
        linear(f"{at}intermediate.dense", WIDTH, MLP)
        linear(f"{at}output.dense", MLP, WIDTH)
        norm(f"{at}attention.output.LayerNorm")
        norm(f"{at}output.LayerNorm")
    config = {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "intermediate_size": MLP,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": types,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": 0 if kind == "bert" else 1,
    }
    write_tokenizer(folder, kind)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sentences(count: int, seed: int) -> list[dict]:
    """Rows of 2 to 14 words whose label is told by keywords, with tags that mark the names."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        label = ["bad", "good"][index % 2]
        words = list(random.choice(FILLER, random.integers(1, 12)))
        for word in random.choice(GOOD if label == "good" else BAD, 1 + index % 3):
            words.insert(random.integers(0, len(words) + 1), str(word))
        words = [str(word) for word in words]
        tags = ["B-NAME" if word in NAMES else "O" for word in words]
        rows.append({"text": " ".join(words), "label": label, "tokens": words, "tags": tags})
    return rows


@dataclasses.dataclass(frozen=True)
class World:
    """Folders of two backbones, and a source of rows that serves all three tasks."""

    folder: Path
    bert: str
    roberta: str
    source: Files

    def run(self, folder: Path | str, **changes) -> Run:
        """Two epochs of 6 steps of 16 rows in one bucket; P-Tuning v2 on BERT.

        Without dropout, whose random bits take two thirds of the time to compile a step; `**DROPOUT` turns it on.
        """
        usual = {
            **NO_DROPOUT,
            "task": Classification(self.source, max_length=32),
            "backbone": self.bert,
            "method": PTuningV2(length=4),
            "optimizer": Optimizer(learning_rate=2e-2),
            "epochs": 2.0,
            "batch_size": 16,
            "buckets": (32,),
            "log_every": 1,
            "folder": str(folder),
        }
        return Run(**{**usual, **changes})

    def tagging(self, **changes) -> Tagging:
        return Tagging(self.source, **{"max_length": 32, **changes})

    def unlabelled(self, **changes) -> MaskedLanguage:
        return MaskedLanguage(self.source, **{"max_length": 32, **changes})

    def config_file(self, path: Path, folder: Path | str, **fields: str) -> str:
        """A config file of `run(folder)` with further fields given as Python expressions over `jp`."""
        lines = {
            "task": f"jp.Classification(jp.Files(*{dataclasses.astuple(self.source)!r}), max_length=32)",
            "backbone": repr(self.bert),
            "method": "jp.PTuningV2(length=4)",
            "optimizer": "jp.Optimizer(learning_rate=2e-2)",
            "epochs": "2.0",
            "batch_size": "16",
            "buckets": "(32,)",
            "log_every": "1",
            "folder": repr(str(folder)),
            **{name: repr(rate) for name, rate in NO_DROPOUT.items()},
            **fields,
        }
        body = "".join(f"        {name}={value},\n" for name, value in lines.items())
        path.write_text(f"import jaxprefix as jp\n\n\ndef config():\n    return jp.Run(\n{body}    )\n")
        return str(path)


def make_world(folder: Path, layers: int = LAYERS) -> World:
    files = [
        write_jsonl(folder / f"{split}.jsonl", sentences(count, seed))
        for seed, (split, count) in enumerate({"train": 96, "validation": 40, "test": 37}.items())
    ]
    bert, roberta = (str(write_encoder(folder / kind, kind, layers=layers)) for kind in ("bert", "roberta"))
    return World(folder, bert, roberta, Files(*files))
