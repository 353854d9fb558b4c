"""Inducers compute in bfloat16 what they compute in float32, within its rounding, on a CPU too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from tests import tiny


@pytest.mark.parametrize("legacy_mask", [False, True])
def test_inducers_in_bfloat16(legacy_mask):
    method = jp.Inducer(value_rank=3, key_rank=2, legacy_mask=legacy_mask)
    model = jp.TunedModel(jp.Encoder(tiny.config(), unroll=False), method)
    trainable, frozen = model.init(jax.random.key(0), tiny.frozen_tree())
    trainable = jax.tree.map(lambda leaf: 20 * leaf, trainable)
    low = dataclasses.replace(model, backbone=model.backbone.clone(dtype=jnp.bfloat16))
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), frozen)
    full, batch = model.apply(trainable, frozen, tiny.batch()).hidden, tiny.batch()
    found = low.apply(trainable, halved, batch).hidden
    assert found.dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, np.float32) - full)[np.asarray(batch["attention_mask"])]
    assert error.mean() < 0.1 * float(jnp.std(full))
