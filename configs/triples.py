"""Triples to text on embedded data: inducer-tuning with LoRA tunes the embedded decoder to say what triples say.

    jaxprefix train configs/triples.py
    jaxprefix generate runs/triples/adapter "Karik | teaches | Fugar ; Fugar | likes | tea"

Text metrics need the extra `generation`.
"""

import jaxprefix as jp


def config() -> jp.Run:
    return jp.Run(
        task=jp.ConditionalGeneration(
            jp.Tfds("little_world/triples"),
            prompt="triples",
            target="text",
            max_prompt_length=64,
            max_target_length=64,
        ),
        backbone="tiny-decoder",
        method=jp.Inducer(key_rank=2, value_rank=4) + jp.LoRA(("q",), rank=4),
        optimizer=jp.Optimizer(learning_rate=5e-3, warmup=30),
        decoding=jp.Decoding(max_new_tokens=48),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        batch_size=32,
        steps=400,
        evaluate_every=100,
        eval_batch_size=100,
        folder="runs/triples",
    )
