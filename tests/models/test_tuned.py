"""A tuned model: two disjoint trees, one pure function, the same under scan, loop, remat, vmap and padding."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.edits import Context, Dims, Edits, LayerEdit, edit
from jaxprefix.errors import UserError
from jaxprefix.methods import FullFineTuning, HeadOnly, Inducer, LoRA, ParallelAdapter, PrefixTuning, PTuningV2
from jaxprefix.methods.base import Method
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.heads import MaskedLM
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from jaxprefix.trees import count, flatten
from tests import tiny

METHODS = {
    "p-tuning v2": PTuningV2(length=5),
    "lengths": PTuningV2(lengths=(2, 0, 4)),
    "prefix-tuning, lengths": PrefixTuning(lengths=(2, 0, 4), mlp_width=7),
    "no-op": PTuningV2(length=5, no_op_start=True, position_offset=False),
    "full": FullFineTuning(),
}


def build(method, kind="bert", head=None, **settings):
    model = TunedModel(
        Encoder(tiny.config(kind), **{"unroll": False, **settings}), method, head or SequenceClassifier(3)
    )
    return model, *tiny.drawn(model, tiny.frozen_tree(kind))


def loss(model, trainable, frozen, batch, key=None):
    out = model.forward(trainable, frozen, batch, key=key, training=key is not None)
    total, weight = model.head.loss(out.logits, batch)
    return total / weight


def close(a, b, tolerance=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance), a, b)


LOOP, LOOP_DOTS = {"unroll": True}, {"unroll": True, "remat": "dots"}
SCAN, SCAN_FULL = {"unroll": False}, {"unroll": False, "remat": "full"}


@pytest.mark.parametrize(
    ("kind", "method", "ways"),
    [  # every leaf of the backbone beside virtual tokens; edits of every linear map, of attention and of the MLP
        ("roberta", PTuningV2(length=5) + FullFineTuning(), (LOOP, SCAN_FULL)),  # the other two: test_decoders.py
        pytest.param(
            "bert",
            Inducer(key_rank=2, value_rank=3) + LoRA(rank=2) + ParallelAdapter(width=4),
            (LOOP, LOOP_DOTS, SCAN, SCAN_FULL),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["prefix and all leaves", "inducer, lora and adapter"],
)
def test_loop_scan_and_remat_agree_in_value_and_gradient(kind, method, ways):
    batch, key = tiny.batch((9, 4), kind=kind), jax.random.key(3)
    config, tree = tiny.config(kind, layers=2), tiny.frozen_tree(kind)
    tree = {**tree, "layers": jax.tree.map(lambda leaf: leaf[:2], tree["layers"])}
    results = []
    for settings in ways:
        model = TunedModel(Encoder(config, **settings), method, SequenceClassifier(3))
        trainable, frozen = tiny.drawn(model, tree)
        results.append(jax.jit(jax.value_and_grad(lambda t, m=model, f=frozen: loss(m, t, f, batch, key)))(trainable))
    for other in results[1:]:
        close(results[0], other)


@pytest.mark.parametrize(
    ("kind", "name"), [("roberta", "lengths"), pytest.param("bert", "no-op", marks=pytest.mark.slow)]
)
def test_padding_and_batch_mates_do_not_matter(kind, name):
    model, trainable, frozen = build(METHODS[name], kind)
    whole = tiny.batch(kind=kind)
    wide = {k: jnp.pad(v, ((0, 0), (0, 6))) if v.ndim == 2 else v for k, v in whole.items()}
    wide["input_ids"] = jnp.where(wide["attention_mask"], wide["input_ids"], tiny.config(kind).padding_id)
    expected = model.apply(trainable, frozen, whole).logits
    close(expected, model.apply(trainable, frozen, wide).logits)
    alone = {k: v[2:3] for k, v in whole.items()}
    close(expected[2:3], model.apply(trainable, frozen, alone).logits)


@pytest.mark.parametrize("name", ["prefix-tuning, lengths", "no-op", "full"])
def test_trees_are_disjoint_and_gradients_have_the_shape_of_trainable(name):
    model, _, _ = build(METHODS[name])
    trainable, frozen = model.init(jax.random.key(1), tiny.frozen_tree())
    moved = set(flatten(trainable.get("backbone", {})))
    assert moved.isdisjoint(flatten(frozen["backbone"]))
    assert moved | set(flatten(frozen["backbone"])) == set(flatten(tiny.frozen_tree()))
    grads = jax.jit(jax.grad(lambda t: loss(model, t, frozen, tiny.batch(), jax.random.key(0))))(trainable)
    assert jax.tree.structure(grads) == jax.tree.structure(trainable)
    dead = {path for path, leaf in flatten(grads).items() if not np.any(np.asarray(leaf))}
    # a mass of 0 holds its own virtual token back until it moves; nothing else may be dead
    assert dead == ({"method/keys", "method/values"} if name == "no-op" else set())


def test_training_leaves_outlive_donation_of_the_other_tree():
    tree = tiny.frozen_tree()
    model = TunedModel(Encoder(tiny.config()), FullFineTuning(), SequenceClassifier(3))
    trainable, _ = model.init(jax.random.key(0), tree)
    jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(trainable)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


def test_population_is_a_vmap_over_the_trainable_tree():
    model, _, frozen = build(METHODS["p-tuning v2"])
    batch = tiny.batch()
    members = [tiny.drawn(model, tiny.frozen_tree(), seed)[0] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.vmap(lambda t: model.apply(t, frozen, batch).logits)(stacked)
    close(together, jnp.stack([model.apply(t, frozen, batch).logits for t in members]))


def test_compute_in_bfloat16_is_near_float32():
    model, trainable, frozen = build(METHODS["p-tuning v2"])
    low = dataclasses.replace(model, backbone=model.backbone.clone(dtype=jnp.bfloat16))
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), frozen)
    out = low.apply(trainable, half, tiny.batch())
    assert out.hidden.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    close(out.logits, model.apply(trainable, frozen, tiny.batch()).logits, 0.06)


def test_capture_returns_every_hidden_state():
    model, trainable, frozen = build(METHODS["p-tuning v2"])
    out = model.apply(trainable, frozen, tiny.batch(), capture=True)
    assert out.captured.shape == (4, 4, tiny.TOKENS, 16)
    close(out.captured[-1], out.hidden, 0)


def test_positions_follow_each_family_and_the_offset():
    from jaxprefix.models.encoder import token_positions

    mask = jnp.array([[True, True, True, False], [True, False, False, False]])
    assert token_positions(tiny.config("bert"), mask, 5).tolist() == [[5, 6, 7, 8]] * 2
    assert token_positions(tiny.config("roberta"), mask, 5).tolist() == [[7, 8, 9, 1], [7, 1, 1, 1]]


@pytest.mark.parametrize(("kind", "fits"), [("bert", 31), ("roberta", 29)])
def test_position_table_overflow_is_refused_before_compiling(kind, fits):
    for length, refused in ((fits, False), (fits + 1, True)):
        model, trainable, frozen = build(PTuningV2(length=length), kind)
        if refused:
            with pytest.raises(UserError, match=f"{9 + length} positions, but the backbone has {9 + fits}"):
                model.apply(trainable, frozen, tiny.batch(kind=kind))
        else:
            assert np.isfinite(model.apply(trainable, frozen, tiny.batch(kind=kind)).logits).all()


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler", "trained_pooler"])
def test_poolings_keep_to_their_tree(pooling):
    head = SequenceClassifier(3, pooling=pooling)
    model, trainable, frozen = build(METHODS["p-tuning v2"], head=head)
    assert set(trainable.get("backbone", {})) == ({"pooler"} if pooling == "trained_pooler" else set())
    assert set(frozen["initialized"]) == ({"pooler"} if pooling == "pooler" else set())
    # a folder's own pooler is used and not drawn again
    own = {"kernel": jnp.eye(16), "bias": jnp.ones(16)}
    trainable, frozen = tiny.drawn(model, {**tiny.frozen_tree(), "pooler": own})
    assert not frozen["initialized"]
    if pooling == "pooler":
        out = model.apply(trainable, frozen, tiny.batch())
        c = trainable["head"]["classifier"]
        close(out.logits, jnp.tanh(out.hidden[:, 0] + 1) @ c["kernel"] + c["bias"])


def test_full_fine_tuning_trains_a_born_pooler_too():
    _, trainable, frozen = build(FullFineTuning(), head=SequenceClassifier(3, pooling="pooler"))
    assert "pooler" in trainable["backbone"] and not flatten(frozen)


def shapes(model, trainable, frozen):
    """Of the outputs, which are not computed."""
    return jax.eval_shape(lambda: model.forward(trainable, frozen, tiny.batch()))


def test_token_head_and_masked_lm_shapes():
    model, trainable, frozen = build(METHODS["p-tuning v2"], head=TokenClassifier(5))
    assert shapes(model, trainable, frozen).logits.shape == (4, 9, 5)
    model, trainable, frozen = build(FullFineTuning(), head=MaskedLM())
    assert shapes(model, trainable, frozen).logits.shape == (4, 9, tiny.VOCAB)
    assert "mlm" in trainable["backbone"] and "head" not in trainable


def test_class_weights_and_ignored_labels_enter_the_loss_as_in_its_definition():
    head = SequenceClassifier(3, class_weights=(1.0, 2.0, 5.0))
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    batch = {"labels": np.array([0, 1, 2, 2]), "weight": np.array([1.0, 1, 1, 0], np.float32)}
    total, weight = jax.jit(head.loss)(logits, batch)
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert weight == 8 and np.isclose(total, -(p[0, 0] + 2 * p[1, 1] + 5 * p[2, 2]), atol=1e-5)
    tokens = TokenClassifier(3)
    labels = np.array([[0, -100], [1, -100], [-100, -100], [2, 2]])
    both = np.stack([logits, logits], 1)
    total, weight = jax.jit(tokens.loss)(both, {"labels": labels, "weight": batch["weight"]})
    assert weight == 2 and np.isclose(total, -(p[0, 0] + p[1, 1]), atol=1e-5)
    one = {"labels": np.array([0]), "weight": np.ones(1, np.float32)}
    smooth, _ = jax.jit(lambda logits, batch: SequenceClassifier(3).loss(logits, batch, 0.3))(logits[:1], one)
    assert np.isclose(smooth, -(0.7 * p[0, 0] + 0.1 * p[0].sum()), atol=1e-5)


def test_heads_refuse_what_does_not_fit():
    with pytest.raises(UserError, match="how many labels"):
        build(HeadOnly(), head=SequenceClassifier())
    with pytest.raises(UserError, match="2 entries for 3 labels"):
        build(HeadOnly(), head=SequenceClassifier(3, class_weights=(1.0, 2.0)))
    with pytest.raises(UserError, match="trains no leaf"):
        TunedModel(Encoder(tiny.config()), HeadOnly()).init(jax.random.key(0), tiny.frozen_tree())


@edit
class EveryHook(LayerEdit):
    """Adds a different multiple of one vector at every hook."""

    vector: jax.Array

    def project(self, name, x, y, ctx):
        return y + 0.1 * self.vector[: y.shape[-1]].sum()

    def replace_values(self, k, v, ctx):
        return v + 0.2 * self.vector[0]

    def after_attention(self, q, k, v, o, lse, ctx):
        inducer = jax.nn.sigmoid((q * q).sum(-1) - lse.transpose(0, 2, 1))
        return o + inducer[..., None] * self.vector[1], jnp.broadcast_to(self.vector, (*q.shape[:2], 16))

    def after_mlp(self, z, f, ctx):
        return f + z * self.vector

    def after_block(self, h, ctx):
        return h * (1 + 0.1 * self.vector)


@dataclasses.dataclass(frozen=True)
class EveryHookMethod(Method):
    scale: float = 0.5

    def build(self, dims):
        return EveryHookModule(dims, self.scale)


class EveryHookModule(nn.Module):
    dims: Dims
    scale: float

    @nn.compact
    def __call__(self) -> Edits:
        shape = (self.dims.layers, self.dims.width)
        return Edits((EveryHook(self.param("vector", nn.initializers.normal(self.scale), shape)),))


@pytest.mark.parametrize("remat", [pytest.param("none", marks=pytest.mark.slow), "full"])
def test_every_hook_of_a_persons_own_edit_reaches_the_output(remat):
    model, trainable, frozen = build(EveryHookMethod(), unroll=False, remat=remat)
    grads = jax.jit(jax.grad(lambda t: loss(model, t, frozen, tiny.batch(), jax.random.key(0))))(trainable)
    assert np.all(np.abs(grads["method"]["vector"]) > 0)
    base, _, _ = build(HeadOnly())
    still = {**trainable, "method": {"vector": jnp.zeros((3, 16))}}
    expected = base.apply({"head": trainable["head"]}, frozen, tiny.batch()).logits
    changed = model.apply(trainable, frozen, tiny.batch()).logits
    assert np.abs(changed - expected).max() > 1e-2
    # with the vector at 0 only the inducer weights remain, times 0
    close(model.apply(still, frozen, tiny.batch()).logits, expected)


def test_leaves_that_are_not_stacked_over_layers_are_refused():
    encoder = Encoder(tiny.config())
    with pytest.raises(UserError, match="first axis must be the 3 layers"):
        encoder.apply({"params": tiny.frozen_tree()}, tiny.batch(), Edits((EveryHook(jnp.zeros((16,))),)))
    with pytest.raises(TypeError, match="hide the hook"):

        @edit
        class Clash(LayerEdit):
            project: jax.Array


def test_training_without_a_key_is_refused():
    model, trainable, frozen = build(HeadOnly())
    with pytest.raises(UserError, match="give it a key"):
        model.apply(trainable, frozen, tiny.batch(), training=True)


def test_edits_add_up():
    context = Context.of(jnp.ones((1, 2), bool), jnp.zeros((1, 2), int))
    one = Edits((EveryHook(jnp.ones((3, 16))),), position_offset=2)
    two = one + Edits((), position_offset=3)
    assert two.position_offset == 5 and len(two.layers) == 1
    assert one.layers[0].virtual_tokens(jnp.zeros((1, 2, 16)), context) is None


def test_no_frozen_gradient_in_the_program():
    """The dot products of the compiled gradient are those of the forward pass, of the activations' gradients and of
    the trainable leaves: none has the shape of a frozen matrix."""
    model, trainable, frozen = build(METHODS["p-tuning v2"])
    step = jax.jit(jax.grad(lambda t, f: loss(model, t, f, tiny.batch(), jax.random.key(0))))
    text = step.lower(trainable, frozen).as_text()
    results = re.findall(r"stablehlo\.dot_general.*-> tensor<([0-9x]+)xf32>", text)
    assert results and not {"16x16", "16x24", "24x16"} & set(results)
    assert count(trainable) == 5 * 2 * 3 * 16 + 16 * 3 + 3
