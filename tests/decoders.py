"""Random tiny decoders of every family, and rows for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.models.decoder import Decoder
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.rope import Rope
from tests import tiny

VOCAB, TOKENS = 50, 9
SIZES = {
    "vocab": VOCAB,
    "width": 16,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 4,
    "mlp_width": 24,
    "positions": 40,
    "initializer_range": 0.3,
}
GEMMA = {
    "norm_offset": 1.0,
    "post_norms": True,
    "activation": "gelu_pytorch_tanh",
    "tied": True,
    "query_scale": 0.4,
    "embedding_scale": 4.0,
    "window": 4,
    "sliding_rope": Rope(100.0),
}
KINDS = {
    "gpt2": {
        "kv_heads": 4,
        "norm": "layer",
        "norm_eps": 1e-5,
        "gated_mlp": False,
        "activation": "gelu_new",
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "tied": True,
        "rope": None,
    },
    "llama": {},
    "mistral": {"pattern": ("sliding",), "window": 4, "sliding_rope": Rope()},
    "qwen2": {"qkv_bias": True, "tied": True},
    "qwen3": {"head_norms": True, "head_width": 6},
    "gemma2": {**GEMMA, "pattern": ("sliding", "full"), "attention_softcap": 2.0, "logit_softcap": 3.0},
    "gemma3_text": {**GEMMA, "pattern": ("sliding", "sliding", "full"), "head_norms": True},
}


@functools.cache
def config(kind: str, **changes) -> DecoderConfig:
    return DecoderConfig(kind, **{**SIZES, **KINDS[kind], **changes})


@functools.cache
def frozen_tree(kind: str, seed: int = 0, **changes):
    """A tree whose every leaf, biases and norms included, is random."""
    made = config(kind, **changes)
    init = Decoder(made).init
    params = dict(jax.eval_shape(init, jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"])
    if not made.tied:
        params["lm_head"] = {"kernel": jax.ShapeDtypeStruct((made.width, made.vocab), jnp.float32)}
    return tiny.random_tree(params, np.random.default_rng(seed + 1), 0.3, 1.0 - made.norm_offset)


def batch(lengths=(9, 6, 4, 1), tokens: int = TOKENS, seed: int = 0, left: bool = False):
    """Rows of these lengths, padded on the right or on the left; a row's words do not depend on the side."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(2, VOCAB, length) for length in lengths]
    ids, mask = np.zeros((len(rows), tokens), np.int32), np.zeros((len(rows), tokens), bool)
    for row, words in enumerate(rows):
        place = slice(tokens - len(words), None) if left else slice(len(words))
        ids[row, place], mask[row, place] = words, True
    return {
        "input_ids": jnp.asarray(ids),
        "attention_mask": jnp.asarray(mask),
        "labels": jnp.asarray(rng.integers(0, 3, len(rows)), jnp.int32),
        "weight": jnp.ones(len(rows), jnp.float32),
    }


def packed(rows, tokens: int = TOKENS, seed: int = 0):
    """Rows that hold several examples each, given by their lengths; the numbers of the examples start at 1."""
    flat = batch([length for row in rows for length in row], max(max(row) for row in rows), seed)
    ids, segment_ids = np.zeros((len(rows), tokens), np.int32), np.zeros((len(rows), tokens), np.int32)
    example = 0
    for row, lengths in enumerate(rows):
        column = 0
        for number, length in enumerate(lengths, 1):
            ids[row, column : column + length] = flat["input_ids"][example, :length]
            segment_ids[row, column : column + length] = number
            column, example = column + length, example + 1
    return {
        "input_ids": jnp.asarray(ids),
        "segment_ids": jnp.asarray(segment_ids),
        "attention_mask": jnp.asarray(segment_ids > 0),
    }


def unpacked(rows, seed: int = 0):
    """The examples of `packed`, a row each."""
    return batch([length for row in rows for length in row], max(max(row) for row in rows), seed)
