"""Where each leaf of the frozen tree lies in a Hugging Face folder; the names of encoders."""

import dataclasses
from collections.abc import Iterable

from jaxprefix.errors import UserError
from jaxprefix.models.encoder_config import EncoderConfig

ANCHOR = "embeddings.position_embeddings.weight"  # in every encoder's files, and never tied to another tensor
WORD = "embeddings/word/embedding"
DECODER = "mlm/decoder/kernel"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the frozen tree.

    Attributes:
      path: keys joined by "/".
      names: Hugging Face tensor names, the preferred one first; those of a stacked leaf contain `{layer}`.
      shape: in our orientation, without the axis of layers.
      stacked: whether it is stacked `[L, ...]`, from one tensor per layer.
      transposed: torch's kernels are [out, in], ours [in, out].
      part: which of the outputs of the tensor, `whole` in all, where it holds more than this leaf.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool = False
    transposed: bool = False
    part: tuple[int, int] | None = None
    whole: int | None = None

    @property
    def top(self) -> str:
        """The top of its path: "pooler" and "mlm" may be absent, everything else must be there."""
        return self.path.split("/", 1)[0]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of its tensors in the files."""
        shape = self.shape if self.whole is None else (*self.shape[:-1], self.whole)
        return shape[::-1] if self.transposed else shape


def find_prefix(names: Iterable[str], anchor: str = ANCHOR, model: str = "encoder") -> str:
    """What precedes the model's own tensor names in these files: "", "bert.", "roberta.", "0.auto_model.", ...

    Raises:
      UserError: no such model or several.
    """
    prefixes = sorted(name.removesuffix(anchor) for name in names if name.endswith(anchor))
    if len(prefixes) != 1:
        found = f"{len(prefixes)} {model}s ({', '.join(map(repr, prefixes))})" if prefixes else f"no {model}"
        raise UserError(
            f"the safetensors files hold {found}: one tensor name must end with {anchor!r}; "
            "take the folder of one model whose weights belong to its config.json."
        )
    return prefixes[0]


def encoder_leaves(config: EncoderConfig, prefix: str) -> list[Leaf]:
    """All leaves that files with this prefix may hold.

    Whether the MLM head's decoder is a leaf of its own is for the reader to decide: only the values tell.
    """
    head = prefix.removesuffix("roberta.").removesuffix("bert.")
    return [*_embeddings(config, prefix, head), *_layers(config, prefix), *_pooler(config, prefix), *_mlm(config, head)]


def is_buffer(name: str) -> bool:
    """Whether a tensor is a constant that older versions of transformers saved with the weights."""
    return name.endswith(("embeddings.position_ids", "embeddings.token_type_ids"))


def _embeddings(config: EncoderConfig, prefix: str, head: str) -> list[Leaf]:
    width = config.width

    def table(path: str, name: str, rows: int, *others: str) -> Leaf:
        return Leaf(
            f"embeddings/{path}/embedding", (f"{prefix}embeddings.{name}_embeddings.weight", *others), (rows, width)
        )

    return [
        table(
            "word", "word", config.vocab, f"{head}{_decoder(config)}.weight"
        ),  # tied: either name may be the saved one
        table("position", "position", config.positions),
        table("token_type", "token_type", config.token_types),
        *_norm("embeddings/norm", f"{prefix}embeddings.LayerNorm", width),
    ]


def _layers(config: EncoderConfig, prefix: str) -> list[Leaf]:
    width, inner = config.width, config.mlp_width
    layer = f"{prefix}encoder.layer.{{layer}}."
    return [
        *_linear("layers/q", f"{layer}attention.self.query", width, width, stacked=True),
        *_linear("layers/k", f"{layer}attention.self.key", width, width, stacked=True),
        *_linear("layers/v", f"{layer}attention.self.value", width, width, stacked=True),
        *_linear("layers/o", f"{layer}attention.output.dense", width, width, stacked=True),
        *_norm("layers/attention_norm", f"{layer}attention.output.LayerNorm", width, stacked=True),
        *_linear("layers/up", f"{layer}intermediate.dense", width, inner, stacked=True),
        *_linear("layers/down", f"{layer}output.dense", inner, width, stacked=True),
        *_norm("layers/mlp_norm", f"{layer}output.LayerNorm", width, stacked=True),
    ]


def _pooler(config: EncoderConfig, prefix: str) -> list[Leaf]:
    return _linear("pooler", f"{prefix}pooler.dense", config.width, config.width)


def _mlm(config: EncoderConfig, head: str) -> list[Leaf]:
    width, decoder = config.width, f"{head}{_decoder(config)}"
    if config.kind == "bert":
        transform, norm, bias = (
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
        )
    else:
        transform, norm, bias = "lm_head.dense", "lm_head.layer_norm", "lm_head.bias"
    return [
        *_linear("mlm/dense", head + transform, width, width),
        *_norm("mlm/norm", head + norm, width),
        # transformers computes with the decoder's bias; files in which the two are one tensor keep either name
        Leaf("mlm/bias", (f"{decoder}.bias", head + bias), (config.vocab,)),
        Leaf(DECODER, (f"{decoder}.weight",), (width, config.vocab), transposed=True),
    ]


def _decoder(config: EncoderConfig) -> str:
    return "cls.predictions.decoder" if config.kind == "bert" else "lm_head.decoder"


def _linear(path: str, name: str, inputs: int, outputs: int, stacked: bool = False) -> list[Leaf]:
    return [
        Leaf(f"{path}/kernel", (f"{name}.weight",), (inputs, outputs), stacked, transposed=True),
        Leaf(f"{path}/bias", (f"{name}.bias",), (outputs,), stacked),
    ]


def _norm(path: str, name: str, width: int, stacked: bool = False) -> list[Leaf]:
    return [
        Leaf(f"{path}/scale", (f"{name}.weight", f"{name}.gamma"), (width,), stacked),
        Leaf(f"{path}/bias", (f"{name}.bias", f"{name}.beta"), (width,), stacked),
    ]
