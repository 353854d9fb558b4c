"""Adaptive Prefix Tuning: the golden vectors and numbered invariants of its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.attention import VirtualTokens, kernel_attention
from jaxprefix.edits import Context, Dims
from jaxprefix.errors import UserError
from jaxprefix.methods.prefix_edits import GatedPrefix
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.trees import count, flatten
from tests import tiny

BERT_BASE = Dims(layers=12, heads=12, kv_heads=12, width=768, head_width=64, mlp_width=3072, vocab=30522, positions=512)
BERT_LARGE = dataclasses.replace(BERT_BASE, layers=24, heads=16, kv_heads=16, width=1024, mlp_width=4096)
DEBERTA_XLARGE = dataclasses.replace(BERT_LARGE, layers=48)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def rows(text):
    return np.array([[float(x) for x in line.split()] for line in text.split(";")])


@pytest.mark.parametrize(
    ("alpha", "scale", "mass", "outputs", "weights"),
    [
        (None, None, 0.0, "0.669762 0.330238; 0.330238 0.669762", None),
        ([1, 1], 1, None, "5.301398 -1.105466; 1.575508 -0.107072",
         ".505229 .122830 .249112 .122830; .130985 .064585 .265654 .538776"),
        ([0.5, 0.25], 2, None, "5.301398 -0.491318; 1.533503 0.076790",
         ".505229 .122830 .249112 .122830; .127493 .089524 .258571 .524412"),
        ([1, 1], 0, None, "0.403355 0.198882; 0.249112 0.505229",
         ".198882 .198882 .403355 .198882; .122830 .122830 .249112 .505229"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_golden_attention(double, implementation, alpha, scale, mass, outputs, weights):
    def heads(values):
        return jnp.asarray(values, float)[:, None]

    gate = None if alpha is None else scale * jnp.asarray(alpha, float)
    mass = None if mass is None else jnp.full(2, mass)
    values = heads([[10, 0], [0, -10]])

    def attend(virtual_values, v):
        virtual = VirtualTokens(heads([[2, 0], [0, -1]]), virtual_values, gate, gate, mass)
        q, k = heads([[1, 0], [0, 1]])[None], heads([[1, 1], [0, 2]])[None]
        return kernel_attention(q, k, v[None], virtual=virtual, implementation=implementation)[0][0, :, 0]

    np.testing.assert_allclose(attend(values, heads(np.eye(2))), rows(outputs), atol=6e-7)
    if weights is not None and scale != 0:  # read off with values that name each token
        unit = np.eye(4) / np.array([*np.asarray(gate), 1, 1])[:, None]
        np.testing.assert_allclose(attend(heads(unit[:2]), heads(unit[2:])), rows(weights), atol=6e-7)


def test_golden_gate(double):
    prefix = GatedPrefix(
        keys=jnp.zeros((2, 1, 2)),
        values=jnp.zeros((2, 1, 2)),
        gate_kernel=jnp.array([[0.0, 0.0], [1.0, 1.0986123]]),  # the columns of W
    )
    x = jnp.array([[[1.0, -1.0], [7.0, 7.0]]])
    alpha = prefix.alpha(x, Context.of(jnp.ones((1, 2), bool), jnp.zeros((1, 2), int)))
    np.testing.assert_allclose(alpha, [[0.5, 0.475367]], atol=1e-6)


@pytest.mark.parametrize(
    ("method", "dims", "expected"),
    [
        (jp.AdaptivePrefix(length=16), BERT_BASE, 442_380),
        (jp.AdaptivePrefix(length=20), BERT_BASE, 552_972),
        (jp.AdaptivePrefix(length=20), BERT_LARGE, 1_474_584),
        (jp.AdaptivePrefix(length=128), BERT_LARGE, 9_437_208),
        (jp.AdaptivePrefix(length=8), BERT_LARGE, 589_848),
        (jp.AdaptivePrefix(length=16), DEBERTA_XLARGE, 2_359_344),
        (jp.AdaptivePrefix(length=20, mlp_width=512), BERT_LARGE, 25_760_256 + 24 * 20 * 1024 + 24),
        (jp.AdaptivePrefix(length=16, token_gate=False), BERT_BASE, 294_912 + 12),
        (jp.AdaptivePrefix(length=16, layer_scale=False), BERT_BASE, 442_368),
        (jp.AdaptivePrefix(length=16, gate_source="none"), BERT_BASE, 294_912 + 12 * 16 + 12),
        (jp.AdaptivePrefix(length=16, gate_bias=True), BERT_BASE, 442_380 + 12 * 16),
        (jp.PTuningV2(length=24), BERT_BASE, 442_368),  # PT-2+, 1.5 times the length
    ],
)
def test_parameter_counts(method, dims, expected):
    assert count(jax.eval_shape(lambda key: method.build(dims).init(key)["params"], jax.random.key(0))) == expected


def test_initial_values():
    params = jp.AdaptivePrefix(length=16).build(BERT_BASE).init(jax.random.key(0))["params"]
    for leaf in (params["keys"], params["values"], params["gate"]["kernel"]):
        assert abs(leaf.std() / 0.02 - 1) < 0.05
    np.testing.assert_array_equal(params["gate"]["scale"], np.ones(12))


def build(method, kind="bert", unroll=False):
    model = jp.TunedModel(jp.Encoder(tiny.config(kind), unroll=unroll), method, jp.SequenceClassifier(3))
    return model, *model.init(jax.random.key(1), tiny.frozen_tree(kind))


def with_method(trainable, **leaves):
    return {**trainable, "method": {**trainable["method"], **leaves}}


@pytest.mark.parametrize("start", ["parity", "alpha and lambda 1"])
def test_equals_p_tuning_v2(start):
    method = jp.AdaptivePrefix(length=3, init_std=1.0, gate_std=0.0, gate_scale=2.0, gate_bias=True)
    model, trainable, frozen = build(method)
    if start != "parity":  # a bias of 40 opens the gate to the last bit
        gate = {**trainable["method"]["gate"], "scale": jnp.ones(3), "bias": jnp.full(9, 40.0)}
        trainable = with_method(trainable, gate=gate)
    plain_model, _, _ = build(jp.PTuningV2(length=3))
    plain = {**trainable, "method": {k: trainable["method"][k] for k in ("keys", "values")}}
    out = model.apply(trainable, frozen, tiny.batch())
    np.testing.assert_allclose(out.logits, plain_model.apply(plain, frozen, tiny.batch()).logits, atol=1e-6)


def test_a_closed_gate_is_not_an_absent_token():
    model, trainable, frozen = build(jp.AdaptivePrefix(length=3, init_std=1.0, position_offset=False))
    bare, head, _ = build(jp.HeadOnly())
    head = {"head": trainable["head"]}
    closed = with_method(trainable, gate={**trainable["method"]["gate"], "scale": jnp.zeros(3)})
    out = model.apply(closed, frozen, tiny.batch(), capture=True)
    base = bare.apply(head, frozen, tiny.batch())
    assert np.abs(out.logits - base.logits).max() > 1e-2
    assert out.hidden.shape == base.hidden.shape
    share = np.asarray(out.observed[0]["share"])
    assert share.min() > 0  # score 0 for each of the three tokens
    grads = jax.jit(jax.grad(lambda t: model.forward(t, frozen, tiny.batch()).logits.std()))(closed)["method"]
    assert not np.any(grads["keys"]) and not np.any(grads["gate"]["kernel"]) and np.all(grads["gate"]["scale"] != 0)


def test_order_of_virtual_tokens_and_the_split_between_scale_and_prefix_do_not_matter():
    model, trainable, frozen = build(jp.AdaptivePrefix(length=3, init_std=1.0))
    expected = model.apply(trainable, frozen, tiny.batch()).logits
    order = np.concatenate([3 * layer + np.array([2, 0, 1]) for layer in range(3)])
    leaves = trainable["method"]
    gate = {**leaves["gate"], "kernel": leaves["gate"]["kernel"][order]}
    shuffled = with_method(trainable, keys=leaves["keys"][order], values=leaves["values"][order], gate=gate)
    np.testing.assert_allclose(model.apply(shuffled, frozen, tiny.batch()).logits, expected, atol=1e-5)
    scaled = with_method(
        trainable,
        keys=leaves["keys"] / 5,
        values=leaves["values"] / 5,
        gate={**leaves["gate"], "scale": 5 * leaves["gate"]["scale"]},
    )
    np.testing.assert_allclose(model.apply(scaled, frozen, tiny.batch()).logits, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_gates_read_the_first_token_of_the_layers_input(kind):
    """In the lowest layer that is the same embedding in every row, so its gates are the same; above they differ."""
    model, trainable, frozen = build(jp.AdaptivePrefix(length=4, gate_std=0.5), kind)
    batch = tiny.batch(kind=kind)
    batch["input_ids"] = batch["input_ids"].at[:, 0].set(5)
    batch["token_type_ids"] = jnp.zeros_like(batch["token_type_ids"])
    out = model.apply(trainable, frozen, batch, capture=True)
    alpha = np.asarray(out.observed[0]["alpha"])
    assert alpha.shape == (3, 4, 4) and np.all((alpha > 0) & (alpha < 1))
    np.testing.assert_array_equal(alpha[0], np.broadcast_to(alpha[0][:1], (4, 4)))
    assert np.all(np.ptp(alpha[1:], axis=1) > 1e-4)
    w = np.asarray(trainable["method"]["gate"]["kernel"]).reshape(3, 4, 16)
    states = np.asarray(out.captured)[:-1, :, 0]
    np.testing.assert_allclose(alpha, 1 / (1 + np.exp(-np.einsum("lbd,lpd->lbp", states, w))), atol=1e-5)


def test_the_first_real_token_is_found_behind_padding_on_the_left_and_a_prompt():
    method = jp.AdaptivePrefix(length=4, gate_std=0.5) + jp.PromptTuning(length=2)
    model, trainable, frozen = build(method)
    batch = {"input_ids": jnp.array([[0, 0, 7, 8]]), "attention_mask": jnp.array([[False, False, True, True]])}
    out = model.apply(trainable, frozen, batch, capture=True)
    kernel = trainable["method"]["adaptive_prefix"]["gate"]["kernel"][4:8]
    state = out.captured[1, 0, 2]
    np.testing.assert_allclose(out.observed[0]["alpha"][1, 0], jax.nn.sigmoid(kernel @ state), atol=1e-5)


def test_temporaries_of_the_prefix_are_shared_by_the_rows():
    """No copy of keys or values per row: with dropout off or per token, what P adds to the temporaries of forward and
    backward pass is the scores of the virtual tokens, not `B P D`."""

    def temporaries(rows, length, unit, training):
        config = tiny.config(width=64, positions=200, initializer_range=0.02, layers=1, hidden_dropout=0.0)
        config = dataclasses.replace(config, attention_dropout=0.0)
        rate = 0.1 if training else 0.0
        method = jp.AdaptivePrefix(length=length, dropout=rate, dropout_unit=unit)
        model = jp.TunedModel(jp.Encoder(config, unroll=True), method, jp.SequenceClassifier(3))
        shape = jax.ShapeDtypeStruct
        tree = jax.eval_shape(
            lambda key: jp.Encoder(config).init(key, {"input_ids": jnp.zeros((1, 1), int)})["params"], jax.random.key(0)
        )
        trainable, frozen = jax.eval_shape(model.init, jax.random.key(0), tree)
        batch = {"input_ids": shape((rows, 4), jnp.int32), "attention_mask": shape((rows, 4), bool)}

        def loss(trainable, frozen, batch, key):
            return model.forward(trainable, frozen, batch, key=key, training=training).logits.std()

        key = jax.eval_shape(lambda: jax.random.key(0))
        compiled = jax.jit(jax.grad(loss)).lower(trainable, frozen, batch, key).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    copies = 2 * 64 * 127 * 64 * 4  # one copy per row of one layer's keys and values, in bytes
    least = temporaries(64, 1, "element", False)  # without the draws of dropout: what it grows by is not too little
    still, by_token, by_element = (
        temporaries(64, 128, unit, training)
        for unit, training in (("element", False), ("token", True), ("element", True))
    )
    assert still - least < copies
    assert by_token - least < copies
    assert by_element - by_token > copies


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jp.AdaptivePrefix(token_gate=False, gate_bias=True), "remove those"),
        (lambda: jp.AdaptivePrefix(token_gate=False, layer_scale=False), "take PTuningV2"),
        (lambda: jp.AdaptivePrefix(layer_scale=False, gate_scale=2.0), "remove gate_scale"),
        (lambda: jp.AdaptivePrefix(gate_scale=0.0), "no gradient at the start"),
        (lambda: jp.AdaptivePrefix(gate_std=-1.0), "at least 0"),
        (
            lambda: jp.AdaptivePrefix(gate_source="mean").build(dataclasses.replace(BERT_BASE, causal=True)),
            "take gate_source='first'",
        ),
        (lambda: jp.PTuningV2(position_offset=-1).build(BERT_BASE), "at least 0"),
        (lambda: jp.Combined((jp.LoRA(),)), "needs two parts"),
        (lambda: jp.Combined((jp.LoRA(), jp.PTuningV2() + jp.BitFit())), "write them with \\+"),
        (lambda: jp.LoRA(("q", "v")) + jp.Inducer() + jp.LoRA(("v",)), "both own the low-rank update of v"),
        (lambda: jp.BitFit() + jp.FullFineTuning(), "both own the backbone's biases"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_gates_have_a_learning_rate_of_their_own():
    for method in (jp.AdaptivePrefix(length=2, gate_bias=True), jp.AdaptivePrefix(length=2) + jp.LoRA()):
        model, trainable, _ = build(method)
        gates = {path for path, leaf in leaf_table(model).items() if leaf.group == "gate"}
        assert gates == {path for path in flatten(trainable) if "/gate/" in path} and gates
