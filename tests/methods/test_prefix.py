"""Prefix methods: the published layout, counts and initialisation, and every option."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods import HeadOnly, PrefixTuning, PTuningV2, collapse
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier
from jaxprefix.trees import count
from tests import tiny

BERT_BASE = Dims(layers=12, heads=12, kv_heads=12, width=768, head_width=64, mlp_width=3072, vocab=30522, positions=512)
BERT_LARGE = dataclasses.replace(BERT_BASE, layers=24, heads=16, kv_heads=16, width=1024, mlp_width=4096)


def leaves(method, dims, seed=0):
    """On the host."""
    draw = jax.jit(lambda key: method.build(dims).init(key).get("params", {}))
    return jax.tree.map(np.asarray, draw(jax.random.key(seed)))


def shapes(method, dims):
    return jax.eval_shape(lambda key: method.build(dims).init(key)["params"], jax.random.key(0))


def model_of(method, start=tiny.drawn):
    """Every trained leaf drawn, or as `start` has them."""
    model = TunedModel(Encoder(tiny.config(), unroll=False), method, SequenceClassifier(3))
    return model, *start(model, tiny.frozen_tree())


def at_its_start(model, tree):
    return model.init(jax.random.key(1), tree)


def logits(model, trainable, frozen, **kwargs):
    return model.apply(trainable, frozen, tiny.batch(), **kwargs).logits


@pytest.mark.parametrize(
    ("method", "dims", "expected"),
    [
        (PTuningV2(length=16), BERT_BASE, 294_912),
        (PTuningV2(length=20), BERT_BASE, 368_640),
        (PTuningV2(length=20), BERT_LARGE, 983_040),
        (PTuningV2(length=128), BERT_LARGE, 6_291_456),
        (PTuningV2(length=8), BERT_LARGE, 393_216),
        (PTuningV2(length=20, mlp_width=512), BERT_LARGE, 25_760_256),
        (PrefixTuning(length=10), BERT_LARGE, 25_750_016),  # GPT-2 medium has these sizes
        (PTuningV2(length=4, layers=(0, 5)), BERT_BASE, 2 * 2 * 4 * 768),
        (PTuningV2(lengths=(0, 3, *[1] * 10)), BERT_BASE, 2 * 13 * 768),
    ],
)
def test_published_parameter_counts(method, dims, expected):
    assert count(shapes(method, dims)) == expected


def test_initial_values_are_those_of_the_published_codes():
    direct = leaves(PTuningV2(length=16), BERT_BASE)
    for leaf in direct.values():
        assert abs(leaf.std() / 0.02 - 1) < 0.05 and abs(leaf.mean()) < 1e-3
    mlp = leaves(PTuningV2(length=64, mlp_width=512), dataclasses.replace(BERT_BASE, layers=2))
    assert all(abs(mlp[name].std() / 0.02 - 1) < 0.05 for name in ("embedding", "up_kernel", "down_kernel"))
    assert not mlp["up_bias"].any() and not mlp["down_bias"].any()
    torch = leaves(PrefixTuning(length=64), dataclasses.replace(BERT_BASE, layers=2))
    assert abs(torch["embedding"].std() - 1) < 0.05
    for name, inputs in (("up", 768), ("down", 512)):
        for leaf in (torch[f"{name}_kernel"], torch[f"{name}_bias"]):
            assert abs(leaf).max() <= inputs**-0.5 and abs(leaf.std() * (3 * inputs) ** 0.5 - 1) < 0.06
    assert not any(leaf.any() for leaf in leaves(PTuningV2(init_std=0.0), BERT_BASE).values())


def test_mlp_output_lays_keys_before_values_layer_by_layer():
    dims = Encoder(tiny.config()).dims
    method = PTuningV2(length=2, mlp_width=5)
    params = jax.tree.map(np.zeros_like, leaves(method, dims))
    edits = jax.jit(lambda params: method.build(dims).apply({"params": params}))
    for layer in range(3):
        for part in range(2):
            column = (2 * layer + part) * 16  # the published flat table [P, 2 L D]
            bias = params["down_bias"].copy()
            bias[column : column + 16] = np.arange(1.0, 17.0)
            (prefix,) = edits({**params, "down_bias": bias}).layers
            made = np.stack([prefix.keys, prefix.values])
            expected = np.zeros_like(made)
            expected[part, layer] = np.arange(1.0, 17.0).reshape(4, 4)  # head 0's numbers first
            np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(PrefixTuning(length=4, mlp_width=6), marks=pytest.mark.slow),
        PTuningV2(length=4, mlp_width=6, layers=(0, 2)),
        PrefixTuning(mlp_width=6, lengths=(1, 0, 3)),
        PrefixTuning(length=4, mlp_width=6, no_op_start=True, position_offset=False),
    ],
)
def test_collapse_is_the_same_function_without_the_mlp(method):
    model, trainable, frozen = model_of(method)
    if method.no_op_start:
        trainable["method"]["mass"] = jnp.linspace(-0.2, 1.5, 12)
    direct, params = collapse(method, trainable["method"], model.backbone.dims)
    assert set(params) == {"keys", "values"} | ({"mass"} if method.no_op_start else set())
    plain = dataclasses.replace(model, method=direct)
    expected = logits(model, trainable, frozen)
    np.testing.assert_allclose(logits(plain, {**trainable, "method": params}, frozen), expected, atol=1e-5)


def test_a_prefix_is_its_keys_and_values_put_before_the_real_ones():
    """One layer, worked out with plain numpy."""
    config = tiny.config("bert", layers=1)
    encoder = Encoder(config)
    frozen = jax.tree.map(lambda w: w, tiny.frozen_tree())
    frozen = {**frozen, "layers": jax.tree.map(lambda w: w[:1], frozen["layers"])}
    model = TunedModel(encoder, PTuningV2(length=3, init_std=1.0), SequenceClassifier(2))
    trainable, trees = model.init(jax.random.key(0), frozen)
    batch = tiny.batch()
    out = np.asarray(model.apply(trainable, trees, batch).hidden)

    w = jax.tree.map(lambda x: np.asarray(x, np.float64), frozen)

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * p["scale"] + p["bias"]

    ids, mask, token_type_ids = (np.asarray(batch[name]) for name in ("input_ids", "attention_mask", "token_type_ids"))
    emb = w["embeddings"]
    x = emb["word"]["embedding"][ids] + emb["position"]["embedding"][3 + np.arange(9)]
    x = norm(x + emb["token_type"]["embedding"][token_type_ids], emb["norm"])
    p = jax.tree.map(lambda leaf: leaf[0], w["layers"])

    def linear(name, z):
        return z @ p[name]["kernel"] + p[name]["bias"]

    a = np.zeros_like(x)
    prefix = {name: np.asarray(trainable["method"][name], np.float64) for name in ("keys", "values")}
    for b in range(4):
        real = mask[b]
        q, k, v = (linear(name, x[b]).reshape(9, 4, 4) for name in "qkv")
        heads = []
        for h in range(4):
            keys = np.concatenate([prefix["keys"][:, h], k[real, h]])
            values = np.concatenate([prefix["values"][:, h], v[real, h]])
            weights = np.exp(q[:, h] @ keys.T / 2)
            heads.append(weights / weights.sum(-1, keepdims=True) @ values)
        a[b] = np.concatenate(heads, -1)
    x = norm(x + linear("o", a), p["attention_norm"])
    up = linear("up", x)
    gelu = up * 0.5 * (1 + np.vectorize(math.erf)(up / np.sqrt(2)))
    expected = norm(x + linear("down", gelu), p["mlp_norm"])
    np.testing.assert_allclose(out[np.asarray(mask)], expected[mask], atol=2e-5)


def test_layer_subset_equals_per_layer_lengths_and_leaves_other_layers_alone():
    subset, trainable, frozen = model_of(PTuningV2(length=2, layers=(1,)))
    lengths = dataclasses.replace(subset, method=PTuningV2(lengths=(0, 2, 0)))
    found, expected = (m.apply(trainable, frozen, tiny.batch(), capture=True) for m in (lengths, subset))
    np.testing.assert_array_equal(found.logits, expected.logits)
    captured = expected.captured
    bare = TunedModel(subset.backbone, PTuningV2(length=2, layers=(2,)))
    other = bare.apply({"method": trainable["method"]}, frozen, tiny.batch(), capture=True).captured
    np.testing.assert_array_equal(captured[:2], other[:2])  # up to layer 1's input, the same bare backbone
    assert np.abs(captured[2] - other[2]).max() > 1e-3


def test_no_op_start_is_the_backbone_to_the_bit_with_a_live_mass():
    method = PTuningV2(length=5, init_std=1.0, no_op_start=True, position_offset=False)
    model, trainable, frozen = model_of(method, at_its_start)
    bare = dataclasses.replace(model, method=HeadOnly())
    expected = logits(bare, {"head": trainable["head"]}, frozen)
    np.testing.assert_array_equal(logits(model, trainable, frozen), expected)
    grads = jax.jit(jax.grad(lambda t: logits(model, t, frozen)[:, 0].sum()))(trainable)["method"]
    assert np.all(np.abs(grads["mass"]) > 0)
    zeros = {name: np.full(leaf.shape, name == "mass", leaf.dtype) for name, leaf in trainable["method"].items()}
    whole = logits(model, {**trainable, "method": jax.tree.map(jnp.asarray, zeros)}, frozen)
    assert np.abs(whole - expected).max() > 1e-3  # a prefix of zeros is no no-op
    below = jax.tree.map(lambda x: x, trainable)
    below["method"]["mass"] = below["method"]["mass"] - 0.5
    np.testing.assert_array_equal(logits(model, below, frozen), expected)


def test_order_of_virtual_tokens_does_not_matter():
    model, trainable, frozen = model_of(PTuningV2(length=4, init_std=1.0))
    order = np.array([2, 0, 3, 1])
    shuffled = jax.tree.map(lambda x: x, trainable)
    for name in ("keys", "values"):
        leaf = np.asarray(trainable["method"][name]).reshape(3, 4, 4, 4)[:, order]
        shuffled["method"][name] = leaf.reshape(12, 4, 4)
    np.testing.assert_allclose(logits(model, shuffled, frozen), logits(model, trainable, frozen), atol=1e-5)


@pytest.mark.parametrize("unit", ["element", "token"])
def test_prefix_dropout_is_off_in_evaluation_random_in_training_and_unbiased(unit):
    from jaxprefix.edits import Context

    method = PTuningV2(length=6, init_std=1.0, dropout=0.3, dropout_unit=unit)
    dims = Encoder(tiny.config()).dims
    params = jax.tree.map(jnp.asarray, leaves(method, dims))
    (edit,) = method.build(dims).apply({"params": params}).layers
    layer = jax.tree.map(lambda leaf: leaf[1], edit)
    x = jnp.zeros((512, 2, 16))
    ctx = Context.of(jnp.ones((512, 2), bool), jnp.zeros((512, 2), int))
    still = layer.virtual_tokens(x, ctx)
    assert still.keys.ndim == 3 and still.key_scale is None

    def effective(seed):
        tokens = layer.virtual_tokens(x, dataclasses.replace(ctx, key=jax.random.key(seed), training=True))
        keys = tokens.keys if tokens.keys.ndim == 4 else jnp.broadcast_to(tokens.keys, (512, *tokens.keys.shape))
        values = tokens.values if tokens.values.ndim == 4 else jnp.broadcast_to(tokens.values, keys.shape)
        if unit == "token":
            assert tokens.keys.ndim == 3  # the prefix stays shared
            keys = keys * tokens.key_scale[..., None, None]
            values = values * tokens.value_scale[..., None, None]
        return np.stack([keys, values])

    one, again, other = effective(0), effective(0), effective(1)
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)
    dropped = one == 0
    assert abs(dropped.mean() - 0.3) < 0.02
    if unit == "token":
        assert np.all(dropped.all((0, 3, 4)) == dropped.any((0, 3, 4)))
    else:
        assert 0.05 < np.mean(dropped[0] & dropped[1]) < 0.13  # keys and values are dropped independently
    kept = one[~dropped] / np.broadcast_to(np.stack([layer.keys, layer.values])[:, None], one.shape)[~dropped]
    np.testing.assert_allclose(kept, 1 / 0.7, rtol=1e-5)


def test_dropout_defaults_are_the_papers():
    dims = dataclasses.replace(BERT_BASE, hidden_dropout=0.1)

    def rate(method):
        made = jax.eval_shape(lambda: method.build(dims).init_with_output(jax.random.key(0))[0])
        return made.layers[0].rate

    assert rate(PTuningV2()) == 0.1 and rate(PTuningV2(dropout=0.0)) == 0.0
    assert rate(PrefixTuning()) == 0.0 and rate(PrefixTuning(dropout=None)) == 0.1


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (PTuningV2(layers=(0, 12)), "from 0 to 11"),
        (PTuningV2(layers=()), "at least one"),
        (PTuningV2(layers=(1, 1)), "different indices"),
        (PTuningV2(lengths=(1, 2)), "each of the 12 layers"),
        (PTuningV2(lengths=(0,) * 12), "not all of them 0"),
        (PTuningV2(lengths=(1,) * 12, layers=(1,)), "both lengths and layers"),
        (PTuningV2(no_op_start=True), "position_offset=False"),
        (PTuningV2(init_std=0.1, mlp_width=8), "without an MLP"),
    ],
)
def test_impossible_options_are_refused_when_the_method_is_built(method, message):
    with pytest.raises(UserError, match=message):
        method.build(BERT_BASE)
