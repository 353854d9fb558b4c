"""Schedules in closed form, AdamW against optax, clipping and groups over the trainable tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprefix.errors import UserError
from jaxprefix.models.leaf_table import undeclared
from jaxprefix.training.optimizer import Optimizer, global_norm
from jaxprefix.trees import flatten
from tests import tiny

STEPS, EPOCH = 40, 8


def factors(optimizer, steps=STEPS):
    return np.array([optimizer.factor(jnp.int32(step), steps, EPOCH) for step in range(steps)])


def test_linear_falls_to_zero_as_published():
    """P-Tuning v2 on SuperGLUE: `lr0 * (1 - t / N)`."""
    t = np.arange(STEPS)
    np.testing.assert_allclose(factors(Optimizer(schedule="linear")), 1 - t / STEPS, rtol=1e-6)


def test_exponential_multiplies_once_per_epoch_as_published():
    """P-Tuning v2 on named entities: `lr0 * 0.95 ** e` in epoch `e`, counted from 0."""
    epoch = np.arange(STEPS) // EPOCH
    np.testing.assert_allclose(factors(Optimizer(schedule="exponential")), 0.95**epoch, rtol=1e-6)
    np.testing.assert_allclose(factors(Optimizer(schedule="exponential", decay=0.5)), 0.5**epoch, rtol=1e-6)


def test_cosine_and_constant():
    t = np.arange(STEPS)
    np.testing.assert_allclose(
        factors(Optimizer(schedule="cosine")), 0.5 * (1 + np.cos(np.pi * t / STEPS)), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(factors(Optimizer(schedule="constant")), np.ones(STEPS))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_rises_linearly_and_the_schedule_begins_after_it(schedule):
    """As transformers' schedules with warm-up: `t / w`, then the schedule over the remaining steps."""
    warmup = 10
    warm = factors(Optimizer(schedule=schedule, warmup=warmup))
    np.testing.assert_allclose(warm[:warmup], np.arange(warmup) / warmup, rtol=1e-6)
    rest = factors(Optimizer(schedule=schedule), STEPS - warmup)
    np.testing.assert_allclose(warm[warmup:], rest, rtol=1e-5, atol=1e-7)


def test_the_late_decay_of_the_inducer_papers_code():
    """Its printed rates, numbered from 1: a warm-up over 500 iterations, N = 2000, a base of 1."""
    optimizer = Optimizer(schedule="linear_late", warmup=499)
    printed = {1: 0, 2: 1 / 499, 251: 0.501002, 500: 1, 1000: 1 - 500 / 2000, 1001: 0.7495, 2000: 0.25}
    for iteration, rate in printed.items():
        found = optimizer.factor(jnp.int32(iteration - 1), 2000, EPOCH)
        assert found == pytest.approx(rate, abs=1e-6), iteration


def test_a_schedule_may_end_above_nothing():
    """transformers' polynomial decay of power 1, from 2e-4 to 1e-7 after a warm-up over 6 % of the steps."""
    t, steps, warmup = np.arange(100), 100, 6
    expected = np.where(t < warmup, 2e-4 * t / warmup, 1e-7 + (2e-4 - 1e-7) * (1 - (t - warmup) / (steps - warmup)))
    found = 2e-4 * factors(Optimizer(2e-4, warmup_share=0.06, end=1e-7 / 2e-4), steps)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    assert Optimizer(schedule="cosine", end=0.1).factor(jnp.int32(40), 40, 8) == pytest.approx(0.1)


def test_exponential_counts_epochs_from_the_first_step_under_a_warm_up_too():
    warm = factors(Optimizer(schedule="exponential", warmup=4))
    np.testing.assert_allclose(warm[:4], np.arange(4) / 4)
    np.testing.assert_allclose(warm[4:], 0.95 ** (np.arange(4, STEPS) // EPOCH), rtol=1e-6)


def trees(seed, count=1):
    """A trainable tree with a leaf of every kind, and gradients for it."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)  # noqa: E731
    made = [
        {
            "method": {
                "keys": draw(3, 2, 4),
                "mass": draw(3),
                "gate": {"kernel": draw(4, 3), "bias": draw(3)},
                "down_bias": draw(5),
            },
            "head": {"classifier": {"kernel": draw(4, 2), "bias": draw(2)}},
            "backbone": {"layers": {"attention_norm": {"scale": draw(2, 4), "bias": draw(2, 4)}}},
        }
        for _ in range(count)
    ]
    return made if count > 1 else made[0]


def table(trainable):
    return {path: undeclared(path, leaf.shape, tiny.encoder_dims()) for path, leaf in flatten(trainable).items()}


def run(optimizer, trainable, gradients, steps=STEPS, rates=None):
    state, declared, rates = optimizer.init(trainable), table(trainable), rates or optimizer.rates()
    update = jax.jit(lambda grads, state, trainable, factor: optimizer.update(
        grads, state, trainable, rates, factor, declared
    ))  # fmt: skip
    for step, grads in enumerate(gradients):
        trainable, state = update(grads, state, trainable, optimizer.factor(jnp.int32(step), steps, EPOCH))
    return trainable


def test_it_is_optax_adamw_with_clipping_and_a_decay_mask():
    optimizer = Optimizer(learning_rate=0.03, weight_decay=0.1, clip=2.0, beta1=0.8, beta2=0.95, epsilon=1e-6)
    trainable, *gradients = trees(0, count=7)
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in ("keys", "kernel"), trainable
    )  # written down once more: matrices and prefixes only
    reference = optax.chain(
        optax.clip_by_global_norm(2.0),
        optax.adamw(optax.linear_schedule(0.03, 0.0, STEPS), 0.8, 0.95, 1e-6, weight_decay=0.1, mask=mask),
    )
    expected, state = trainable, reference.init(trainable)

    @jax.jit
    def update(grads, state, expected):
        updates, state = reference.update(grads, state, expected)
        return optax.apply_updates(expected, updates), state

    for grads in gradients:
        expected, state = update(grads, state, expected)
    found = run(optimizer, trainable, gradients)
    for path, leaf in flatten(found).items():
        np.testing.assert_allclose(leaf, flatten(expected)[path], rtol=2e-5, atol=2e-6, err_msg=path)


def test_the_first_update_in_closed_form():
    """Adam's first update is the sign of the gradient: `lr * (g / (|g| + eps) + decay * w)`."""
    optimizer = Optimizer(learning_rate=0.01, weight_decay=0.5, clip=None, schedule="constant")
    trainable, grads = trees(1, count=2)
    after = run(optimizer, trainable, [grads])
    for path, leaf in flatten(after).items():
        w, g = np.asarray(flatten(trainable)[path]), np.asarray(flatten(grads)[path])
        decay = 0.5 if path.split("/")[-1] in ("keys", "kernel") else 0.0
        np.testing.assert_allclose(leaf, w - 0.01 * (np.sign(g) + decay * w), rtol=1e-4, atol=1e-5, err_msg=path)


def test_clipping_scales_by_the_norm_of_all_trainable_leaves_together():
    """Seen in Adam's mean of gradients, which is `(1 - beta1) g` after one step."""
    trainable, grads = trees(2, count=2)
    norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads))))
    assert norm > 1
    np.testing.assert_allclose(global_norm(grads), norm, rtol=1e-6)
    for clip, scale in ((1.0, 1 / norm), (10 * norm, 1.0), (None, 1.0)):
        optimizer = Optimizer(clip=clip)
        state, rates, one = optimizer.init(trainable), optimizer.rates(), jnp.float32(1)
        _, state = optimizer.update(grads, state, trainable, rates, one, table(trainable))
        parts = jax.tree.leaves(state, is_leaf=lambda part: hasattr(part, "mu"))
        means = next(part.mu for part in parts if hasattr(part, "mu"))
        for path, leaf in flatten(means).items():
            np.testing.assert_allclose(leaf, 0.1 * scale * np.asarray(flatten(grads)[path]), rtol=1e-5, err_msg=path)


def test_groups_have_their_own_rates():
    optimizer = Optimizer(0.1, head_learning_rate=0.2, gate_learning_rate=0.0, clip=None, schedule="constant")
    trainable, grads = trees(3, count=2)
    after = flatten(run(optimizer, trainable, [grads]))
    for path, leaf in flatten(trainable).items():
        moved = np.abs(np.asarray(after[path]) - np.asarray(leaf))
        rate = 0.2 if path.startswith("head/") else 0.0 if path.startswith("method/gate/") else 0.1
        np.testing.assert_allclose(moved, rate, rtol=1e-3, atol=1e-6, err_msg=path)


def test_rates_left_away_are_the_learning_rate():
    rates = Optimizer(0.3).rates()
    assert {name: float(rate) for name, rate in rates.items()} == {
        "base": np.float32(0.3),
        "head": np.float32(0.3),
        "gate": np.float32(0.3),
        "weight_decay": 0.0,
    }
    assert float(Optimizer(0.3, head_learning_rate=0.0).rates()["head"]) == 0.0


@pytest.mark.parametrize(
    ("path", "decayed", "of"),
    [
        ("method/keys", True, "base"),
        ("method/values", True, "base"),
        ("method/embedding", True, "base"),
        ("method/up_kernel", True, "base"),
        ("method/up_bias", False, "base"),
        ("method/mass", False, "base"),
        ("method/gate/kernel", True, "gate"),
        ("method/gate/bias", False, "gate"),
        ("head/classifier/kernel", True, "head"),
        ("head/classifier/bias", False, "head"),
        ("backbone/layers/q/kernel", True, "base"),
        ("backbone/layers/mlp_norm/scale", False, "base"),
        ("backbone/mlm/bias", False, "base"),
        ("backbone/embeddings/word/embedding", True, "base"),
    ],
)
def test_what_is_taken_for_declared_goes_by_names(path, decayed, of):
    found = undeclared(path, (3,), tiny.encoder_dims())
    assert (found.decay, found.group) == (decayed, of)


def test_two_warm_ups_are_refused():
    with pytest.raises(UserError, match="both warmup and warmup_share"):
        Optimizer(warmup=3, warmup_share=0.1).check()
