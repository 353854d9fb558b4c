"""Position conventions: keys that are turned are the same function, and what cannot be turned is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.methods import AdaptivePrefix, LoRA, PrefixTuning, PTuningV2
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.positions import convert_positions
from jaxprefix.models.rope import Rope
from jaxprefix.models.tuned import TunedModel
from tests import decoders, tiny

YARN = Rope(100.0, "yarn", 4.0, 8, 1.0, 32.0, amplitude=1.3)
KINDS = {
    **{kind: {} for kind in decoders.KINDS if kind != "gpt2"},
    "llama3": {"rope": Rope(100.0, "llama3", 4.0, 8)},
    "linear": {"rope": Rope(100.0, "linear", 4.0)},
    "gemma3_text with yarn": {"rope": YARN},
}
METHODS = {
    "plain": PTuningV2(length=4, init_std=1.0),
    "lengths": PTuningV2(lengths=(1, 0, 4), init_std=1.0),
    "gated": AdaptivePrefix(length=4, init_std=1.0, gate_std=0.5, subject_to_window=True),
    "a sum": LoRA(rank=1) + PTuningV2(length=4, init_std=1.0, subject_to_window=True),
}


def tuned(kind, method, seed=0):
    name = kind.split()[0] if kind.split()[0] in decoders.KINDS else "llama"
    model = TunedModel(Decoder(decoders.config(name, **KINDS.get(kind, {})), unroll=False), method)
    return model, *tiny.drawn(model, decoders.frozen_tree(name), seed)


def hidden(model, trainable, frozen):
    batch = {name: decoders.batch()[name] for name in ("input_ids", "attention_mask")}
    return np.asarray(model.apply(trainable, frozen, batch).hidden)[np.asarray(batch["attention_mask"])]


# Norms of heads, a window, biases of keys, YaRN and the frequencies of Llama 3 are in these; the others are slow.
FAST = ("gemma3_text with yarn", "llama3", "qwen2")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in FAST)) for kind in KINDS])
def test_the_function_stays_the_same(kind):
    model, trainable, frozen = tuned(kind, METHODS["plain"])
    before = hidden(model, trainable, frozen)
    for offset in (False, 9):
        method, leaves = convert_positions(model, model.method, trainable["method"], offset)
        assert method.position_offset == offset
        moved = dataclasses.replace(model, method=method)
        np.testing.assert_allclose(hidden(moved, {"method": leaves}, frozen), before, atol=1e-5)
        np.testing.assert_array_equal(leaves["values"], trainable["method"]["values"])
        assert np.abs(hidden(moved, trainable, frozen) - before).max() > 1e-3  # without turning it is another one


@pytest.mark.parametrize("name", [name for name in METHODS if name != "plain"])
def test_so_it_does_with_lengths_per_layer_gates_and_in_a_sum(name):
    model, trainable, frozen = tuned("gemma3_text", METHODS[name])
    method, leaves = convert_positions(model.backbone, model.method, trainable["method"], False)
    moved = dataclasses.replace(model, method=method)
    assert moved.edits({"method": leaves}).position_offset == 0
    found, wanted = hidden(moved, {"method": leaves}, frozen), hidden(model, trainable, frozen)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    back, again = convert_positions(model.backbone, method, leaves, True)
    assert back == model.method
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), again, trainable["method"])


def test_an_mlp_is_collapsed_first():
    model, trainable, frozen = tuned("llama", PrefixTuning(length=4, mlp_width=5))
    with pytest.raises(jp.UserError, match="makes its keys by an MLP, which cannot be rotated; collapse it first"):
        convert_positions(model, model.method, trainable["method"], False)
    direct, leaves = jp.collapse(model.method, trainable["method"], model.backbone.dims)
    method, leaves = jp.convert_positions(model, direct, leaves, False)
    found = hidden(dataclasses.replace(model, method=method), {"method": leaves}, frozen)
    np.testing.assert_allclose(found, hidden(model, trainable, frozen), atol=1e-5)


def test_what_cannot_be_moved_is_refused():
    method = PTuningV2(length=4)
    for backbone in (Decoder(decoders.config("gpt2")), Encoder(tiny.config("bert"))):
        with pytest.raises(jp.UserError, match="has learned positions, under which a prefix cannot be moved"):
            convert_positions(backbone, method, {}, False)
    llama = Decoder(decoders.config("llama"))
    with pytest.raises(jp.UserError, match="LoRA has 0 prefixes"):
        convert_positions(llama, LoRA(rank=1), {}, False)
    with pytest.raises(jp.UserError, match="Combined has 2 prefixes"):
        convert_positions(llama, method + method, {}, False)
    no_op = PTuningV2(length=4, position_offset=False, no_op_start=True)
    leaves = no_op.build(llama.dims).init(jax.random.key(0))["params"]
    with pytest.raises(jp.UserError, match="cannot start from the backbone with shifted positions"):
        convert_positions(llama, no_op, leaves, True)
    with pytest.raises(jp.UserError, match="position_offset = -1"):
        convert_positions(llama, method, method.build(llama.dims).init(jax.random.key(0))["params"], -1)
