"""P-Tuning v2 (Liu et al. 2022) by its run scripts, and Adaptive Prefix Tuning (Zhang et al. 2023) on the same.

P-Tuning v2: one file of the authors' code (github.com/THUDM/P-tuning-v2, `run_script/`) for each value, keys as they
stand there. The scripts share: the pretrained pooler, frozen, before a new linear layer (a linear layer on every token
for names), AdamW without decay, clip 1, no warm-up; linear decay to 0 on SuperGLUE, a factor of 0.95 once per epoch on
names. Names are cut where the tokenizer ends, 512, whatever `max_seq_length` says; virtual tokens take their positions
out of these. COPA is a question with two choices, which no task here asks yet.

Adaptive Prefix Tuning: no code was published. Recalled of the paper are its prefix lengths (those of P-Tuning v2) and
its grid (`APT_GRID`), not what was chosen from it; learning rate, batch, epochs and seed below are therefore those of
P-Tuning v2's script. Inferred as well: BERT-base by BERT-large's scripts, and CoNLL03 with BERT by RoBERTa-large's.
"""

import dataclasses

from jaxprefix.methods.adaptive_prefix import AdaptivePrefix
from jaxprefix.methods.p_tuning_v2 import PTuningV2
from jaxprefix.published.value import Published, Question
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from jaxprefix.training.optimizer import Optimizer

BERT, BERT_NAMES, ROBERTA = "bert-large-cased", "bert-large-uncased", "roberta-large"
TOKENS = 512  # the tokenizers' own maximum

APT_GRID = {
    "learning_rate": (5e-3, 7e-3, 1e-2, 1e-4),
    "epochs": (20, 40, 60, 80, 100, 120),
    "batch_size": (8, 16, 32),
    "seed": (11, 21, 42, 87, 100),
}
"""What Adaptive Prefix Tuning searched (recalled); 1e-4 makes sense for the form with an MLP alone."""


def _script(
    script: str,
    backbone: str,
    batch_size: int,
    learning_rate: float,
    length: int,
    epochs: int,
    seed: int = 11,
    dropout: float = 0.1,
    mlp_width: int | None = None,
) -> Published:
    names = script in ("conll03", "conll04", "ontonotes")
    question: Question = "tagging" if names else "multiple_choice" if script == "copa" else "classification"
    heads = {"tagging": TokenClassifier(), "classification": SequenceClassifier(pooling="pooler")}
    size = "roberta" if backbone == ROBERTA else "bert"
    return Published(
        name=f"P_TUNING_V2_{script}_{size}_large".upper(),
        source=f"run_script/run_{script}_{size}.sh of THUDM/P-tuning-v2",
        method=PTuningV2(length=length, mlp_width=mlp_width),
        backbone=backbone,
        question=question,
        head=heads.get(question),
        optimizer=Optimizer(learning_rate, schedule="exponential" if names else "linear"),
        batch_size=batch_size,
        epochs=float(epochs),
        hidden_dropout=dropout,
        max_length=TOKENS - length if names else 128,
        seed=seed,
    )


P_TUNING_V2 = (
    #       --dataset_name, --model_name_or_path, --per_device_train_batch_size, --learning_rate, --pre_seq_len,
    #       --num_train_epochs, --seed; --hidden_dropout_prob 0.1 where nothing else is said
    _script("boolq", BERT, 32, 5e-3, 40, 100),
    _script("copa", BERT, 16, 1e-2, 16, 80, seed=44),
    _script("rte", BERT, 32, 1e-2, 20, 60),
    _script("wic", BERT, 16, 1e-4, 20, 80, seed=44, mlp_width=512),  # --prefix_projection; --template_id 1
    _script("wsc", BERT, 16, 5e-3, 20, 80, seed=44),
    _script("conll04", BERT_NAMES, 32, 2e-2, 128, 40, dropout=0.2),
    _script("ontonotes", BERT_NAMES, 16, 1e-2, 16, 30),
    _script("boolq", ROBERTA, 32, 7e-3, 8, 100),
    _script("copa", ROBERTA, 16, 9e-3, 8, 120),
    _script("rte", ROBERTA, 32, 5e-3, 128, 100),
    _script("wic", ROBERTA, 32, 1e-2, 8, 50),
    _script("wsc", ROBERTA, 16, 1e-2, 8, 10, seed=44),
    _script("conll03", ROBERTA, 16, 3e-2, 11, 30),
    _script("conll04", ROBERTA, 32, 6e-2, 144, 80),
    _script("ontonotes", ROBERTA, 16, 7e-3, 48, 60, seed=14),
)  # fmt: skip


def _adaptive(value: Published, backbone: str, size: str) -> Published:
    tuned = value.method
    assert isinstance(tuned, PTuningV2)  # as all of P_TUNING_V2 are
    method = AdaptivePrefix(length=tuned.length, mlp_width=tuned.mlp_width)
    script = value.name.removeprefix("P_TUNING_V2_").split("_")[0]
    source = f"Zhang et al. 2023: length of P-Tuning v2; the rest as {value.source}"
    return dataclasses.replace(
        value, name=f"APT_{script}_{size}".upper(), source=source, method=method, backbone=backbone
    )


def _all_adaptive() -> tuple[Published, ...]:
    bert = [value for value in P_TUNING_V2 if value.backbone != ROBERTA]
    roberta = [value for value in P_TUNING_V2 if value.backbone == ROBERTA]
    (conll03,) = (value for value in roberta if "CONLL03" in value.name)
    made = [_adaptive(value, ROBERTA, "roberta_large") for value in roberta]
    for value in (*bert, dataclasses.replace(conll03, backbone=BERT_NAMES)):
        made.append(_adaptive(value, value.backbone, "bert_large"))
        made.append(_adaptive(value, value.backbone.replace("large", "base"), "bert_base"))
    return tuple(made)


APT = _all_adaptive()
