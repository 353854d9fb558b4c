"""Inducer-tuning: the published module's outputs on synthetic weights, and the invariants of its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.attention import kernel_attention
from jaxprefix.edits import Context
from jaxprefix.errors import UserError
from jaxprefix.methods import Inducer, LoRA, MultiHeadAdapter
from jaxprefix.methods.head_mlp import HeadMLP
from jaxprefix.methods.lora import LoRAEdit, LowRank
from tests.methods import golden
from tests.methods.golden import fill, inducer, layer


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def context(tokens=3):
    return Context.of(jnp.ones((1, tokens), bool), jnp.zeros((1, tokens), int))


def projected(x):
    """Queries, keys and values of the layer, per head, by numpy."""
    made = np.asarray(x) @ np.asarray(fill((4, 12), 0.2)) + np.asarray(fill((12,), 0.3))
    return (made.reshape(*x.shape[:2], 3, 2, 2)[:, :, i] for i in range(3))


def softmax(scores):
    """Over the last axis."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows(text):
    return np.array([[float(x) for x in line.split()] for line in text.strip().splitlines()])


# Outputs of the authors' attention module, in float64, on the weights that `fill` gives (causal, no dropout).
GOLDEN = {
    "frozen": (lambda: (), "0.106061 0.427791 0.356212 -0.042867\n0.171450 0.466668 0.332834 -0.107006\n"
               "0.165423 0.487612 0.361493 -0.096981"),
    "extension, key mlp": (lambda: (inducer(),), "0.449668 0.903537 0.526698 -0.334385\n"
                           "0.532477 0.902239 0.442487 -0.424085\n0.501072 0.983887 0.562121 -0.376457"),
    "extension, key = q": (lambda: (inducer(key=False, key_mode="identity"),),
                           "0.445931 0.892439 0.518443 -0.332207\n0.533363 0.902254 0.441617 -0.425040\n"
                           "0.510089 0.969256 0.537293 -0.388654"),
    "extension, adaptive": (lambda: (inducer(key=False, key_mode="adaptive"),),
                            "0.445931 0.892439 0.518443 -0.332207\n0.533322 0.902255 0.441659 -0.424996\n"
                            "0.501443 0.981774 0.559467 -0.377211"),
    "gating ablation": (lambda: (inducer(renormalise=True),), "0.535319 0.927448 0.466886 -0.422929\n"
                        "0.555753 0.911682 0.429415 -0.447654\n0.512548 0.937976 0.501032 -0.396558"),
    "head share": (lambda: (inducer("share"),), "0.589510 1.008749 0.500549 -0.467854\n"
                   "0.595638 1.013620 0.499685 -0.473658\n0.621420 1.111087 0.579226 -0.485173"),
    "no extension": (lambda: (inducer("per_head"),), "0.042149 0.358434 0.345176 0.014565\n"
                     "0.137444 0.434851 0.332458 -0.075595\n0.084734 0.476178 0.429826 -0.011706"),
    "multi-head adapter": (lambda: (golden.multi_head_adapter(),), "0.417984 0.886743 0.540235 -0.302963\n"
                           "0.476172 0.827122 0.417620 -0.375840\n0.437907 0.888834 0.522572 -0.324141"),
    "with lora": (lambda: (inducer(), golden.lora_q()), "0.381568 0.917179 0.609539 -0.258508\n"
                  "0.476347 0.794915 0.382641 -0.381431\n0.494002 0.921938 0.502248 -0.379206"),
    "value gating": (lambda: (inducer(key=False, key_mode="identity", real=golden.real_mlp()),),
                     "0.870740 0.970334 0.177807 -0.778194\n0.967831 1.005814 0.119057 -0.877161\n"
                     "0.930759 1.045663 0.199189 -0.830418"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_published_outputs(name):
    edits, expected = GOLDEN[name]
    np.testing.assert_allclose(layer(edits())[0], rows(expected), atol=6e-7)


def test_published_logits_and_weights():
    _, (seen,) = layer((inducer(),), capture=True)
    weight = rows("0.692175 0.349458 0.654869\n0.612275 0.338778 0.368004")
    np.testing.assert_allclose(seen["weight"][0], weight, atol=6e-7)
    q, _, _ = projected(fill((1, 3, 4), 0.1))
    logit = rows("0.472073 0.042522 1.318500\n0.337247 0.014681 0.420531")
    np.testing.assert_allclose(inducer().logit(jnp.asarray(q), context())[0].T, logit, atol=6e-7)


@pytest.mark.parametrize(
    ("legacy", "expected", "weight"),
    [
        (True, "0.546730 0.942800 0.472063 -0.432686\n0.539835 0.911631 0.445278 -0.430462\n"
               "0.520333 0.945868 0.501777 -0.403646",
         "0.385482 0.265023 0.654869\n0.297960 0.255074 0.368004"),
        (False, "0.536559 0.937480 0.476486 -0.422587\n0.532477 0.902239 0.442487 -0.424085\n"
                "0.510292 0.934492 0.499524 -0.394704",
         "0.484871 0.349458 0.721853\n0.422488 0.338778 0.461778"),
    ],
)  # fmt: skip
def test_published_bidirectional_outputs_with_both_masks(legacy, expected, weight):
    out, (seen,) = layer((inducer(legacy_mask=legacy),), causal=False, mask=(True, True, False), capture=True)
    np.testing.assert_allclose(out[0], rows(expected), atol=6e-7)
    np.testing.assert_allclose(seen["weight"][0], rows(weight), atol=6e-7)


def zeroed(mlp):
    return dataclasses.replace(mlp, B=jnp.zeros_like(mlp.B), b=jnp.zeros_like(mlp.b))


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("kind", ["extension", "share", "per_head"])
def test_a_null_value_changes_nothing_except_under_the_gating_ablation(kind, key):
    options = {} if key else {"key": False, "key_mode": "identity"}
    null = dataclasses.replace(inducer(kind, **options), value=zeroed(golden.value_mlp(kind)))
    lora = LoRAEdit({"q": LowRank(fill((2, 4), 1.4), jnp.zeros((4, 2)), jnp.zeros(4))}, scale=1.5)
    np.testing.assert_allclose(layer((null, lora)), layer(()), atol=1e-14)
    ablated = dataclasses.replace(null, renormalise=True)
    assert np.abs(layer((ablated,)) - layer(())).max() > 1e-2


def test_weights_are_those_of_one_more_token():
    """`p = softmax([s, S])[0]`, and a constant on all logits does not change it."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 2, 2))) for _ in range(3))
    ctx = Context.of(jnp.ones((2, 5), bool), jnp.zeros((2, 5), int))

    @jax.jit
    def ours(q, k, v):
        _, lse = kernel_attention(q, k, v, causal=True)
        return lse, inducer().weight(q, k, lse, ctx), inducer().logit(q, ctx)

    lse, p, s = jax.device_get(ours(q, k, v))
    scores = np.einsum("bthe,bshe->bths", q, k) * 2**-0.5
    scores = np.where(np.tril(np.ones((5, 5), bool))[None, :, None], scores, -np.inf)
    together = softmax(np.concatenate([s[..., None], scores], -1))[..., 0]
    np.testing.assert_allclose(p, together, atol=1e-14)
    assert np.all((p > 0) & (p < 1))
    shifted = sigmoid((s + 7.0) - (lse.transpose(0, 2, 1) + 7.0))
    np.testing.assert_allclose(p, shifted, atol=1e-14)


def concatenated(edit, q, k, v, causal, ablation=False):
    """The definition: attention of query i over the real tokens and one token of its own; per head, before W_O."""
    edit = jax.device_get(edit)
    w_o, b_o = np.asarray(fill((4, 4), 0.4)), np.asarray(fill((4,), 0.5))
    scores = np.einsum("bthe,bshe->bths", q, k) * q.shape[-1] ** -0.5
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[1::2], bool))[None, :, None], scores, -np.inf)
    o = np.einsum("bths,bshe->bthe", softmax(scores), v)
    key = q + np.einsum("bthr,hre->bthe", np.tanh(np.einsum("bthe,her->bthr", q, edit.key.A) + edit.key.a),
                        edit.key.B) + edit.key.b  # fmt: skip
    own = np.einsum("bthe,bthe->bth", q, key) * q.shape[-1] ** -0.5
    weights = softmax(np.concatenate([own[..., None], scores], -1))
    u = np.tanh(np.einsum("bthe,her->bthr", q, edit.value.A) + edit.value.a)
    value = np.einsum("bthr,hro->btho", u, edit.value.B) + (edit.value.b if not edit.extension else 0)
    if edit.extension:  # per-head values in the model's width, the real ones through their part of W_O
        through = w_o.reshape(2, 2, 4)
        v, o = np.einsum("bshe,hed->bshd", v, through), np.einsum("bthe,hed->bthd", o, through)
    value = value if ablation else o + value
    heads = weights[..., :1] * value + np.einsum("bths,bshe->bthe", weights[..., 1:], v)
    if edit.extension:
        return heads.sum(2) + b_o + edit.value.b
    return heads.reshape(*heads.shape[:2], -1) @ w_o + b_o


@pytest.mark.parametrize("ablation", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["extension", "per_head"])
def test_equals_attention_over_one_more_token(kind, causal, ablation):
    x = fill((1, 3, 4), 0.1)
    q, k, v = projected(x)
    edit = inducer(kind, renormalise=ablation)
    expected = concatenated(edit, q, k, v, causal, ablation)
    np.testing.assert_allclose(layer((edit,), causal=causal), expected, atol=1e-13)


def test_identity_key_is_a_key_mlp_of_zeros():
    zero = dataclasses.replace(inducer(), key=zeroed(golden.key_mlp()))
    np.testing.assert_allclose(layer((zero,)), layer((inducer(key=False, key_mode="identity"),)), atol=1e-14)


@pytest.mark.parametrize("kind", ["extension", "per_head"])
def test_a_large_logit_is_the_multi_head_adapter_and_a_small_one_nothing(kind, monkeypatch):
    edit = inducer(kind)
    original = type(edit).logit
    monkeypatch.setattr(type(edit), "logit", lambda self, q, ctx: original(self, q, ctx) + 1e3)
    np.testing.assert_allclose(layer((edit,)), layer((golden.multi_head_adapter(kind),)), atol=1e-13)
    monkeypatch.setattr(type(edit), "logit", lambda self, q, ctx: original(self, q, ctx) - 1e3)
    rest = edit.value.b if kind == "extension" else 0
    np.testing.assert_allclose(layer((edit,)), layer(()) + rest, atol=1e-13)


def test_a_single_token():
    x = fill((1, 1, 4), 0.1)
    _, (seen,) = layer((inducer(key=False, key_mode="identity"),), x=x, capture=True)
    q, k, v = (z[0, 0] for z in projected(x))
    p = sigmoid(((q * q).sum(-1) - (q * k).sum(-1)) * 2**-0.5)
    np.testing.assert_allclose(np.asarray(seen["weight"])[0, :, 0], p, atol=1e-14)
    expected = v.reshape(4) @ np.asarray(fill((4, 4), 0.4)) + np.asarray(fill((4,), 0.5))
    np.testing.assert_allclose(np.asarray(layer((), x=x))[0, 0], expected, atol=1e-14)


@pytest.mark.parametrize("key_mode", ["mlp", "identity", "adaptive"])
def test_later_tokens_do_not_change_earlier_outputs(key_mode):
    edit = inducer(key=key_mode == "mlp", key_mode=key_mode)
    x = np.array(fill((1, 3, 4), 0.1))
    changed = x.copy()
    changed[0, 2] += 1.0
    whole, other = (np.asarray(layer((edit,), x=jnp.asarray(some)))[:, :2] for some in (x, changed))
    np.testing.assert_array_equal(whole, other)
    # so the outputs of a row that is cut off are those of its first tokens: what decoding token by token relies on
    np.testing.assert_allclose(layer((edit,), x=jnp.asarray(x[:, :2])), whole, atol=1e-14)


@pytest.mark.parametrize(("legacy", "changes"), [(False, False), (True, True)])
def test_padding_matters_with_the_legacy_mask_alone(legacy, changes):
    edit, x = inducer(legacy_mask=legacy), fill((1, 3, 4), 0.1)
    short = layer((edit,), causal=False, x=x[:, :2], mask=(True, True))
    long = layer((edit,), causal=False, x=x, mask=(True, True, False))[:, :2]
    assert (np.abs(short - long).max() > 1e-3) == changes
    if not changes:
        np.testing.assert_allclose(short, long, atol=1e-14)


def test_padding_on_the_left_does_not_change_the_adaptive_key():
    edit, x = inducer(key=False, key_mode="adaptive"), fill((1, 3, 4), 0.1)
    padded = jnp.concatenate([jnp.ones((1, 1, 4)), x[:, :2]], axis=1)
    out = layer((edit,), causal=False, x=padded, mask=(False, True, True))[:, 1:]
    np.testing.assert_allclose(out, layer((edit,), causal=False, x=x[:, :2], mask=(True, True)), atol=1e-14)


def test_order_of_heads_does_not_matter():
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 4, 2, 2))) for _ in range(3))
    w_o = jnp.asarray(rng.normal(size=(2, 2, 4)))
    ctx = Context.of(jnp.ones((1, 4), bool), jnp.zeros((1, 4), int))

    @jax.jit
    def out(edit, order):
        o, lse = kernel_attention(q, k, v)
        take = [x[:, :, order] for x in (q, k, v, o)]
        heads, extra = edit.after_attention(*take, lse[:, order], ctx)
        return jnp.einsum("bthe,hed->btd", heads, w_o[order]) + extra

    edit, order = inducer(), np.array([1, 0])
    flip = lambda mlp, shared: HeadMLP(  # noqa: E731
        mlp.A[order], mlp.a[order], mlp.B[order], mlp.b if shared else mlp.b[order]
    )
    flipped = dataclasses.replace(edit, value=flip(edit.value, True), key=flip(edit.key, False))
    np.testing.assert_allclose(out(edit, np.arange(2)), out(flipped, order), atol=1e-13)


def test_head_share_is_equal_second_matrices():
    shared = inducer("share")
    same = dataclasses.replace(golden.value_mlp("share"), B=jnp.stack([shared.value.B] * 2))
    np.testing.assert_allclose(layer((shared,)), layer((dataclasses.replace(inducer(), value=same),)), atol=1e-14)


def test_value_gating_without_extension_is_its_intended_meaning():
    edit = dataclasses.replace(inducer("per_head", key=False, key_mode="identity"), real=golden.real_mlp("per_head"))
    x = fill((1, 3, 4), 0.1)
    q, k, v = projected(x)
    scores = np.where(np.tril(np.ones((3, 3), bool))[None, :, None], np.einsum("bthe,bshe->bths", q, k) * 2**-0.5,
                      -np.inf)  # fmt: skip
    weights = softmax(scores)
    p = sigmoid((q * q).sum(-1) * 2**-0.5 - np.log(np.exp(scores).sum(-1)))[..., None]
    own = jax.device_get(edit)

    def mlp(m, z):
        return np.einsum("bthr,hre->bthe", np.tanh(np.einsum("bthe,her->bthr", z, m.A) + m.a), m.B) + m.b

    o = np.einsum("bths,bshe->bthe", weights, v)
    heads = o + p * mlp(own.value, q) + (1 - p) * np.einsum("bths,bshe->bthe", weights, mlp(own.real, k))
    expected = heads.reshape(1, 3, 4) @ np.asarray(fill((4, 4), 0.4)) + np.asarray(fill((4,), 0.5))
    np.testing.assert_allclose(layer((edit,)), expected, atol=1e-13)


def test_lora_is_a_change_of_the_weights():
    x, kernel, bias = fill((1, 3, 4), 0.1), fill((4, 12), 0.2)[:, :4], fill((12,), 0.3)[:4]
    y = golden.lora_q().project("q", x, x @ kernel + bias, context())
    merged = kernel + 1.5 * fill((2, 4), 1.4).T @ fill((4, 2), 1.5).T
    np.testing.assert_allclose(y, x @ merged + bias + 1.5 * fill((4,), 1.6), atol=1e-14)


def test_key_mlp_has_no_gradient_where_the_weight_or_the_residual_cannot_move():
    @jax.jit
    @jax.grad
    def gradient(A, edit):
        changed = dataclasses.replace(edit, key=dataclasses.replace(edit.key, A=A))
        return jnp.sum(jnp.sin(layer((changed,))))

    edit = inducer()
    assert np.abs(gradient(edit.key.A, edit)).max() > 1e-4
    silent = {
        "no residual": dataclasses.replace(edit, value=zeroed(edit.value)),
        "no second matrix": dataclasses.replace(edit, key=dataclasses.replace(edit.key, B=jnp.zeros((2, 2, 2)))),
    }
    for other in silent.values():
        assert np.abs(gradient(edit.key.A, other)).max() < 1e-15
    saturated = dataclasses.replace(edit, key=dataclasses.replace(edit.key, b=jnp.full((2, 2), 1e4)))
    assert np.abs(gradient(edit.key.A, saturated)).max() < 1e-12


def test_it_starts_near_the_backbone_and_lora_at_it():
    """By entry at most `H r 0.02 max|u| + 0.02`; the leaves are folded normal numbers below 0.02 in size."""
    sizes = golden.dims(True)
    method = Inducer(key_rank=5, value_rank=12)

    def started(method, seed):
        """The edit of the one layer, and its leaves."""

        @jax.jit
        def make(key):
            params = method.build(sizes).init(key)["params"]
            (edit,) = method.build(sizes).apply({"params": params}).layers
            return params, edit

        params, edit = jax.device_get(make(jax.random.key(seed)))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), edit), params

    edit, params = started(method, 0)
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    assert np.abs(flat).max() < 0.02 and abs(flat.std() / 0.00866 - 1) < 0.15
    bare = np.asarray(layer(()))
    by = np.abs(layer((edit,)) - bare)
    q, _, _ = projected(fill((1, 3, 4), 0.1))
    assert 0 < by.max() <= 2 * 12 * 0.02 * np.abs(edit.value.hidden(jnp.asarray(q))).max() + 0.02
    zero = Inducer(zero_init_up=True, key_rank=2)
    for start in (zero, LoRA(("q", "o"), rank=2, bias=True)):
        np.testing.assert_array_equal(layer((started(start, 1)[0],)), bare)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inducer(head_share=True, value_extension=False), "set value_extension=True"),
        (lambda: MultiHeadAdapter(head_share=True, value_extension=False), "set value_extension=True"),
        (lambda: Inducer(key_rank=-1), "key_rank = -1"),
        (lambda: Inducer(value_rank=0), "value_rank = 0"),
        (lambda: Inducer(value_gating=True), "no key MLP"),
        (lambda: Inducer(value_gating=True, key_mode="identity", gating_ablation=True), "choose one"),
        (lambda: Inducer(gating_ablation=True, layers=(0,)), "leave out layers"),
        (lambda: Inducer(dropout=1.0), "below 1"),
        (lambda: Inducer(layers=(7,)).build(golden.dims(False)), "different indices from 0 to 0"),
        (lambda: Inducer(legacy_mask=True).build(golden.dims(True)), "legacy_mask=False"),
        (lambda: LoRA(rank=-2), "rank = -2"),
        (lambda: LoRA(("q", "q")), "name each linear map once"),
        (lambda: LoRA(("w",)).build(golden.dims(True)), "names the map 'w'"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
