"""A text as a start: the untrained prefix is the text in context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.methods import AdaptivePrefix, LoRA, PrefixTuning, PromptTuning, PTuningV2
from jaxprefix.starts import Start, TextStart, start
from tests import decoders
from tests.starts.cases import TEXT, assert_same, hidden, ids_of, in_context, rows, tokenizer, tuned

P = len(ids_of())
# An offset for every family whose positions are rotations; the others' parts are in those that are not slow.
OFFSETS = {"llama": False, "mistral": 2, "qwen2": 11, "qwen3": False, "gemma2": 11, "gemma3_text": 2}
SLOW = ("mistral", "qwen2", "qwen3")
METHODS = {
    "direct": PTuningV2(length=P, subject_to_window=True),
    "mlp": PrefixTuning(length=P, mlp_width=16, subject_to_window=True),
    "narrowest mlp": PrefixTuning(length=P, mlp_width=P, subject_to_window=True),
    "parity gates": AdaptivePrefix(length=P, gate_std=0.0, gate_scale=1.5, subject_to_window=True),
    "free gates": AdaptivePrefix(length=P, gate_source="none", gate_std=1.0, subject_to_window=True),
    "layer scale": AdaptivePrefix(length=P, token_gate=False, gate_scale=3.0, subject_to_window=True),
    "gates through an mlp": AdaptivePrefix(length=P, gate_std=0.0, mlp_width=64, subject_to_window=True),
    "a sum": LoRA(rank=1) + PTuningV2(length=P, subject_to_window=True),
    "prompt": PromptTuning(length=P),
}


def started(kind, method, how=None, **options):
    model, trainable, frozen = tuned(kind, method)
    return model, start(model, trainable, frozen, tokenizer(), how or TextStart(TEXT), **options), frozen


# The method's own offset: one family with learned positions, one with rotations, whose others have the next test.
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ("gpt2", "gemma2"))) for kind in decoders.KINDS]
)
def test_what_follows_has_the_hidden_states_that_it_has_behind_the_text(kind):
    found = hidden(*started(kind, METHODS["direct"]), rows())
    assert_same(found, in_context(kind, ids_of(), rows()), rows()["attention_mask"])


@pytest.mark.parametrize(
    ("kind", "offset"), [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] in SLOW)) for pair in OFFSETS.items()]
)
def test_where_positions_are_rotations_it_has_them_under_any_convention(kind, offset):
    method = PTuningV2(length=P, position_offset=offset, subject_to_window=True)
    assert_same(hidden(*started(kind, method), rows()), in_context(kind, ids_of(), rows()), rows()["attention_mask"])


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *(("gpt2", name) for name in METHODS if name != "direct"),
        *(("gemma3_text", name) for name in ("a sum", "prompt")),
        *(pytest.param("gemma3_text", name, marks=pytest.mark.slow) for name in ("mlp", "parity gates")),
    ],
)
def test_so_it_is_through_an_mlp_under_gates_in_a_sum_and_before_the_words(kind, method):
    tolerance = 1e-3 if method == "gates through an mlp" else 2e-5  # inputs of 1e-3 that are nearly equal, in float32
    found = hidden(*started(kind, METHODS[method]), rows())
    assert_same(found, in_context(kind, ids_of(), rows()), rows()["attention_mask"], atol=tolerance)


def test_gates_that_read_little_come_near():
    wanted, mask = in_context("llama", ids_of(), rows()), np.asarray(rows()["attention_mask"])
    model, trainable, frozen = started("llama", AdaptivePrefix(length=P, gate_std=1e-3))
    drawn = model.init(jax.random.key(0), decoders.frozen_tree("llama"))[0]
    near, far = (np.abs(hidden(model, leaves, frozen, rows()) - wanted)[mask].max() for leaves in (trainable, drawn))
    assert near < far / 10
    np.testing.assert_array_equal(trainable["method"]["gate"]["kernel"], drawn["method"]["gate"]["kernel"])


def test_a_layer_with_fewer_tokens_takes_the_first():
    _, trainable, _ = started("llama", PTuningV2(lengths=(2, 0, P)))
    whole = started("llama", PTuningV2(length=P))[1]["method"]
    for leaf, found in trainable["method"].items():
        wanted = np.asarray(whole[leaf]).reshape(3, P, *whole[leaf].shape[1:])
        np.testing.assert_array_equal(found, np.concatenate([wanted[0, :2], wanted[2]]))


def test_an_mlp_that_is_too_narrow_comes_as_near_as_it_can():
    short = [PrefixTuning(length=P, mlp_width=width) for width in (1, 3, P)]
    wanted = started("llama", PTuningV2(length=P))[1]["method"]

    def distance(method):
        model, trainable, _ = started("llama", method)
        _, found = jp.collapse(method, trainable["method"], model.backbone.dims)
        return sum(float(((found[leaf] - wanted[leaf]) ** 2).sum()) for leaf in ("keys", "values"))

    far, nearer, there = map(distance, short)
    assert far > nearer > 1e-3 > 1e-8 > there


def test_an_mlp_keeps_its_hidden_layer():
    model, trainable, frozen = tuned("llama", METHODS["mlp"])
    before = jax.tree.map(np.asarray, trainable)
    after = start(model, trainable, frozen, tokenizer(), TextStart(TEXT))
    for leaf in ("embedding", "up_kernel", "up_bias"):
        np.testing.assert_array_equal(after["method"][leaf], before["method"][leaf])
    jax.tree.map(np.testing.assert_array_equal, trainable, before)  # what was given stays


def test_other_leaves_stay_as_they_were_drawn():
    model, trainable, frozen = tuned("llama", METHODS["a sum"], jp.SequenceClassifier(num_labels=3))
    after = start(model, trainable, frozen, tokenizer(), TextStart(TEXT))
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, trainable)
    jax.tree.map(np.testing.assert_array_equal, after["head"], trainable["head"])
    jax.tree.map(np.testing.assert_array_equal, after["method"]["lora"], trainable["method"]["lora"])


def test_a_no_op_start_stays_one():
    method = PTuningV2(length=P, position_offset=False, no_op_start=True)
    model, trainable, frozen = started("llama", method)
    assert_same(hidden(model, trainable, frozen, rows()), in_context("llama", [], rows()), rows()["attention_mask"])
    weighed = {**trainable, "method": {**trainable["method"], "mass": np.ones(3 * P, np.float32)}}
    assert_same(hidden(model, weighed, frozen, rows()), in_context("llama", ids_of(), rows()), rows()["attention_mask"])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoders_prompt_is_the_words_before_the_row(kind):
    found = hidden(*started(kind, METHODS["prompt"]), rows())
    assert_same(found, in_context(kind, ids_of(), rows()), rows()["attention_mask"])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoders_prefix_has_the_keys_and_values_of_the_text(kind):
    model, trainable, frozen = started(kind, PTuningV2(length=P))
    prefix, layers = model.edits(trainable).layers[0], frozen["backbone"]["layers"]
    text = {"input_ids": jnp.asarray([ids_of()], jnp.int32)}
    captured = tuned(kind, LoRA(rank=1))[0].apply(tuned(kind, LoRA(rank=1))[1], frozen, text, capture=True).captured
    for layer in range(model.backbone.config.layers):
        for name, leaf in (("k", prefix.keys), ("v", prefix.values)):
            made = captured[layer, 0] @ layers[name]["kernel"][layer] + layers[name]["bias"][layer]
            np.testing.assert_allclose(leaf[layer].reshape(P, -1), made, atol=1e-5)


def test_the_start_token_is_read_and_the_end_token_is_not():
    model, trainable, frozen = tuned("llama", PTuningV2(length=P + 1))
    after = start(model, trainable, frozen, tokenizer("[CLS]"), TextStart(TEXT))
    assert_same(
        hidden(model, after, frozen, rows()), in_context("llama", [2, *ids_of()], rows()), rows()["attention_mask"]
    )


def test_another_number_of_tokens_is_refused_unless_it_may_be_fitted():
    with pytest.raises(jp.UserError, match=r"has 5 tokens and the method has length = 7; set length = 5, or fit=True"):
        started("llama", PTuningV2(length=7))
    found = hidden(*started("llama", PTuningV2(length=12), TextStart(TEXT, fit=True)), rows())
    assert_same(found, in_context("llama", (3 * ids_of())[:12], rows()), rows()["attention_mask"])
    whole, short = (
        started("llama", PTuningV2(length=length), TextStart(TEXT, fit=True))[1]["method"] for length in (P, 3)
    )
    for leaf, found in short.items():  # a causal model has the first tokens as they are in the whole text
        wanted = np.asarray(whole[leaf]).reshape(3, P, *whole[leaf].shape[1:])[:, :3]
        np.testing.assert_allclose(np.reshape(found, wanted.shape), wanted, atol=1e-5, rtol=1e-5)


def test_what_cannot_start_is_refused():
    with pytest.raises(jp.UserError, match=r"LoRA has no virtual tokens, .* remove start"):
        started("llama", LoRA(rank=1))
    with pytest.raises(jp.UserError, match="Combined has 2 sets of virtual tokens"):
        started("llama", PTuningV2(length=P) + PromptTuning(length=P))
    with pytest.raises(jp.UserError, match="has no tokens; give it some words"):
        started("llama", PTuningV2(length=P), TextStart("  "))
    with pytest.raises(jp.UserError, match="Start is no start"):
        started("llama", PTuningV2(length=P), Start())
    with pytest.raises(jp.UserError, match="need 60 positions, but the backbone has 40"):
        started("llama", PTuningV2(length=60, position_offset=False), TextStart(TEXT, fit=True))
