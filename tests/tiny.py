"""Random tiny encoders and batches for the tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.models.encoder import Encoder
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.trees import flatten, split

VOCAB, TOKENS = 60, 9


@functools.cache
def config(kind: str = "bert", **changes) -> EncoderConfig:
    sizes = {"vocab": VOCAB, "width": 16, "layers": 3, "heads": 4, "mlp_width": 24, "positions": 40}
    padding = {"padding_id": 0 if kind == "bert" else 1}
    return EncoderConfig(kind, **{**sizes, **padding, "initializer_range": 0.3, **changes})


def random_tree(shapes, rng, std: float, scales: float = 1.0):
    """Numbers N(0, `std`) for a tree of shapes, those of a `scale` around `scales`; from numpy, since JAX compiles a
    program for every shape that it draws."""

    def draw(path, leaf):
        mean = scales if path[-1].key == "scale" else 0.0
        return jnp.asarray(mean + std * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def frozen_tree(kind: str = "bert", seed: int = 0):
    """A tree whose every leaf, biases and norms included, is random."""
    init = Encoder(config(kind)).init
    shapes = jax.eval_shape(init, jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"]
    return random_tree(shapes, np.random.default_rng(seed + 1), 0.3)


def drawn(model, tree, seed: int = 2):
    """What `model.init` gives, with every trained leaf and every born one drawn; its shapes alone are computed."""
    trainable, frozen = jax.eval_shape(model.init, jax.random.key(0), tree)
    rng, kept = np.random.default_rng(seed), flatten(frozen["backbone"])
    moved = trainable.pop("backbone", {})
    trainable, born = random_tree((trainable, frozen["initialized"]), rng, 0.3)
    if moved:  # backbone leaves start where the folder has them
        noise, own = random_tree(moved, rng, 0.2, 0.0), flatten(tree)

        def shift(path, leaf):  # by numpy as well
            name = "/".join(part.key for part in path)
            return jnp.asarray(np.asarray(leaf) + np.asarray(own[name])) if name in own else leaf

        trainable["backbone"] = jax.tree_util.tree_map_with_path(shift, noise)
    return trainable, {"backbone": split(tree, lambda path: path in kept)[0], "initialized": born}


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
