"""The task that methods are compared on in docs/benchmarks.md: entailment in the embedded world, on its encoder.

    jaxprefix compare configs/compare_world.py --seeds 5 --budget 0.02 \\
        --methods p_tuning_v2 inducer_lora full adaptive_prefix inducer lora head_only

Prefixes start at a standard deviation of 0.5: from 0.02, as published for BERT, 300 steps do not get them anywhere on
so small an encoder.
"""

import jaxprefix as jp


def config() -> jp.Run:
    return jp.Run(
        task=jp.Classification(
            jp.Tfds("little_world/entailment"), text="premise", text_pair="hypothesis", label="label", max_length=64
        ),
        backbone="tiny-encoder",
        method=jp.PTuningV2(init_std=0.5, dropout=0.0, position_offset=False),
        optimizer=jp.Optimizer(warmup=30),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        batch_size=32,
        steps=300,
        evaluate_every=100,
        eval_batch_size=100,
        folder="runs/compare_world",
    )
