"""(IA)3: its equations in numpy on encoders and decoders, its start, its sums, and its place in a bank."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.methods.ia3 import IA3Edit
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.serving.slots import canonical_edits, fill_slots, make_slots
from jaxprefix.trees import flatten
from tests import decoders, tiny
from tests.methods import plain, plain_decoder
from tests.methods.test_matrix import loss, shaken

KINDS = ("bert", "gpt2", "llama")
FIELDS = {
    "published": {},
    "PEFT's for BERT": {"outputs": ("k", "v"), "inputs": ("down", "o")},
    "every map": {"outputs": ("q", "k", "v", "o", "up", "down"), "inputs": ("q", "k", "v", "o", "up", "down")},
    "some layers": {"outputs": ("q", "v"), "inputs": (), "layers": (0, 2)},
}


def build(kind, method):
    if kind == "bert":
        model = jp.TunedModel(jp.Encoder(tiny.config(kind), unroll=False), method, jp.SequenceClassifier(3))
        return model, *model.init(jax.random.key(1), tiny.frozen_tree(kind)), tiny.batch(kind=kind)
    model = jp.TunedModel(jp.Decoder(decoders.config(kind), unroll=False), method, jp.SequenceClassifier(3))
    return model, *model.init(jax.random.key(1), decoders.frozen_tree(kind)), decoders.batch((9, 4, 1))


def scaled(frozen, method, leaves):
    """The backbone whose kernels hold the scales, in float64: `l * (x W + b) = x (W l) + l b`, `(l * x) W`."""
    tree = jax.tree.map(lambda leaf: np.array(leaf, np.float64), frozen["backbone"])
    count = len(tree["layers"]["q"]["kernel"])
    chosen = range(count) if method.layers is None else method.layers
    for place, layer in enumerate(chosen):
        for name in method.outputs:
            scale = np.asarray(leaves["outputs"][name][place], np.float64)
            for leaf in tree["layers"][name].values():  # the kernel's columns, and the bias where there is one
                leaf[layer] = leaf[layer] * scale
        for name in method.inputs:
            scale = np.asarray(leaves["inputs"][name][place], np.float64)
            tree["layers"][name]["kernel"][layer] *= scale[:, None]
    return tree


def assert_plain(model, trainable, frozen, batch, tree, method=None, leaves=None):
    """Hidden states are those of the backbone `tree`, under `method` if there is one, row by row in numpy."""
    method = method or jp.HeadOnly()
    config, leaves = model.backbone.config, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), leaves or {})
    found = model.apply(trainable, frozen, batch).hidden
    for row, real in enumerate(np.asarray(batch["attention_mask"])):
        ids = np.asarray(batch["input_ids"][row])[real]
        if isinstance(model.backbone, jp.Encoder):
            types = np.asarray(batch["token_type_ids"][row])[real]
            expected = plain.hidden_row(config, tree, method, leaves, ids, types)
        else:
            expected = plain_decoder.hidden_row(config, tree, method, leaves, ids)
        np.testing.assert_allclose(found[row][real], expected, atol=3e-5, rtol=3e-4)


# Every choice of maps on one backbone, and what is published on the others.
VALUES = [
    pytest.param(kind, fields, marks=[pytest.mark.slow] * (kind != "bert" and fields != "published"))
    for kind in KINDS
    for fields in FIELDS
]


@pytest.mark.parametrize(("kind", "fields"), VALUES)
def test_value_is_that_of_the_equations(kind, fields):
    method = jp.IA3(**FIELDS[fields])
    model, trainable, frozen, batch = build(kind, method)
    trainable = shaken(trainable)
    assert_plain(model, trainable, frozen, batch, scaled(frozen, method, trainable["method"]))


def test_the_gate_of_a_gated_mlp_is_a_map_as_well():
    method = jp.IA3(outputs=("gate",), inputs=("gate", "up"))
    model, trainable, frozen, batch = build("llama", method)
    trainable = shaken(trainable)
    assert_plain(model, trainable, frozen, batch, scaled(frozen, method, trainable["method"]))


def test_the_hooks_by_hand():
    ctx = jp.Context.of(jnp.ones((1, 2), bool), jnp.zeros((1, 2), int))
    scales = IA3Edit({"k": jnp.array([1.0, -1.0, 0.5])}, {"down": jnp.array([0.0, 2.0])})
    x, y = jnp.array([[2.0, 3.0]]), jnp.array([[1.0, 5.0, 4.0]])
    np.testing.assert_array_equal(scales.project("k", x, y, ctx), [[2.0, 0.0, 6.0]])
    np.testing.assert_array_equal(scales.before_project("down", x, ctx), [[2.0, 9.0]])
    for name in ("q", "v", "down"):
        assert scales.project(name, x, y, ctx) is y
    assert scales.before_project("k", x, ctx) is x


@pytest.mark.parametrize("kind", ["bert", pytest.param("gpt2", marks=pytest.mark.slow), "llama"])
def test_it_starts_as_the_backbone_and_all_of_it_learns(kind):
    model, trainable, frozen, batch = build(kind, jp.IA3())
    dims = model.backbone.dims
    kv, shapes = dims.kv_heads * dims.head_width, {path: leaf.shape for path, leaf in flatten(trainable).items()}
    assert {path: shape for path, shape in shapes.items() if path.startswith("method/")} == {
        "method/outputs/k": (3, kv),
        "method/outputs/v": (3, kv),
        "method/inputs/down": (3, dims.mlp_width),
    }
    bare = dataclasses.replace(model, method=jp.HeadOnly())
    start, backbone = (m.apply(trainable, frozen, batch).hidden for m in (model, bare))
    np.testing.assert_array_equal(start, backbone)
    grads = jax.jit(jax.grad(lambda t: loss(model, t, frozen, batch)))(trainable)
    assert all(np.abs(leaf).max() > 1e-9 for leaf in jax.tree.leaves(grads["method"]))


def test_nothing_of_it_decays():
    model, *_ = build("bert", jp.IA3())
    said = [(leaf.group, leaf.decay, leaf.tp) for path, leaf in leaf_table(model).items() if path.startswith("method/")]
    assert said == [("base", False, None)] * 3


@pytest.mark.parametrize("first", ["lora", "ia3"])
def test_in_a_sum_with_lora_the_order_of_writing_counts(first):
    """Scales that come second scale LoRA's update of the same map too; LoRA reads a scaled input either way."""
    ia3, lora = jp.IA3(), jp.LoRA(("k", "down"), rank=2)
    model, trainable, frozen, batch = build("bert", lora + ia3 if first == "lora" else ia3 + lora)
    trainable = shaken(trainable)
    own, update = trainable["method"]["ia3"], jax.tree.map(np.array, trainable["method"]["lora"])
    update["down"]["A"] *= np.asarray(own["inputs"]["down"])[:, None]
    if first == "lora":
        update["k"]["B"] *= np.asarray(own["outputs"]["k"])[:, :, None]
    assert_plain(model, trainable, frozen, batch, scaled(frozen, ia3, own), lora, update)


def test_lora_is_merged_where_scales_come_after_it_and_refused_where_they_come_before():
    model, trainable, frozen, batch = build("bert", jp.LoRA(("k", "down"), rank=2) + jp.IA3())
    trainable = shaken(trainable)
    merged, leaves, backbone = jp.merge_lora(model, trainable, frozen)
    assert merged.method == jp.IA3()
    expected = model.apply(trainable, frozen, batch).hidden
    np.testing.assert_allclose(merged.apply(leaves, backbone, batch).hidden, expected, atol=2e-5, rtol=2e-4)
    model, trainable, frozen, _ = build("bert", jp.IA3() + jp.LoRA(("k",), rank=2))
    with pytest.raises(UserError, match="the LoRA of the map k comes after the IA3"):
        jp.merge_lora(model, trainable, frozen)


def test_adapters_of_different_maps_share_the_slots_of_a_bank():
    methods = (jp.IA3(), jp.IA3(("v",), ("o", "down"), layers=(1,)), jp.LoRA(("q",), rank=2))
    built = [build("bert", method) for method in methods]
    edits = [model.edits(shaken(trainable)) for model, trainable, *_ in built]
    dims = built[0][0].backbone.dims
    own = [canonical_edits("a", found, dims) for found in edits]
    slots = make_slots(own)
    model, trainable, frozen, batch = built[0]
    run = jax.jit(lambda edits: model.forward(trainable, frozen, batch, edits=edits).hidden)
    for found, canonical in zip(edits, own, strict=True):
        filled = jp.Edits(tuple(jax.tree.map(jnp.asarray, fill_slots(slots, canonical))))
        np.testing.assert_allclose(run(found), run(filled), atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jp.IA3((), ()), "IA3 scales no map"),
        (lambda: jp.IA3(("k", "k")), "name each linear map once"),
        (
            lambda: jp.IA3(("gate",)).build(tiny.encoder_dims()),
            "names the map 'gate'; a layer has q, k, v, o, up, down",
        ),
        (lambda: jp.IA3(layers=(7,)).build(tiny.encoder_dims()), "layers = "),
        (lambda: jp.IA3() + jp.IA3(("q",)), "both scale down"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
    jp.IA3() + jp.IA3(("q",), ("o",))
