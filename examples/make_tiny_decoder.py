"""Makes the decoder that the package ships, from nothing but the embedded world:

    python examples/make_tiny_decoder.py [FOLDER]

trains the tokenizer on the corpus, pretrains by `configs/pretrain_decoder.py`, and writes a Hugging Face folder.
"""

import sys
from pathlib import Path

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers
from jaxprefix.cli.configs import load_config
from jaxprefix.data.world.tokenizer import train_bpe
from jaxprefix.trees import merge

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> None:
    keep_large_buffers()
    run = load_config(str(ROOT / "configs" / "pretrain_decoder.py"))
    config = run.backbone.config
    texts = [row["text"] for row in run.task.source.open("train")]
    train_bpe(texts, config.vocab, run.backbone.tokenizer, config.positions)
    result = jp.train(run)
    adapter = jp.load_adapter(result.adapter)
    jp.save_pretrained(folder, config, merge(adapter.frozen["backbone"], adapter.trainable["backbone"]))
    train_bpe(texts, config.vocab, folder, config.positions)
    print(result.metrics)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "jaxprefix" / "models" / "pretrained" / "tiny-decoder")
