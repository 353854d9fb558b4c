"""What a model takes as a batch: the tokenizer's own keys, and the old ones answered by the new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.renamed import BATCH_KEYS
from tests import decoders, tiny


def model_of(kind):
    if kind in ("bert", "roberta"):
        return jp.TunedModel(jp.Encoder(tiny.config(kind), unroll=False), jp.PTuningV2(length=2)), tiny.frozen_tree(
            kind
        )
    return jp.TunedModel(jp.Decoder(decoders.config(kind), unroll=False), jp.PTuningV2(length=2)), decoders.frozen_tree(
        kind
    )


def hidden(kind, batch):
    model, tree = model_of(kind)
    trainable, frozen = model.init(jax.random.key(0), tree)
    return np.asarray(model.apply(trainable, frozen, batch).hidden)


IDS = jnp.array([[5, 6, 7, 8], [9, 10, 11, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64])
def test_a_mask_is_bool_or_zeros_and_ones(dtype):
    expected = hidden("bert", {"input_ids": IDS, "attention_mask": jnp.asarray(MASK, bool)})
    np.testing.assert_array_equal(hidden("bert", {"input_ids": IDS, "attention_mask": MASK.astype(dtype)}), expected)


def test_an_additive_mask_is_refused():
    with pytest.raises(UserError, match="attention_mask is float32; give it as bool, or as integers"):
        hidden("bert", {"input_ids": IDS, "attention_mask": jnp.where(jnp.asarray(MASK, bool), 0.0, -1e9)})


@pytest.mark.parametrize("key", BATCH_KEYS)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_old_key_is_answered_by_the_new_one(kind, key):
    with pytest.raises(UserError, match=f"the batch has the key '{key}'; the key is '{BATCH_KEYS[key]}' now"):
        hidden(kind, {"input_ids": IDS, key: jnp.ones_like(IDS)})


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_token_types_that_would_be_ignored_are_refused(kind):
    batch = {"input_ids": IDS, "attention_mask": jnp.asarray(MASK, bool)}
    zeros = {**batch, "token_type_ids": jnp.zeros_like(IDS)}
    np.testing.assert_array_equal(hidden(kind, zeros), hidden(kind, batch))
    with pytest.raises(UserError, match=r"token_type_ids\[0, 0\] is 1, and this backbone has no embeddings of token"):
        hidden(kind, {**batch, "token_type_ids": jnp.ones_like(IDS)})


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_token_types_matter_where_there_are_embeddings_of_them(kind):
    """A row of BERT's table, a word of GPT-2's."""
    batch = {"input_ids": IDS, "attention_mask": jnp.asarray(MASK, bool)}
    typed = hidden(kind, {**batch, "token_type_ids": jnp.ones_like(IDS)})
    assert np.abs(typed - hidden(kind, batch))[MASK == 1].max() > 1e-3
