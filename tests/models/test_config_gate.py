"""Whatever stands in a `config.json`, a config is made of it whose fields hold, or a sentence says why not."""

import dataclasses
import logging

import pytest

from jaxprefix.errors import UserError
from jaxprefix.models.backbones import read_hf_config
from tests.models import decoder_folders

BERT = {
    "model_type": "bert",
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
VALUES = (0, -1, 10**30, 1.5, float("nan"), float("inf"), "x", None, [], [1], {}, {"rope_type": "yarn"}, True, "gelu")


def configs():
    yield BERT
    for kind in ("gpt2", "llama", "mistral", "qwen3", "gemma2", "gemma3_text"):
        yield decoder_folders.config("gpt2" if kind == "gpt2" else "llama") | {"model_type": kind}


@pytest.mark.parametrize("config", list(configs()), ids=lambda config: config["model_type"])
def test_any_value_at_any_key_is_read_or_refused(config, caplog):
    caplog.set_level(logging.CRITICAL)
    made = refused = 0
    for key in config:
        for value in VALUES:
            try:
                found = read_hf_config({**config, key: value})
            except UserError:
                refused += 1
            else:
                assert dataclasses.replace(found) == found  # whose fields are checked when it is made
                made += 1
    assert made and refused
