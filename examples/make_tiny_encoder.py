"""Makes the encoder that the package ships, from nothing but the embedded world:

    python examples/make_tiny_encoder.py [FOLDER]

trains the tokenizer on the corpus, pretrains by `configs/pretrain.py`, and writes a Hugging Face folder.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers
from jaxprefix.cli.configs import load_config
from jaxprefix.data.world.tokenizer import train_tokenizer
from jaxprefix.trees import merge

ROOT = Path(__file__).resolve().parent.parent


def _texts(run: jp.Run) -> Iterator[str]:
    return (f"{row['text']} {row['text_pair']}" for row in run.task.source.open("train"))


def main(folder: Path) -> None:
    keep_large_buffers()
    run = load_config(str(ROOT / "configs" / "pretrain.py"))
    train_tokenizer(_texts(run), run.backbone.config.vocab, run.backbone.tokenizer, run.backbone.config.positions)
    result = jp.train(run)
    adapter = jp.load_adapter(result.adapter)
    tree = merge(adapter.frozen["backbone"], adapter.frozen["initialized"], adapter.trainable["backbone"])
    jp.save_pretrained(folder, run.backbone.config, tree)
    train_tokenizer(_texts(run), run.backbone.config.vocab, folder, run.backbone.config.positions)
    print(result.metrics)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "jaxprefix" / "models" / "pretrained" / "tiny-encoder")
