"""Your own labelled text: a file each for training, validation and test (.jsonl, .csv or .parquet), any encoder.

    python train.py configs/own_files.py --backbone bert-base-uncased --task.source.train my/train.jsonl \\
        --task.source.validation my/validation.jsonl --task.source.test my/test.jsonl
"""

import jaxprefix as jp


def config() -> jp.Run:
    return jp.Run(
        task=jp.Classification(
            jp.Files(train="data/train.jsonl", validation="data/validation.jsonl", test="data/test.jsonl"),
            text="text",
            label="label",
        ),
        backbone="bert-base-uncased",
        method=jp.PTuningV2(length=16),
        optimizer=jp.Optimizer(learning_rate=1e-2),
        epochs=8,
        folder="runs/own_files",
    )
