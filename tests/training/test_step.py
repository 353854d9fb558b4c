"""The compiled update: its gradients, what it donates, what it is compiled for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprefix.distributed.mesh import MeshShape, make_mesh, put_batch
from jaxprefix.methods import PTuningV2
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.training.step import TrainState, init_state, make_eval_step, make_train_step
from jaxprefix.trees import flatten
from tests import tiny

LENGTHS = (9, 6, 4, 1, 8, 2, 5, 7)


def make_batch(per_token=False):
    batch = {name: np.asarray(leaf) for name, leaf in tiny.batch(LENGTHS).items()}
    random = np.random.default_rng(5)
    if per_token:
        labels = random.integers(0, 3, batch["attention_mask"].shape)
        batch["labels"] = np.where(batch["attention_mask"] & (random.random(labels.shape) < 0.7), labels, -100).astype(
            np.int32
        )
    return batch


@functools.cache
def step_of(model, optimizer, mesh, **options):
    """A step is traced once for all tests that ask for the same."""
    return make_train_step(model, optimizer, mesh, steps=10, epoch_steps=5, **options)


@dataclasses.dataclass
class Case:
    """A model with its trees, an optimizer and a mesh of one device."""

    model: TunedModel
    optimizer: Optimizer
    trainable: dict
    frozen: dict
    mesh: jax.sharding.Mesh
    batch: dict

    def step(self, **options):
        return step_of(self.model, self.optimizer, self.mesh, **options)

    def state(self):
        return init_state(self.model, self.trainable, self.optimizer, jax.random.key(3), self.mesh)

    def gradients(self, **options):
        """Loss and gradients of the first update: what Adam's mean of gradients holds, times 10."""
        state, metrics = self.step(**options)(self.state(), self.optimizer.rates(), self.frozen, self.batch)
        (means,) = [
            part.mu for part in [state.opt_state, *jax.tree.leaves(state.opt_state, is_leaf=_adam)] if _adam(part)
        ][:1]
        return float(metrics["loss"]), {path: 10 * np.asarray(leaf) for path, leaf in flatten(means).items()}


def _adam(part):
    return hasattr(part, "mu")


def make_case(head=None, dropout=0.0, **optimizer):
    config = tiny.config(hidden_dropout=dropout, attention_dropout=dropout)
    head = head or SequenceClassifier(3)
    model = TunedModel(Encoder(config, unroll=False), PTuningV2(length=3), head)  # a scan compiles sooner
    trainable, frozen = model.init(jax.random.key(1), tiny.frozen_tree())
    mesh = make_mesh(MeshShape(data=1), jax.devices()[:1])
    batch = put_batch(make_batch(isinstance(head, TokenClassifier)), mesh)
    return Case(model, Optimizer(**{"learning_rate": 0.1, "clip": None, **optimizer}), trainable, frozen, mesh, batch)


@functools.cache
def plain():
    return make_case()


HEADS = {
    "rows": SequenceClassifier(3),
    "rows with class weights": SequenceClassifier(3, class_weights=(1.0, 5.0, 0.5)),
    "tokens": TokenClassifier(3),
}


@functools.cache
def forward(model):
    """Logits, compiled once."""
    return jax.jit(lambda trainable, frozen, batch: model.apply(trainable, frozen, batch).logits)


def logits_of(case):
    return np.asarray(forward(case.model)(case.trainable, case.frozen, case.batch))


# rows of equal weight are the easier case
@pytest.mark.parametrize("head", [pytest.param("rows", marks=pytest.mark.slow), "rows with class weights", "tokens"])
def test_accumulated_gradients_are_those_of_the_whole_batch(head):
    """Also where the parts have different weights, so that a mean of means would be another gradient."""
    case = make_case(HEADS[head])
    loss, whole = case.gradients()
    for parts in (2, 4) if head == "rows" else (4,):
        part_loss, found = case.gradients(accumulate=parts)
        assert part_loss == pytest.approx(loss, rel=1e-5)
        for path, leaf in whole.items():
            np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)


def test_parts_of_a_batch_have_their_own_dropout():
    """Four equal rows in four parts: with one key for all parts their losses would be one part's."""
    case = make_case(dropout=0.5)
    case.batch = {name: jnp.repeat(leaf[:1], 4, axis=0) for name, leaf in case.batch.items()}
    four = case.gradients(accumulate=4)[0]
    first_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), 0)
    one = {name: leaf[:1] for name, leaf in case.batch.items()}

    @jax.jit
    def loss(trainable, frozen, one, key):
        return case.model.head.loss(case.model.apply(trainable, frozen, one, key=key, training=True).logits, one)[0]

    assert four != pytest.approx(float(loss(case.trainable, case.frozen, one, first_key)), rel=1e-3)


def reference_loss(case, smoothing=0.0, class_weights=(1.0, 1.0, 1.0)):
    logits = logits_of(case).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = np.asarray(case.batch["labels"])
    target = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    weight = np.array(class_weights)[labels] * np.asarray(case.batch["weight"])
    return (weight * -(target * log_p).sum(-1)).sum() / weight.sum()


def test_label_smoothing_and_class_weights_reach_the_loss():
    case = plain()
    assert case.gradients()[0] == pytest.approx(reference_loss(case), rel=1e-5)
    assert case.gradients(label_smoothing=0.3)[0] == pytest.approx(reference_loss(case, 0.3), rel=1e-5)
    weights = (1.0, 5.0, 0.5)
    weighted = dataclasses.replace(case, model=dataclasses.replace(case.model, head=HEADS["rows with class weights"]))
    assert weighted.gradients()[0] == pytest.approx(reference_loss(case, 0.0, weights), rel=1e-5)
    assert reference_loss(case, 0.3) != pytest.approx(reference_loss(case), rel=1e-2)
    assert reference_loss(case, 0.0, weights) != pytest.approx(reference_loss(case), rel=1e-2)


def test_gradients_are_those_of_jax_grad_by_the_trainable_tree():
    case = plain()

    def loss(trainable):
        total, weight = case.model.head.loss(case.model.apply(trainable, case.frozen, case.batch).logits, case.batch)
        return total / weight

    expected = flatten(jax.jit(jax.grad(loss))(case.trainable))
    found = case.gradients()[1]
    assert set(found) == set(expected)
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=1e-7, err_msg=path)


def test_the_state_is_donated_and_nothing_else():
    case, step = plain(), plain().step()
    state, rates = case.state(), case.optimizer.rates()
    lowered = step.lower(state, rates, case.frozen, case.batch)
    donated = jax.tree_util.tree_leaves_with_path(lowered.args_info)
    assert {path[1].idx if hasattr(path[1], "idx") else path[1] for path, info in donated if info.donated} == {0}
    assert all(info.donated for path, info in donated if path[1].idx == 0)
    text = lowered.compile().as_text().splitlines()[0]
    assert text.count("-alias") + text.count("may-alias") + text.count("must-alias") > 0  # the compiler took it up
    new, _ = step(state, rates, case.frozen, case.batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable) + jax.tree.leaves(state.opt_state))
    for tree in (case.frozen, case.batch, rates, new, case.trainable):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))


def test_other_rates_need_no_other_program():
    case = plain()
    step = make_train_step(case.model, case.optimizer, case.mesh, steps=10, epoch_steps=5)  # nobody else's
    state = case.state()
    ends = []
    for rate in (0.1, 0.2, 0.0):
        rates = dataclasses.replace(case.optimizer, learning_rate=rate, weight_decay=rate / 2).rates()
        end, metrics = step(case.state(), rates, case.frozen, case.batch)
        assert float(metrics["rate"]) == pytest.approx(rate)
        ends.append(np.asarray(end.trainable["method"]["keys"]))
    assert step.jitted._cache_size() == 1
    np.testing.assert_array_equal(ends[2], case.trainable["method"]["keys"])
    assert not np.array_equal(ends[0], ends[1])
    for _ in range(3):
        state, _ = step(state, case.optimizer.rates(), case.frozen, case.batch)
    assert step.jitted._cache_size() == 1
    everywhere = NamedSharding(case.mesh, P())
    assert all(leaf.sharding.is_equivalent_to(everywhere, leaf.ndim) for leaf in jax.tree.leaves(state))


def test_a_population_of_rates_is_a_vmap_of_the_step():
    case, step = plain(), plain().step()
    values = (0.05, 0.1, 0.2)
    each = [dataclasses.replace(case.optimizer, learning_rate=rate).rates() for rate in values]
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    states = [case.state() for _ in values]
    several = TrainState(
        states[0].step,
        jax.tree.map(stack, *(state.trainable for state in states)),
        jax.tree.map(stack, *(state.opt_state for state in states)),
        states[0].key,
    )
    axes = TrainState(None, 0, 0, None)
    many = jax.vmap(step, in_axes=(axes, 0, None, None), out_axes=(axes, 0))
    end, metrics = many(several, jax.tree.map(stack, *each), case.frozen, case.batch)
    assert metrics["loss"].shape == (3,)
    for index, rates in enumerate(each):
        alone, _ = step(case.state(), rates, case.frozen, case.batch)
        for path, leaf in flatten(alone.trainable).items():
            found = flatten(end.trainable)[path][index]
            np.testing.assert_allclose(found, leaf, rtol=1e-3, atol=2e-3, err_msg=path)


def test_what_is_not_finite_is_told():
    case, step = plain(), plain().step()
    assert float(step(case.state(), case.optimizer.rates(), case.frozen, case.batch)[1]["finite"]) == 1
    infinite = dataclasses.replace(case.optimizer, learning_rate=1e39).rates()  # the loss is still that of the start
    _, metrics = step(case.state(), infinite, case.frozen, case.batch)
    assert np.isfinite(metrics["loss"])
    assert float(metrics["finite"]) == 0
    batch = {**case.batch, "weight": case.batch["weight"] * jnp.inf}
    assert float(step(case.state(), case.optimizer.rates(), case.frozen, batch)[1]["finite"]) == 0


def test_the_look_at_a_batch_gives_losses_predictions_and_logits_of_rows():
    for case in (plain(), make_case(TokenClassifier(3))):
        found = make_eval_step(case.model, case.mesh)(case.trainable, case.frozen, case.batch)
        logits = logits_of(case)
        assert ("logits" in found) == (logits.ndim == 2)
        np.testing.assert_array_equal(found["predictions"], logits.argmax(-1))
        labels = np.asarray(case.batch["labels"])
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]
        np.testing.assert_allclose(
            np.asarray(found["losses"])[labels >= 0], expected[labels >= 0], rtol=1e-4, atol=1e-5
        )
