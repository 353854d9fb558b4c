"""Merging a LoRA changes the weights and not the function."""

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.trees import flatten
from tests import decoders, tiny

EVERY = jp.LoRA(("q", "k", "v", "o", "up", "down"), rank=2, alpha=3.0, bias=True, init="folded_normal")


def build(method):
    model = jp.TunedModel(jp.Encoder(tiny.config(), unroll=False), method, jp.SequenceClassifier(3))
    return model, *tiny.drawn(model, tiny.frozen_tree())


@pytest.mark.parametrize(
    ("method", "remains"),
    [
        (EVERY, "HeadOnly"),
        (jp.Inducer(key_rank=2, value_rank=3) + EVERY, "Inducer"),
        (EVERY + jp.SequentialAdapter(width=3, place="attention", init="normal"), "SequentialAdapter"),
        (jp.PTuningV2(length=2) + EVERY + jp.MultiHeadAdapter(value_rank=2), "Combined"),
        (jp.BitFit() + jp.LoRA(("q",), rank=2, bias=True, init="folded_normal"), "BitFit"),
    ],
)
def test_the_function_stays(method, remains):
    model, trainable, frozen = build(method)
    before = model.apply(trainable, frozen, tiny.batch()).logits
    merged, leaves, tree = jp.merge_lora(model, trainable, frozen)
    assert type(merged.method).__name__ == remains
    assert not any("lora" in path or (path.endswith("/A") and remains == "HeadOnly") for path in flatten(leaves))
    np.testing.assert_allclose(merged.apply(leaves, tree, tiny.batch()).logits, before, atol=3e-5)
    changed = merged.apply(leaves, frozen if remains != "BitFit" else tree, tiny.batch()).logits
    assert remains == "BitFit" or np.abs(changed - before).max() > 1e-2  # the weights carry the update now


def decoder(kind, method):
    model = jp.TunedModel(jp.Decoder(decoders.config(kind), unroll=False), method)
    return model, *tiny.drawn(model, decoders.frozen_tree(kind))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("llama", jp.LoRA(("q", "k", "v", "o", "gate", "up", "down"), rank=2, alpha=3.0, init="folded_normal")),
        ("gpt2", jp.PTuningV2(length=2) + EVERY),
    ],
)
def test_a_decoders_function_stays(kind, method):
    model, trainable, frozen = decoder(kind, method)
    before = model.apply(trainable, frozen, decoders.batch()).hidden
    merged, leaves, tree = jp.merge_lora(model, trainable, frozen)
    np.testing.assert_allclose(merged.apply(leaves, tree, decoders.batch()).hidden, before, atol=1e-4)
    assert np.abs(merged.apply(leaves, frozen, decoders.batch()).hidden - before).max() > 1e-2


def test_a_bias_that_the_map_does_not_have_is_refused():
    with pytest.raises(UserError, match="the map q of this backbone has none to merge it into"):
        jp.merge_lora(*decoder("llama", jp.LoRA(("q",), bias=True)))
    jp.merge_lora(*decoder("qwen2", jp.LoRA(("q",), bias=True)))


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(UserError, match="has no LoRA to merge"):
        jp.merge_lora(*build(jp.PTuningV2(length=2)))
    with pytest.raises(UserError, match="write the LoRA first"):
        jp.merge_lora(*build(jp.SequentialAdapter(width=3, place="attention") + jp.LoRA(("o",), rank=2)))
