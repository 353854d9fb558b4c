"""Which backbone a config makes: the one place that lists the architectures."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.errors import UserError
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.decoder_config import DECODER_KINDS, DecoderConfig
from jaxprefix.models.decoder_leaves import anchor, decoder_leaves, is_decoder_buffer
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.encoder_config import KINDS, EncoderConfig
from jaxprefix.models.encoder_leaves import Leaf, encoder_leaves, find_prefix, is_buffer
from jaxprefix.models.stack import Remat
from jaxprefix.trees import Tree

BackboneConfig = EncoderConfig | DecoderConfig
Module = Encoder | Decoder


def read_hf_config(raw: Mapping[str, Any]) -> BackboneConfig:
    """The config of a Hugging Face `config.json`.

    Raises:
      UserError: an unsupported architecture, or what its own reader refuses.
    """
    kind = raw.get("model_type")
    if kind in DECODER_KINDS:
        return DecoderConfig.from_hf(raw)
    if kind is not None and kind not in KINDS:
        raise UserError(
            f"config.json has model_type = {kind!r}, which is not a supported architecture; "
            f"take a model of one of these: {', '.join([*KINDS, *DECODER_KINDS])}."
        )
    return EncoderConfig.from_hf(raw)


def make_backbone(
    config: BackboneConfig, dtype: Any = jnp.float32, unroll: bool | None = None, remat: Remat | None = None
) -> Module:
    """The module of a config."""
    if isinstance(config, DecoderConfig):
        return Decoder(config, dtype, unroll, remat)
    return Encoder(config, dtype, unroll, remat)


def drawn_backbone(config: BackboneConfig, key: Any) -> Tree:
    """A tree drawn at random, of a decoder with its head where that is not tied."""
    example = {"input_ids": jnp.zeros((1, 1), jnp.int32)}
    tree = make_backbone(config).init(key, example)["params"]
    if isinstance(config, DecoderConfig) and not config.tied:
        kernel = config.initializer_range * jax.random.normal(jax.random.fold_in(key, 1), (config.width, config.vocab))
        tree = {**tree, "lm_head": {"kernel": kernel}}
    return tree


def backbone_leaves(config: BackboneConfig) -> list[Leaf]:
    """All leaves that a whole folder of this model holds."""
    return decoder_leaves(config, "") if isinstance(config, DecoderConfig) else encoder_leaves(config, "")


def model_prefix(config: BackboneConfig) -> str:
    """What transformers' models with a head have before the names of this backbone's modules."""
    if isinstance(config, DecoderConfig):
        return "transformer." if config.kind == "gpt2" else "model."
    return f"{config.kind}."


def leaves_in(config: BackboneConfig, names: Iterable[str]) -> list[Leaf]:
    """Where the leaves lie in files with these tensor names.

    Raises:
      UserError: the names are of no such model, or of several.
    """
    if isinstance(config, DecoderConfig):
        return decoder_leaves(config, find_prefix(names, anchor(config), "decoder"))
    return encoder_leaves(config, find_prefix(names))


def is_constant(name: str) -> bool:
    """Whether a tensor is a constant that older versions of transformers saved with the weights."""
    return is_buffer(name) or is_decoder_buffer(name)
