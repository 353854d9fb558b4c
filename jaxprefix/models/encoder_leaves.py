"""The table of leaves of BERT and RoBERTa encoders."""

from typing import Any

from jaxprefix.models.leaves import COLUMNS, ROWS, WORD, Leaf, linear, norm

ANCHOR = "embeddings.position_embeddings.weight"  # in every encoder's files, and never tied to another tensor
MLM = "masked-LM head"
# the MLM head under its prefix: dense, norm, bias, decoder
HEADS = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder",
    ),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
}


def encoder_leaves(config: Any, prefix: str) -> list[Leaf]:
    """All leaves that files with this prefix may hold, of an `EncoderConfig`.

    Whether the MLM head's decoder is a leaf of its own is for the reader to decide: only the values tell.
    """
    head = prefix.removesuffix("roberta.").removesuffix("bert.")
    pooler = linear(
        "pooler",
        f"{prefix}pooler.dense",
        config.width,
        config.width,
        COLUMNS,
        stacked=False,
        optional="pooler",
    )
    return [*_embeddings(config, prefix, head), *_layers(config, prefix), *pooler, *_mlm(config, head)]


def _embeddings(config: Any, prefix: str, head: str) -> list[Leaf]:
    decoder = HEADS[config.model_type][3]

    def table(path: str, rows: int, *others: str, axes: tuple = ()) -> Leaf:
        names = (f"{prefix}embeddings.{path}_embeddings.weight", *others)
        return Leaf(f"embeddings/{path}/embedding", names, (rows, config.width), axes=axes)

    return [
        table("word", config.vocab, f"{head}{decoder}.weight", axes=ROWS),  # tied: either name may be the saved one
        table("position", config.positions),
        table("token_type", config.token_types),
        *_norm("embeddings/norm", f"{prefix}embeddings.LayerNorm", config.width, stacked=False),
    ]


def _layers(config: Any, prefix: str) -> list[Leaf]:
    width, inner, heads = config.width, config.mlp_width, config.heads
    layer = f"{prefix}encoder.layer.{{layer}}."
    return [
        *linear("layers/q", f"{layer}attention.self.query", width, width, COLUMNS, heads=heads),
        *linear("layers/k", f"{layer}attention.self.key", width, width, COLUMNS, heads=heads),
        *linear("layers/v", f"{layer}attention.self.value", width, width, COLUMNS, heads=heads),
        *linear("layers/o", f"{layer}attention.output.dense", width, width, ROWS, heads=heads),
        *_norm("layers/attention_norm", f"{layer}attention.output.LayerNorm", width),
        *linear("layers/up", f"{layer}intermediate.dense", width, inner, COLUMNS),
        *linear("layers/down", f"{layer}output.dense", inner, width, ROWS),
        *_norm("layers/mlp_norm", f"{layer}output.LayerNorm", width),
    ]


def _mlm(config: Any, head: str) -> list[Leaf]:
    width, (dense, layer_norm, bias, decoder) = config.width, (head + name for name in HEADS[config.model_type])
    return [
        *linear("mlm/dense", dense, width, width, COLUMNS, stacked=False, optional=MLM),
        *_norm("mlm/norm", layer_norm, width, stacked=False, optional=MLM),
        # transformers computes with the decoder's bias; files in which the two are one tensor keep either name
        Leaf("mlm/bias", (f"{decoder}.bias", bias), (config.vocab,), optional=MLM),
        Leaf(
            *("mlm/decoder/kernel", (f"{decoder}.weight",), (width, config.vocab)),
            transposed=True,
            axes=COLUMNS,
            optional=MLM,
            tied_to=WORD,
        ),
    ]


def _norm(path: str, name: str, width: int, stacked: bool = True, optional: str | None = None) -> list[Leaf]:
    names = {"scale": (f"{name}.weight", f"{name}.gamma"), "bias": (f"{name}.bias", f"{name}.beta")}
    return norm(path, names, width, stacked=stacked, optional=optional)
