"""Pretrains the embedded decoder: causal language modelling on the embedded world's stories, every leaf trained.

`examples/make_tiny_decoder.py` makes the tokenizer, runs this, and writes the folder that the package ships.
"""

import jaxprefix as jp

TOKENIZER = "runs/tiny_decoder_tokenizer"


def config() -> jp.Run:
    decoder = jp.DecoderConfig(
        model_type="gpt2",
        vocab=768,
        width=128,
        layers=4,
        heads=4,
        kv_heads=4,
        head_width=32,
        mlp_width=512,
        positions=192,
        norm="layer",
        norm_eps=1e-5,
        gated_mlp=False,
        activation="gelu_new",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tied=True,
        rope=None,
        initializer_range=0.04,
    )
    return jp.Run(
        task=jp.CausalLanguage(jp.Tfds("little_world/stories", test=None), max_length=80),
        backbone=jp.NewBackbone(decoder, TOKENIZER),
        method=jp.FullFineTuning(),
        optimizer=jp.Optimizer(learning_rate=2e-3, schedule="cosine", warmup=100, weight_decay=0.01, beta2=0.98),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        batch_size=32,
        steps=4000,
        evaluate_every=500,
        eval_batch_size=64,
        log_every=100,
        folder="runs/pretrain_decoder",
    )
