"""Pretrains the embedded encoder: masked language modelling on the embedded world's corpus, every leaf trained.

`examples/make_tiny_encoder.py` makes the tokenizer, runs this, and writes the folder that the package ships.
"""

import jaxprefix as jp
from jaxprefix.data.world.corpus import ANSWERS

TOKENIZER = "runs/tiny_tokenizer"


def config() -> jp.Run:
    encoder = jp.EncoderConfig(
        model_type="bert",
        vocab=768,
        width=128,
        layers=4,
        heads=4,
        mlp_width=512,
        positions=128,
        initializer_range=0.04,
    )
    task = jp.MaskedLanguage(
        jp.Tfds("little_world/corpus", test=None),
        text_pair="text_pair",
        mask_rate=0.12,
        focus=ANSWERS,  # few among the words, and the only ones that need both parts of a passage
        focus_rate=0.8,
        max_length=48,
    )
    return jp.Run(
        task=task,
        backbone=jp.NewBackbone(encoder, TOKENIZER, start="small"),
        method=jp.FullFineTuning(),
        optimizer=jp.Optimizer(learning_rate=2e-3, schedule="cosine", warmup=100, weight_decay=0.01, beta2=0.98),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        batch_size=32,
        steps=3000,
        evaluate_every=300,
        eval_batch_size=64,
        log_every=100,
        folder="runs/pretrain",
    )
