"""The main job in small: P-Tuning v2 of the embedded encoder on a task of the embedded world.

Nothing is downloaded. It takes about a minute on two cores and prints the held-out accuracy at its end.
"""

import jaxprefix as jp


def config() -> jp.Run:
    return jp.Run(
        task=jp.Classification(
            jp.Tfds("little_world/questions"), text="question", text_pair="passage", label="label", max_length=96
        ),
        backbone="tiny-encoder",
        method=jp.PTuningV2(length=16),
        optimizer=jp.Optimizer(learning_rate=1e-2),
        batch_size=32,
        epochs=3,
        folder="runs/quickstart",
    )
