"""P-Tuning v2 on RTE with BERT-large, by the settings of its authors' script (run_rte_bert.sh: batch 32, learning rate
1e-2, prefix 20, dropout 0.1, 60 epochs, seed 11); they report 80.1 % for their code and 78.3 % in the paper."""

import jaxprefix as jp


def config() -> jp.Run:
    return jp.Run(
        task=jp.Classification(
            jp.Tfds("glue/rte", test=None), text="sentence1", text_pair="sentence2", label="label", max_length=128
        ),
        backbone="bert-large-cased",
        method=jp.PTuningV2(length=20),
        head=jp.SequenceClassifier(pooling="pooler"),
        optimizer=jp.Optimizer(learning_rate=1e-2, schedule="linear"),
        batch_size=32,
        epochs=60,
        seed=11,
        folder="runs/rte_bert_large",
    )
