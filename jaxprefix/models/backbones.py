"""The families of backbones: the one list of them, and what a config makes."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxprefix.contract import check_complete
from jaxprefix.errors import UserError
from jaxprefix.models.backbone_config import BackboneConfig, Module
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.models.stack import Remat
from jaxprefix.trees import Tree
from jaxprefix.typed_json import register

LAYERS, MOST_LAYERS = ("num_hidden_layers", "n_layer"), 10_000
"""Settings whose value is a number of layers, and the largest: tables of names and transformers' defaults go by it."""

C = TypeVar("C", bound=BackboneConfig)

_modules: dict[type[BackboneConfig], Any] = {}


def register_backbone(config: type[C], module: Any) -> type[C]:
    """Makes a family of backbones known: its folders are read and written, its configs are values of runs.

    Registering the same classes again, as a notebook does when a cell is run twice, replaces the old ones.

    Args:
      config: a frozen dataclass, subclass of `BackboneConfig`.
      module: the class of its Linen module, called as `module(config, dtype, unroll, remat)`.

    Returns:
      `config`.

    Raises:
      UserError: a member is missing, or another family has one of the `model_type`s.
    """
    if not (inspect.isclass(config) and issubclass(config, BackboneConfig) and dataclasses.is_dataclass(config)):
        name = getattr(config, "__name__", repr(config))
        raise UserError(f"{name} is no frozen dataclass that derives from BackboneConfig; make it one.")
    check_complete(config)
    if not config.model_types:
        raise UserError(f"{config.__name__} has no model_types, so no folder would be read by it; name them.")
    lacking = [name for name in ("parts", "dims", "keys_and_values") if not hasattr(module, name)]
    if lacking:
        raise UserError(f"{module.__name__} lacks {', '.join(lacking)}, which models/backbone_config.Module describes.")
    same = {
        other
        for other in _modules
        if other.__qualname__ == config.__qualname__ and other.__module__ == config.__module__
    }
    for other in _modules.keys() - same:
        for kind in set(other.model_types) & set(config.model_types):
            raise UserError(f"{other.__name__} reads model_type = {kind!r} already; give {config.__name__} another.")
    register(config)
    for other in same:
        del _modules[other]
    _modules[config] = module
    return config


FAMILIES: tuple[tuple[type[BackboneConfig], Any], ...] = (
    (EncoderConfig, Encoder),
    (DecoderConfig, Decoder),
)
for _config, _module in FAMILIES:
    register_backbone(_config, _module)


def read_hf_config(raw: Mapping[str, Any]) -> BackboneConfig:
    """The config of a Hugging Face `config.json`.

    Raises:
      UserError: an unsupported architecture, or what its own reader refuses or trips over.
    """
    kind, named = raw.get("model_type"), raw.get("architectures") or []
    if not isinstance(kind, str | None) or not isinstance(named, list) or not all(isinstance(n, str) for n in named):
        raise UserError("config.json does not name its model_type and architectures as text; save the model again.")
    for name, value in raw.items():
        if name in LAYERS and type(value) is int and value > MOST_LAYERS:
            raise UserError(f"config.json has {name} = {value}; it can be {MOST_LAYERS} at most.")
    for config in _modules:
        if config.reads(raw):
            try:
                return config.from_hf(raw)
            except UserError as error:
                if "config.json" in str(error):
                    raise
                raise UserError(f"config.json cannot be: {error}") from error  # what a field of its class refuses
            except (ArithmeticError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
                said = " ".join(str(error).split())
                raise UserError(
                    f"config.json is no config of model_type = {raw.get('model_type')!r} ({type(error).__name__}: "
                    f"{said}); save the model again with save_pretrained."
                ) from error
    known = [name for config in _modules for name in config.model_types]
    raise UserError(
        f"config.json has model_type = {raw.get('model_type')!r}, which is not a supported architecture; "
        f"take a model of one of these: {', '.join(known)}."
    )


def make_backbone(
    config: BackboneConfig, dtype: Any = jnp.float32, unroll: bool | None = None, remat: Remat | None = None
) -> Module:
    """The module of a config.

    Raises:
      UserError: its family is not registered.
    """
    if type(config) not in _modules:
        raise UserError(f"{type(config).__name__} is of no known family; register it with jp.register_backbone.")
    return _modules[type(config)](config, dtype, unroll, remat)


def drawn_backbone(config: BackboneConfig, key: Any) -> Tree:
    """A tree drawn at random, with the head of a language model where that is not tied."""
    example = {"input_ids": jnp.zeros((1, 1), jnp.int32)}
    tree = make_backbone(config).init(key, example)["params"]
    if not config.tied:
        kernel = config.initializer_range * jax.random.normal(jax.random.fold_in(key, 1), (config.width, config.vocab))
        tree = {**tree, "lm_head": {"kernel": kernel}}
    return tree
