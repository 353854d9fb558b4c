"""Methods where several examples share a row, and in steps through the cache: as in one pass over an example alone."""

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.models.cache import Cache
from tests import decoders, tiny

ADAPTIVE = jp.Inducer(key_mode="adaptive", value_rank=3)
APT = jp.AdaptivePrefix(length=3, gate_std=0.5)
METHODS = {
    "apt": APT,
    "apt, dropped window": jp.AdaptivePrefix(length=3, gate_std=0.5, subject_to_window=True),
    "apt + prefix": APT + jp.PTuningV2(length=2),
    "adaptive inducer + lora": ADAPTIVE + jp.LoRA(("q", "gate"), rank=2),
    "value gating + apt": jp.Inducer(key_mode="identity", value_rank=3, value_gating=True) + APT,
    "kernel-mix + adapters": jp.KernelMix() + jp.ParallelAdapter(width=4) + jp.MultiHeadAdapter(value_rank=3),
    "prompt tuning + apt": jp.PromptTuning(length=2) + APT,
}
ROWS = ((4, 3, 2), (1, 5), (9,))


def build(method, kind="gemma2"):
    model = jp.TunedModel(jp.Decoder(decoders.config(kind, layers=2), unroll=False), method)
    return model, *tiny.drawn(model, decoders.frozen_tree(kind, layers=2))


@pytest.mark.slow  # tests/test_invariances.py has every method, quickly
@pytest.mark.parametrize("name", [name for name in METHODS if "window" not in name and "prompt" not in name])
def test_examples_that_share_a_row_are_as_if_alone(name):
    """Each is gated by its own first token, its queries are numbered from 1, its positions start with the offset."""
    model, trainable, frozen = build(METHODS[name])
    together = model.apply(trainable, frozen, decoders.packed(ROWS), capture=True)
    alone = model.apply(trainable, frozen, decoders.unpacked(ROWS), capture=True)
    example = 0
    for row, lengths in enumerate(ROWS):
        start = 0
        for length in lengths:
            place = slice(start, start + length)
            np.testing.assert_allclose(
                together.hidden[row, place], alone.hidden[example, :length], atol=2e-5, rtol=2e-4
            )
            for ours, theirs in zip(together.observed, alone.observed, strict=True):
                for seen, expected in ((ours[name], theirs[name]) for name in ours if name in ("alpha", "gate")):
                    np.testing.assert_allclose(
                        seen[:, row, place], np.repeat(expected[:, example, None], length, 1), atol=1e-5
                    )
                if "share" in ours:
                    np.testing.assert_allclose(
                        ours["share"][:, row, :, place], theirs["share"][:, example, :, :length], atol=1e-5
                    )
            start, example = start + length, example + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_steps_through_the_cache_are_the_whole_pass(name):
    """Gates read the first real token of each row, which only the first pass sees; rows are padded on the left."""
    model, trainable, frozen = build(METHODS[name])
    batch = decoders.batch((9, 6, 4), left=True)
    edits = model.edits(trainable)
    whole = model.apply(trainable, frozen, batch).hidden
    step = jax.jit(lambda cache, batch: model.forward(trainable, frozen, batch, cache=cache, edits=edits))
    cache, found, start = Cache.empty(model.backbone.dims, 3, 12), [], 0
    for width in (6, 1, 2):
        part = {key: batch[key][:, start : start + width] for key in ("input_ids", "attention_mask")}
        out = step(cache, part)
        cache, start = out.cache, start + width
        found.append(out.hidden)
    real = np.asarray(batch["attention_mask"])
    np.testing.assert_allclose(np.concatenate(found, 1)[real], whole[real], atol=2e-5, rtol=2e-4)


def test_the_gate_of_a_row_that_is_padded_on_the_left_reads_its_first_word():
    model, trainable, frozen = build(APT)
    right, left = (
        model.apply(trainable, frozen, decoders.batch((9, 4), left=left), capture=True).observed[0]["alpha"]
        for left in (False, True)
    )
    np.testing.assert_allclose(left, right, atol=1e-5)
    assert np.abs(right[1:, 0] - right[1:, 1]).max() > 1e-2


def test_a_prefix_that_leaves_the_window_has_left_it():
    """Its share of the attention is the same while all its tokens are seen, and 0 once none is; in full layers it
    stays."""
    stays, leaves = (
        build(jp.PTuningV2(length=2, subject_to_window=flag, position_offset=False), "gemma2") for flag in (False, True)
    )
    share = [
        np.asarray(model.apply(trainable, frozen, decoders.batch((9,)), capture=True).observed[0]["share"])[:, 0]
        for model, trainable, frozen in (stays, leaves)
    ]
    np.testing.assert_allclose(share[1][0, :, :2], share[0][0, :, :2], atol=1e-6)  # a window of 4, columns -2 and -1
    assert (share[1][0, :, 2] < share[0][0, :, 2]).all() and (share[1][0, :, 2] > 0).all()
    np.testing.assert_array_equal(share[1][0, :, 3:], 0)
    assert (share[1][1] > 0).all() and (share[0] > 0).all()


def test_what_cannot_be_on_a_causal_model_or_in_a_shared_row_is_refused():
    with pytest.raises(UserError, match="take gate_source='first'"):
        build(jp.AdaptivePrefix(length=2, gate_source="mean"))
    with pytest.raises(UserError, match="set legacy_mask=False on a causal model"):
        build(jp.Inducer(legacy_mask=True))
    with pytest.raises(UserError, match="LoRA names the map 'gate'; a layer has q, k, v, o, up, down"):
        build(jp.LoRA(("gate",)), "gpt2")
    packed = decoders.packed(ROWS)
    model, trainable, frozen = build(jp.PTuningV2(length=2, subject_to_window=True))
    with pytest.raises(UserError, match="leaves the window needs one example per row; set packed=False"):
        model.apply(trainable, frozen, packed)
    model, trainable, frozen = build(jp.PromptTuning(length=2))
    with pytest.raises(UserError, match=r"embedding-level prompt .* one example per row; set packed=False"):
        model.apply(trainable, frozen, packed)
