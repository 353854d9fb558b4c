"""Every method on BERT and some on RoBERTa: the value of its equations, the leaves that learn, remat, populations,
saving; and sums of methods in which every two sets of hooks meet, the refused ones with their reason."""

import dataclasses
import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.trees import flatten, merge
from tests import tiny
from tests.methods import plain

METHODS = {
    "p-tuning v2": jp.PTuningV2(length=3),
    "p-tuning v2, lengths": jp.PTuningV2(lengths=(2, 0, 3), position_offset=4, mlp_width=5),
    "p-tuning v2, no-op start": jp.PTuningV2(length=3, no_op_start=True, position_offset=False),
    "prefix-tuning": jp.PrefixTuning(length=3, mlp_width=5),
    "apt": jp.AdaptivePrefix(length=3),
    "apt, mean, bias": jp.AdaptivePrefix(lengths=(2, 0, 3), gate_source="mean", gate_bias=True),
    "apt without alpha": jp.AdaptivePrefix(length=3, token_gate=False),
    "apt without lambda": jp.AdaptivePrefix(length=3, layer_scale=False),
    "apt without h": jp.AdaptivePrefix(length=3, gate_source="none", mlp_width=5),
    "inducer": jp.Inducer(key_rank=2, value_rank=3),
    "inducer, adaptive, shared": jp.Inducer(key_mode="adaptive", value_rank=3, head_share=True),
    "inducer, some layers": jp.Inducer(key_mode="identity", value_rank=3, value_extension=False, layers=(0, 2)),
    "inducer, ablation": jp.Inducer(key_rank=2, value_rank=3, gating_ablation=True),
    "inducer, value gating": jp.Inducer(key_mode="identity", value_rank=3, value_gating=True),
    "inducer, value gating per head": jp.Inducer(
        key_mode="identity", value_rank=3, value_gating=True, value_extension=False
    ),
    "multi-head adapter": jp.MultiHeadAdapter(value_rank=3),
    "lora": jp.LoRA(("q", "k", "v", "o", "up", "down"), rank=2, alpha=3.0, bias=True),
    "parallel adapter": jp.ParallelAdapter(width=4, norm=True, scale=2.0, after_dropout=True),
    "sequential adapter, attention": jp.SequentialAdapter(width=4, norm=True, place="attention", init="normal"),
    "sequential adapter, mlp": jp.SequentialAdapter(width=4, layers=(1,)),
    "sequential adapter, block": jp.SequentialAdapter(width=4, place="block"),
    "kernel-mix": jp.KernelMix(query_rank=1, rank=2, shared_query_rank=2, shared_rank=2),
    "prompt tuning": jp.PromptTuning(length=3),
    "bitfit": jp.BitFit(),
    "head only": jp.HeadOnly(),
    "full": jp.FullFineTuning(),
    "mam": jp.PrefixTuning(length=3, mlp_width=5) + jp.ParallelAdapter(width=4),
    "inducer + lora": jp.Inducer(key_rank=2, value_rank=3) + jp.LoRA(("q",), rank=2, alpha=3.0),
    "inducer + lora + adapter": jp.Inducer(key_rank=2, value_rank=3)
    + jp.LoRA(("q",), rank=2)
    + jp.ParallelAdapter(width=4, norm=True),
    "prefix + lora": jp.PTuningV2(length=3) + jp.LoRA(("q", "v"), rank=2),
}
ROBERTA = ("p-tuning v2, lengths", "apt", "inducer, value gating", "prompt tuning")
# Leaves whose gradient is 0 at the start because the leaf that they are multiplied with starts at 0.
ASLEEP = {
    "p-tuning v2, no-op start": ("keys", "values"),
    "lora": ("A",),
    "parallel adapter": ("down", "down_bias", "norm_scale", "norm_bias"),
    "sequential adapter, mlp": ("down", "down_bias"),
    "sequential adapter, block": ("down", "down_bias"),
    "mam": ("down", "down_bias"),
    "inducer + lora": ("A",),
    "inducer + lora + adapter": ("down", "down_bias", "norm_scale", "norm_bias", "A"),
    "prefix + lora": ("A",),
}


def build(method, kind, **settings):
    """A model and its trees, every trained leaf away from where it starts."""
    model = jp.TunedModel(jp.Encoder(tiny.config(kind), unroll=False, **settings), method, jp.SequenceClassifier(3))
    return model, *tiny.drawn(model, tiny.frozen_tree(kind))


def shaken(trainable, seed=2):
    """Every leaf moved away from where it starts."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), trainable)


def plain_hidden(model, trainable, frozen, batch):
    """The reference's hidden states, at the real tokens."""
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (trainable, frozen))
    tree = merge(double[1]["backbone"], double[0].get("backbone", {}))
    rows = []
    for row in range(len(batch["attention_mask"])):
        real = np.asarray(batch["attention_mask"][row])
        ids, token_type_ids = (np.asarray(batch[name][row])[real] for name in ("input_ids", "token_type_ids"))
        method_leaves = double[0].get("method", {})
        rows.append(plain.hidden_row(model.backbone.config, tree, model.method, method_leaves, ids, token_type_ids))
    return rows


def assert_plain(model, trainable, frozen, kind, capture=False):
    batch = tiny.batch(kind=kind)
    out = model.apply(trainable, frozen, batch, capture=capture)
    for row, expected in enumerate(plain_hidden(model, trainable, frozen, batch)):
        np.testing.assert_allclose(out.hidden[row, : len(expected)], expected, atol=2e-5, rtol=2e-4)
    return out


def loss(model, trainable, frozen, batch, key=None):
    out = model.forward(trainable, frozen, batch, key=key, training=key is not None)
    total, weight = model.head.loss(out.logits, batch)
    return total / weight


# Every method on BERT; on RoBERTa, whose positions count real tokens, one of every way to bring in virtual tokens and
# one without.
CASES = [*(("bert", name) for name in METHODS), *(("roberta", name) for name in ROBERTA)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_value_is_that_of_the_equations(kind, name):
    assert_plain(*build(METHODS[name], kind), kind)


def silent_leaves(model, trainable, frozen, batch, by_operation=False):
    """Paths of the leaves that have no gradient, at the start and away from it: those of a population of two, which is
    seen to be two models of their own. `by_operation` does not compile those as a whole, which pays where many methods
    share their operations."""
    members = [trainable, shaken(trainable)]

    def loss_and_logits(trainable):
        logits = model.forward(trainable, frozen, batch).logits
        total, weight = model.head.loss(logits, batch)
        return total / weight, logits

    together = jax.jit(jax.vmap(jax.grad(loss_and_logits, has_aux=True)))
    grads, logits = together(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    assert jax.tree.structure(grads) == jax.tree.structure(trainable)
    for member, found in zip(members, logits, strict=True):
        with jax.disable_jit(by_operation):
            alone = model.apply(member, frozen, batch).logits
        np.testing.assert_allclose(found, alone, atol=2e-5, rtol=2e-4)
    return [
        {path for path, leaf in flatten(grads).items() if not np.any(np.abs(leaf[member]) > 1e-12)} for member in (0, 1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_exactly_the_method_learns_and_members_are_models_of_their_own(kind, name):
    model, _, frozen = build(METHODS[name], kind)
    trainable = model.init(jax.random.key(1), tiny.frozen_tree(kind))[0]
    asleep, still = silent_leaves(model, trainable, frozen, tiny.batch(kind=kind), by_operation=True)
    expected = {path for path in asleep if path.rsplit("/", 1)[-1] in ASLEEP.get(name, ())}
    unseen = {"backbone/pooler/kernel", "backbone/pooler/bias", *(p for p in asleep if p.startswith("backbone/mlm/"))}
    key_bias = {"backbone/layers/k/bias"}  # shifts all scores of a query alike
    assert asleep - unseen - key_bias == expected
    assert all(leaf in {p.rsplit("/", 1)[-1] for p in asleep} for leaf in ASLEEP.get(name, ()))
    assert still <= unseen | key_bias


# Of every set of hooks below one; inducer, LoRA and adapter, and all leaves, are rematerialised in test_tuned.py.
REMAT = (
    *("p-tuning v2, lengths", "apt", "inducer, value gating", "multi-head adapter", "kernel-mix"),
    *("sequential adapter, block", "prompt tuning"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", REMAT)
def test_remat_changes_nothing(name):
    """With dropout for one of them."""
    model, trainable, frozen = build(METHODS[name], "bert")
    again = dataclasses.replace(model, backbone=model.backbone.clone(remat="full"))
    batch, key = tiny.batch(), jax.random.key(3) if name == "apt" else None
    value, other = (
        jax.jit(jax.value_and_grad(lambda t, m=m: loss(m, t, frozen, batch, key)))(trainable) for m in (model, again)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5, rtol=2e-4), value, other)


@pytest.mark.parametrize("name", METHODS)
def test_config_and_leaves_survive_the_disk(name, tmp_path):
    from jaxprefix.checkpoints.adapter import read_adapter, write_adapter
    from jaxprefix.training.config import Run
    from jaxprefix.typed_json import from_json, to_json

    _, trainable, frozen = build(METHODS[name], "bert")
    run = Run(jp.Classification(jp.Files(train="train.jsonl")), method=METHODS[name])
    write_adapter(
        tmp_path / "adapter",
        leaves={"trainable": trainable, "initialized": frozen["initialized"]},
        config_json=to_json(run),
        backbone={"name": "tiny"},
        metrics={},
        facts={},
    )
    files = read_adapter(tmp_path / "adapter")
    assert from_json(files.config_json, Run) == run
    found, expected = flatten(files.trainable), flatten(trainable)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], expected[path]) for path in expected)


SINGLE = {name: method for name, method in METHODS.items() if len(jp.parts_of(method)) == 1}
PAIRS = list(itertools.combinations(SINGLE, 2))
LINEAR_PROBE = "a linear probe trains nothing but the head"
REFUSED = {pair: LINEAR_PROBE for pair in PAIRS if "head only" in pair} | {
    ("bitfit", "full"): "both own the backbone's biases"
}


@pytest.mark.parametrize("pair", REFUSED, ids=" + ".join)
def test_refused_pairs_say_why(pair):
    for first, second in (pair, pair[::-1]):
        with pytest.raises(UserError, match=f"cannot be combined: {REFUSED[pair]}"):
            SINGLE[first] + SINGLE[second]


# One method of every set of hooks, and of what is no hook: a prompt, biases, all the backbone.
HOOKS = (
    *("p-tuning v2, lengths", "apt", "inducer", "inducer, value gating", "multi-head adapter", "lora", "kernel-mix"),
    *("parallel adapter", "sequential adapter, attention", "sequential adapter, mlp", "sequential adapter, block"),
    *("prompt tuning", "bitfit", "full"),
)


def sums(size: int) -> list[tuple[str, ...]]:
    """Sums of up to so many of them, in which every two that may be added meet; made greedily."""
    left, found = {pair for pair in itertools.combinations(HOOKS, 2) if pair not in REFUSED}, []
    while left:
        chosen = min(left, key=lambda pair: [HOOKS.index(name) for name in pair])
        while len(chosen) < size:
            more = [tuple(sorted((*chosen, name), key=HOOKS.index)) for name in HOOKS if name not in chosen]
            more = [names for names in more if not REFUSED.keys() & set(itertools.combinations(names, 2))]
            chosen = max(more, key=lambda names: len(left & set(itertools.combinations(names, 2))))
        left -= set(itertools.combinations(chosen, 2))
        found.append(chosen)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("names", sums(4), ids=" + ".join)
def test_sums_are_the_sum_of_all_equations(names):
    assert_plain(*build(functools.reduce(operator.add, (SINGLE[name] for name in names)), "bert"), "bert")


def test_leaves_of_parts_lie_under_their_names():
    model, trainable, _ = build(METHODS["inducer + lora + adapter"], "bert")
    assert set(trainable["method"]) == {"inducer", "lora", "parallel_adapter"}
    twice = jp.PTuningV2(length=2) + jp.PTuningV2(length=3)
    assert twice.names == ("p_tuning_v2", "p_tuning_v2_2")
    assert (twice + jp.LoRA()).parts == (*twice.parts, jp.LoRA())
    model, trainable, _ = build(twice, "bert")
    assert model.edits(trainable).position_offset == 5
