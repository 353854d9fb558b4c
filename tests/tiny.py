"""Random tiny encoders and batches for the tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.models.encoder import Encoder
from jaxprefix.models.encoder_config import EncoderConfig

VOCAB, TOKENS = 60, 9


@functools.cache
def config(kind: str = "bert", **changes) -> EncoderConfig:
    sizes = {"vocab": VOCAB, "width": 16, "layers": 3, "heads": 4, "mlp_width": 24, "positions": 40}
    padding = {"padding_id": 0 if kind == "bert" else 1}
    return EncoderConfig(kind, **{**sizes, **padding, "initializer_range": 0.3, **changes})


@functools.cache
def frozen_tree(kind: str = "bert", seed: int = 0):
    """A tree whose every leaf, biases and norms included, is random."""
    params = Encoder(config(kind)).init(jax.random.key(seed), {"input_ids": jnp.zeros((1, 2), int)})["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noise = [0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [leaf + n for leaf, n in zip(leaves, noise, strict=True)])


def batch(lengths=(9, 6, 4, 1), seed: int = 0, tokens: int = TOKENS, kind: str = "bert"):
    rng = np.random.default_rng(seed)
    mask = np.arange(tokens)[None] < np.array(lengths)[:, None]
    pad = config(kind).padding_id
    return {
        "input_ids": jnp.asarray(np.where(mask, rng.integers(2, VOCAB, mask.shape), pad), jnp.int32),
        "attention_mask": jnp.asarray(mask),
        "token_type_ids": jnp.asarray(rng.integers(0, 2, mask.shape), jnp.int32),
        "labels": jnp.asarray(rng.integers(0, 3, len(lengths)), jnp.int32),
        "weight": jnp.ones(len(lengths), jnp.float32),
    }


def encoder_dims(kind: str = "bert"):
    return Encoder(config(kind)).dims
