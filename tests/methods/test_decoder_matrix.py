"""Every method on Llama's kind of decoder (fewer key/value heads, rotation, RMS norms, a gated MLP), some on GPT-2's:
the value of its equations, and the leaves that learn."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.trees import flatten, merge
from tests import decoders, tiny
from tests.methods import plain_decoder, test_matrix
from tests.methods.test_matrix import silent_leaves

METHODS = {name: method for name, method in test_matrix.METHODS.items() if name != "apt, mean, bias"} | {
    "apt, lengths, bias": jp.AdaptivePrefix(lengths=(2, 0, 3), gate_bias=True),
    "prefix, leaves the window": jp.PTuningV2(length=3, subject_to_window=True),
    "apt, leaves the window": jp.AdaptivePrefix(lengths=(2, 1, 3), subject_to_window=True),
}
GATED = {"lora, gate": jp.LoRA(("gate", "up"), rank=2, alpha=3.0, bias=True)}
ASLEEP = {**test_matrix.ASLEEP, "lora, gate": ("A",)}
FAST = {"apt", "inducer", "inducer, value gating", "lora", "lora, gate", "prefix, leaves the window", "prompt tuning"}
CASES = [
    *(("gpt2", name) for name in ("apt", "inducer, value gating", "kernel-mix", "prompt tuning", "bitfit")),
    *(("llama", name) for name in {**METHODS, **GATED} if "window" not in name and name != "bitfit"),
    ("qwen2", "bitfit"),
    *(("mistral", name) for name in METHODS if "window" in name),
]


def build(kind, name, **settings):
    head = jp.SequenceClassifier(3, pooling="last")
    module = jp.Decoder(decoders.config(kind), unroll=False, **settings)
    model = jp.TunedModel(module, {**METHODS, **GATED}[name], head)
    return model, *tiny.drawn(model, decoders.frozen_tree(kind))


def plain_hidden(model, trainable, frozen, batch):
    """The reference's hidden states, at the real tokens."""
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (trainable, frozen))
    tree = merge(double[1]["backbone"], double[0].get("backbone", {}))
    for ids, real in zip(np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"]), strict=True):
        leaves = double[0].get("method", {})
        yield plain_decoder.hidden_row(model.backbone.config, tree, model.method, leaves, ids[real])


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*c, marks=[pytest.mark.slow] * (c[1] not in FAST or c[0] == "gpt2")) for c in CASES]
)
def test_value_is_that_of_the_equations(kind, name):
    """Rows with rotations are padded on the left, which counts neither for positions nor for what leaves a window."""
    model, trainable, frozen = build(kind, name)
    batch = decoders.batch((9, 4, 1), left=kind in ("llama", "mistral"))
    found = model.apply(trainable, frozen, batch).hidden
    for row, expected in enumerate(plain_hidden(model, trainable, frozen, batch)):
        real = np.asarray(batch["attention_mask"][row])
        np.testing.assert_allclose(found[row][real], expected, atol=3e-5, rtol=3e-4)


# Every method learns on BERT, in test_matrix.py; here one of every way to reach a decoder, and what only a decoder has.
LEARN = (
    *(("gpt2", name) for name in ("apt", "kernel-mix")),
    *(("llama", name) for name in ("inducer, value gating", "prompt tuning", "mam", "lora, gate", "full")),
    *(("qwen2", "bitfit"), ("mistral", "prefix, leaves the window"), ("mistral", "apt, leaves the window")),
)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), LEARN)
def test_exactly_the_method_learns_and_members_are_models_of_their_own(kind, name):
    model, _, frozen = build(kind, name)
    trainable = model.init(jax.random.key(1), decoders.frozen_tree(kind))[0]
    asleep, still = silent_leaves(model, trainable, frozen, decoders.batch())
    # the head is a classifier's; without virtual tokens GPT-2's key bias shifts all scores of a query alike
    unseen = {"backbone/lm_head/kernel", "backbone/layers/k/bias"}
    asleep -= unseen
    assert asleep == {path for path in asleep if path.rsplit("/", 1)[-1] in ASLEEP.get(name, ())}
    assert {path.rsplit("/", 1)[-1] for path in asleep} == set(ASLEEP.get(name, ()))
    assert still <= unseen


def test_bitfit_moves_the_biases_that_there_are():
    def moved(kind):
        model = jp.TunedModel(jp.Decoder(decoders.config(kind)), jp.BitFit(), jp.CausalLM())
        return set(flatten(model.init(jax.random.key(0), decoders.frozen_tree(kind))[0]))

    maps = {f"backbone/layers/{name}/bias" for name in ("q", "k", "v", "o", "up", "down")}
    norms = {"backbone/layers/attention_norm/bias", "backbone/layers/mlp_norm/bias", "backbone/norm/bias"}
    assert moved("gpt2") == maps | norms
    assert moved("qwen2") == {f"backbone/layers/{name}/bias" for name in "qkv"}
    for method in (jp.BitFit(), jp.BitFit() + jp.LoRA()):
        with pytest.raises(UserError, match="BitFit trains the biases of a backbone, and this one has none"):
            jp.TunedModel(jp.Decoder(decoders.config("llama")), method, jp.SequenceClassifier(3)).init(
                jax.random.key(0), decoders.frozen_tree("llama")
            )


def test_leaves_are_as_wide_as_the_heads_they_belong_to():
    """4 heads of 4 channels, 2 of keys and values, a model of 16."""
    shapes = {
        name: {path: leaf.shape for path, leaf in flatten(build("llama", name)[1]["method"]).items()}
        for name in ("p-tuning v2", "inducer, value gating", "lora, gate", "kernel-mix")
    }
    assert shapes["p-tuning v2"] == {"keys": (9, 2, 4), "values": (9, 2, 4)}
    assert shapes["inducer, value gating"]["value/A"] == (3, 4, 4, 3)
    assert shapes["inducer, value gating"]["real/A"] == (3, 2, 4, 3)
    assert shapes["lora, gate"]["gate/B"] == (3, 24, 2)
    assert shapes["kernel-mix"]["heads/v_A"] == (3, 2, 2, 4)
    assert dataclasses.asdict(decoders.config("llama"))["kv_heads"] == 2
