"""What an encoder is: its sizes and constants, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig, Classifiers
from jaxprefix.models.encoder_leaves import ANCHOR, encoder_leaves
from jaxprefix.models.leaves import Leaf
from jaxprefix.models.stack import Remat
from jaxprefix.old_names import answer_old_names
from jaxprefix.values import Extent, Natural, NonNegative, Positive, Rate

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
"""The activations of the MLP, under the names of Hugging Face's `hidden_act`; "gelu" is the exact one, with erf."""

KINDS = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}
"""Hugging Face's `model_type` -> the kind of encoder that computes it."""

_SIZES = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "positions": "max_position_embeddings",
}


@answer_old_names
@dataclasses.dataclass(frozen=True)
class EncoderConfig(BackboneConfig):
    """Sizes and constants of a BERT or RoBERTa encoder; hashable.

    Attributes:
      model_type: "bert" or "roberta". They differ in position ids: BERT counts from 0, RoBERTa from `padding_id + 1`.
      vocab: V, rows of the word table.
      width: D.
      layers: L.
      heads: H; D is divisible by H.
      mlp_width: the inner width of the MLP.
      positions: rows of the position table (see `usable_positions`).
      token_types: rows of the token type table.
      norm_eps: added to the variance in every layer norm.
      padding_id: token id of the padding.
      activation: a key of `ACTIVATIONS`, of the MLP and, where there is one, of BERT's masked-LM transform.
      hidden_dropout: rate after the embeddings and after each sublayer, in training.
      attention_dropout: rate of the attention weights, in training.
      initializer_range: standard deviation of a fresh kernel.
    """

    model_type: str
    vocab: Extent
    width: Extent
    layers: Extent
    heads: Extent
    mlp_width: Extent
    positions: Extent
    token_types: Extent = 2
    norm_eps: Positive = 1e-12
    padding_id: Natural = 0
    activation: str = "gelu"
    hidden_dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    initializer_range: NonNegative = 0.02

    model_types: ClassVar[tuple[str, ...]] = tuple(KINDS)
    # By the TPU compiler (docs/benchmarks.md, plans): to store results of narrow layers takes longer than to make them.
    accelerated_remat: ClassVar[Remat] = "full"
    new_starts: ClassVar[tuple[str, ...]] = ("bert", "small")
    constants: ClassVar[tuple[str, ...]] = ("embeddings.position_ids", "embeddings.token_type_ids")

    @property
    def dims(self) -> Dims:
        """The sizes that methods and heads may ask for."""
        return Dims(
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.heads,
            width=self.width,
            head_width=self.head_width,
            mlp_width=self.mlp_width,
            vocab=self.vocab,
            positions=self.usable_positions,
            norm_eps=self.norm_eps,
            head_activation=self.activation if self.model_type == "bert" else "gelu",
            initializer_range=self.initializer_range,
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
        )

    @property
    def prefix(self) -> str:
        """What precedes the names of its tensors in files that are written."""
        return f"{self.model_type}."

    @property
    def anchor(self) -> str:
        """The end of the one tensor name by which it is found in files."""
        return ANCHOR

    def leaves(self, prefix: str = "") -> list[Leaf]:
        """The table of its leaves, tensor names behind a prefix."""
        return encoder_leaves(self, prefix)

    @property
    def classifiers(self) -> Classifiers:
        """transformers' own classifiers on this kind."""
        if self.model_type == "bert":
            return Classifiers(pooler="bert.pooler.dense")
        return Classifiers("classifier.out_proj", pooler="classifier.dense", pooler_is_trained=True)

    @property
    def has_token_types(self) -> bool:
        """Whether tokens of a pair's two texts have embeddings of their own."""
        return self.token_types > 1

    @property
    def type_count(self) -> int | None:
        """How many types a token may have; None where they have no embeddings."""
        return self.token_types if self.has_token_types else None

    @property
    def usable_positions(self) -> int:
        """How many tokens of one row, virtual ones included, the position table can number."""
        return self.positions if self.model_type == "bert" else self.positions - self.padding_id - 1

    @property
    def head_width(self) -> int:
        """E."""
        return self.width // self.heads

    @classmethod
    def reads(cls, config: Mapping[str, Any]) -> bool:
        """By `model_type`; early folders name only the class, and the first BERT ones not even that."""
        return _named(config) in KINDS

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "EncoderConfig":
        """Reads the dict of a Hugging Face `config.json`; keys without influence on the encoder are ignored.

        Raises:
          UserError: another architecture, an unknown activation, relative positions, a decoder, missing or
            impossible sizes.
        """
        kind = _kind(config)
        _refuse_other_mathematics(config)
        missing = [key for key in _SIZES.values() if config.get(key) is None]
        if missing:
            raise UserError(f"config.json lacks {', '.join(missing)}; save the model again with save_pretrained.")

        result = cls(
            model_type=kind,
            **{field: _whole(config, key, at_least=1) for field, key in _SIZES.items()},
            token_types=_whole(config, "type_vocab_size", at_least=1, default=2),
            norm_eps=_real(config, "layer_norm_eps", 1e-12),
            padding_id=_whole(config, "pad_token_id", at_least=0, default=0 if kind == "bert" else 1),
            activation=config.get("hidden_act") or "gelu",
            hidden_dropout=_real(config, "hidden_dropout_prob", 0.1),
            attention_dropout=_real(config, "attention_probs_dropout_prob", 0.1),
            initializer_range=_real(config, "initializer_range", 0.02),
        )
        if result.width % result.heads:
            raise UserError(
                f"config.json has hidden_size = {result.width}, which is not divisible by "
                f"num_attention_heads = {result.heads}; correct one of them."
            )
        if result.usable_positions < 1:
            raise UserError(
                f"config.json has max_position_embeddings = {result.positions}, which leaves no position beside "
                f"pad_token_id = {result.padding_id}; correct one of them."
            )
        return result

    def to_hf(self, parts: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The dict of a `config.json` from which `from_hf` makes this config again; `parts` may hold "mlm"."""
        masked = {"bert": "BertForMaskedLM", "roberta": "RobertaForMaskedLM"}[self.model_type]
        return {
            "architectures": [masked if "mlm" in parts else f"{self.model_type.capitalize()}Model"],
            "model_type": self.model_type,
            **{key: getattr(self, field) for field, key in _SIZES.items()},
            "type_vocab_size": self.token_types,
            "layer_norm_eps": self.norm_eps,
            "pad_token_id": self.padding_id,
            "hidden_act": self.activation,
            "hidden_dropout_prob": self.hidden_dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": True,
        }


def _whole(config: Mapping[str, Any], key: str, *, at_least: int, default: int | None = None) -> int:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise UserError(f"config.json has {key} = {value!r}; it must be a whole number, at least {at_least}.")
    return value


def _real(config: Mapping[str, Any], key: str, default: float) -> float:
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise UserError(f"config.json has {key} = {value!r}; it must be a number, at least 0.")
    return float(value)


def _named(config: Mapping[str, Any]) -> str | None:
    name = config.get("model_type")
    if name is None:
        architectures = config.get("architectures") or ["Bert" if config.get("type_vocab_size") == 2 else ""]
        name = next((kind for kind in ("bert", "roberta") if architectures[0].lower().startswith(kind)), None)
    return name


def _kind(config: Mapping[str, Any]) -> str:
    name = _named(config)
    if name not in KINDS:
        raise UserError(
            f"config.json has model_type = {name!r}, which is not a supported architecture; "
            f"take a model of one of these: {', '.join(KINDS)}."
        )
    return KINDS[name]


def _refuse_other_mathematics(config: Mapping[str, Any]) -> None:
    """Refuses settings under which the same tensors mean another function."""
    activation = config.get("hidden_act") or "gelu"
    if activation not in ACTIVATIONS:
        raise UserError(
            f"config.json has hidden_act = {activation!r}, which is not supported; "
            f"take a model with one of these: {', '.join(ACTIVATIONS)}."
        )
    positions = config.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise UserError(
            f"config.json has position_embedding_type = {positions!r}, but only absolute positions are supported; "
            "take a model trained with absolute positions."
        )
    if config.get("is_decoder"):
        raise UserError("config.json has is_decoder = true, but only encoders are supported; take an encoder.")
    if config.get("quantization_config"):
        raise UserError("config.json has a quantization_config, but only unquantised weights can be read; take those.")
