"""Many runs as one: equal to separate runs, each member on its own, refusals, and going on after an interruption."""

import dataclasses
import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.adapters.adapter import load_adapter
from jaxprefix.checkpoints.store import Checkpoints
from jaxprefix.errors import UserError
from jaxprefix.methods import BitFit, FullFineTuning, HeadOnly, Inducer, LoRA, PrefixTuning, PTuningV2
from jaxprefix.population import loop as population_loop
from jaxprefix.population.members import grid, member_models, stacked_dropout, with_fields
from jaxprefix.population.population import train_population
from jaxprefix.tasks import SequenceClassifier
from jaxprefix.training import loop
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.trees import flatten
from tests.training.watching import lines, record
from tests.training.worlds import DROPOUT

MEMBERS = (
    {"seed": 1},
    {"seed": 2, "optimizer.learning_rate": 4e-3, "optimizer.weight_decay": 0.3, "hidden_dropout": 0.3},
    {"seed": 3, "optimizer.head_learning_rate": 5e-2, "hidden_dropout": 0.0, "attention_dropout": 0.25},
)
PREFIX = ({"method.dropout": 0.2}, {"method.init_std": 0.3}, {"method.dropout": 0.0, "method.init_std": 0.1})
INDUCER = (
    {"method.parts.1.dropout": 0.2},
    {"method.parts.0.zero_init_up": True},
    {"method.parts.1.init": "he_small", "method.parts.1.dropout": 0.4},
)


def members(*more):
    return tuple({**one, **other} for one, other in zip(MEMBERS, more, strict=True))


def losses(folder, name="loss"):
    return [line[name] for line in lines(folder) if name in line]


def close(tree, other, atol=2e-4):
    one, other = flatten(tree), flatten(other)
    assert set(one) == set(other)
    for path, leaf in one.items():
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(other[path]), rtol=2e-3, atol=atol, err_msg=path)


CASES = {
    "P-Tuning v2": (PTuningV2(length=4), members(*PREFIX)),
    "an inducer with LoRA": (Inducer(value_rank=3, key_rank=2) + LoRA(rank=2), members(*INDUCER)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_members_are_the_runs_that_they_stand_for(world, tmp_path, case):
    method, fields = CASES[case]
    # a rough epsilon: Adam would make the noise of gradients near 0 into steps of full length
    optimizer = Optimizer(1e-2, epsilon=1e-4)
    run = world.run(tmp_path / "all", method=method, steps=8, evaluate_every=4, optimizer=optimizer, **DROPOUT)
    found = train_population(run, fields, independent_order=True)
    assert [member.fields for member in found.members] == [dict(one) for one in fields]
    # the first differs from the run by its seed alone, and in the first case a test below holds such a member
    for index, member in list(enumerate(found.members))[1:]:
        alone = loop.train(dataclasses.replace(with_fields(run, fields[index]), folder=str(tmp_path / str(index))))
        np.testing.assert_allclose(
            losses(tmp_path / "all", f"{index}/loss"), losses(tmp_path / str(index)), rtol=1e-4, atol=1e-5
        )
        theirs, ours = load_adapter(alone.adapter), load_adapter(member.adapter)
        close(ours.trainable, theirs.trainable)
        assert ours.run == dataclasses.replace(theirs.run, folder=ours.run.folder)
        assert ours.labels == theirs.labels
        for split, metrics in alone.metrics.items():
            assert member.metrics[split] == pytest.approx(metrics, abs=1e-3)


def test_a_shared_order_is_that_of_the_run(world, tmp_path):
    """A member with another seed sees the same rows; one with the run's own seed is the run itself."""
    run = world.run(tmp_path / "all", steps=6)
    found = train_population(run, ({}, {"seed": 5}))
    alone = loop.train(dataclasses.replace(run, folder=str(tmp_path / "alone")))
    np.testing.assert_allclose(losses(tmp_path / "all", "0/loss"), losses(tmp_path / "alone"), rtol=1e-5)
    close(found.members[0].trainable, load_adapter(alone.adapter).trainable)
    assert not np.array_equal(*(member.trainable["method"]["keys"] for member in found.members))


@pytest.mark.slow
@pytest.mark.parametrize("independent_order", [False, True])
def test_members_side_by_side_are_members_one_after_another(world, tmp_path, independent_order):
    """Three with rates of their own in twos, the second of which is half full; without dropout all at once."""
    count, dropout = (3, {}) if independent_order else (2, DROPOUT)
    run = world.run(tmp_path, steps=3, optimizer=Optimizer(1e-2, epsilon=1e-4), **dropout)
    fields = tuple({"seed": seed, **({"hidden_dropout": 0.1 * seed} if dropout else {})} for seed in range(3))
    found = [
        train_population(
            dataclasses.replace(run, folder=str(tmp_path / str(size))),
            fields,
            independent_order=independent_order,
            vmap_size=size,
        )
        for size in (1, count)
    ]
    for index in range(3):
        one, other = (population.members[index] for population in found)
        close(other.trainable, one.trainable)
        assert other.metrics["test"] == pytest.approx(one.metrics["test"], abs=1e-3)


def test_dropout_rates_are_built_in_where_members_agree(world):
    run = world.run("nowhere", **DROPOUT)
    encoder = population_loop.set_up(run, splits=("train",)).model.backbone
    head = SequenceClassifier(2)

    def rates(method, *fields):
        runs = [with_fields(dataclasses.replace(run, method=method), one) for one in fields]
        return stacked_dropout(member_models(encoder, head, runs))

    prefix = PTuningV2(length=4)
    assert rates(prefix, {"seed": 1}, {"seed": 2, "optimizer.learning_rate": 1.0}) == (None, None, None)
    found = rates(prefix, {"hidden_dropout": 0.0}, {})  # the prefix follows the backbone's rate
    assert found.attention is None
    np.testing.assert_allclose(found.hidden, [0.0, 0.1])
    np.testing.assert_allclose(found.method, [0.0, 0.1])
    found = rates(prefix, {"method.dropout": 0.5, "hidden_dropout": 0.3}, {"method.dropout": 0.5})
    assert found.method is None
    both = Inducer() + LoRA()
    np.testing.assert_allclose(rates(both, {"attention_dropout": 0.5}, {}).attention, [0.5, 0.1])
    with pytest.raises(UserError, match="leave the inducer's `dropout` at None"):
        rates(both, {"method.parts.0.dropout": 0.5}, {})
    with pytest.raises(UserError, match="give the parts of a method the same `dropout`"):
        rates(PTuningV2(length=4) + LoRA(dropout=0.5), {"hidden_dropout": 0.3}, {})


def test_a_member_that_diverges_does_not_disturb_the_others(world, tmp_path):
    run = world.run(tmp_path / "all", steps=6, evaluate_every=2)
    found = train_population(run, ({"optimizer.learning_rate": 1e39}, {"seed": 2}), vmap_size=2)
    failed = found.members[0]
    assert (found.steps, failed.history.failed_at) == (6, 1)
    assert failed.history.evaluations == []
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(failed.trainable))
    assert load_adapter(failed.adapter).metrics == failed.metrics
    assert losses(tmp_path / "all", "0/loss") == []
    others = train_population(dataclasses.replace(run, folder=str(tmp_path / "others")), ({}, {"seed": 2}))
    assert found.members[1].history == others.members[1].history
    close(found.members[1].trainable, others.members[1].trainable, atol=1e-6)


def test_a_population_in_which_all_fail_ends(world, tmp_path):
    found = train_population(world.run(tmp_path, steps=6, optimizer=Optimizer(1e39)), ({"seed": 1}, {"seed": 2}))
    assert found.steps < 5
    assert [member.history.failed_at for member in found.members] == [1, 1]


def test_best_leaves_and_patience_are_each_members_own(world, tmp_path, monkeypatch):
    """Validation metrics by script: member 0 is best at 2 and stops at 4; member 1 improves to the end."""
    script = {2: (0.9, 0.1), 4: (0.5, 0.2), 6: (0.99, 0.3)}
    kept = {}
    real = population_loop.Population.measure

    def measure(self, trainable, split, facts=None):
        step = 2 * (len(kept) + 1)
        if step not in script:
            return real(self, trainable, split, facts)
        kept[step] = jax.device_get(trainable)
        return [({"accuracy": value}, {}) for value in script[step]]

    monkeypatch.setattr(population_loop.Population, "measure", measure)
    run = world.run(tmp_path, steps=6, evaluate_every=2, patience=1)
    first, second = train_population(run, ({"seed": 1}, {"seed": 2})).members
    assert (first.history.best_step, first.history.best_metric, first.history.stopped_at) == (2, 0.9, 4)
    assert first.history.evaluations == [(2, 0.9), (4, 0.5)]
    assert (second.history.best_step, second.history.stopped_at) == (6, None)
    for path, leaf in flatten(first.trainable).items():
        np.testing.assert_array_equal(leaf, flatten(kept[2])[path][0])
        np.testing.assert_array_equal(flatten(kept[6])[path][0], flatten(kept[4])[path][0])  # it rests after 4
    for path, leaf in flatten(second.trainable).items():
        np.testing.assert_array_equal(leaf, flatten(kept[6])[path][1])
    assert set(first.metrics["test"]) == {"accuracy", "f1_macro", "loss"}


def interrupted(run, fields, before, **options):
    """A population that is interrupted, like by Ctrl-C, before it computes that step."""
    real = population_loop.make_population_step

    def make(*args, **given):
        step = real(*args, **given)

        def watched(train, *rest):
            if int(train.step) + 1 == before:
                raise KeyboardInterrupt
            return step(train, *rest)

        return watched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population_loop, "make_population_step", make)
        with pytest.raises(KeyboardInterrupt):
            train_population(run, fields, **options)


RESUMED = {**DROPOUT, "steps": 8, "evaluate_every": 4, "checkpoint_every": 3, "patience": 5, "buckets": (16, 32)}
RESUMED_FIELDS = ({"seed": 1}, {"seed": 2, "optimizer.learning_rate": 1e39}, {"seed": 3, "hidden_dropout": 0.2})


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A population that nothing happened to; nobody may change its folder."""
    run = world.run(tmp_path_factory.mktemp("whole"), **RESUMED)
    return train_population(run, RESUMED_FIELDS, independent_order=True)


@pytest.mark.parametrize("before", [pytest.param(2, marks=pytest.mark.slow), 6])  # before and after a checkpoint
def test_an_interrupted_population_ends_in_the_same_bits(world, whole, tmp_path, before):
    run = world.run(tmp_path, **RESUMED)
    interrupted(run, RESUMED_FIELDS, before, independent_order=True)
    again = train_population(run, RESUMED_FIELDS, independent_order=True)
    one, two = record(whole.folder), record(tmp_path)
    assert (one["step"], one["digests"]) == (two["step"], two["digests"])
    assert any(name.startswith("train/opt_state") for name in one["digests"])
    assert [member.history for member in whole.members] == [member.history for member in again.members]
    for index in range(3):
        name = f"{index}/adapter/adapter.safetensors"
        assert (whole.folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert [line["step"] for line in lines(tmp_path)] == [line["step"] for line in lines(whole.folder)]


def test_another_population_in_the_folder_is_refused(world, tmp_path):
    run = world.run(tmp_path / "all", steps=6)
    fields = ({"seed": 1}, {"seed": 2})
    train_population(run, fields)
    for other, options in (((*fields, {}), {}), (fields, {"independent_order": True})):
        with pytest.raises(UserError, match="holds another population"):
            train_population(run, other, **options)
    with pytest.raises(UserError, match="seed: 2 -> 7"):
        train_population(run, ({"seed": 1}, {"seed": 7}))
    single = dataclasses.replace(run, folder=str(tmp_path / "single"))
    loop.train(single)
    with pytest.raises(UserError, match="holds a run, not a population"):
        train_population(single, fields)
    with pytest.raises(UserError, match="made with other settings"):
        loop.train(run)


REFUSED = {
    "seeed": ({"seeed": 1}, "nearest field is 'seed'"),
    "batch_size": ({"batch_size": 8}, "batch_size .16 -> 8."),
    "steps": ({"steps": 9}, "in steps"),
    "schedule": ({"optimizer.schedule": "cosine"}, "optimizer.schedule"),
    "label_smoothing": ({"label_smoothing": 0.1}, "label_smoothing"),
    "length": ({"method.length": 5}, r"method.length: 4 -> 5, which changes the shapes"),
    "offset": ({"method.position_offset": False}, "method.position_offset.*changes the program"),
    "unit": ({"method.dropout_unit": "token"}, "method.dropout_unit.*changes the program"),
    "class": ({"method": PrefixTuning(length=4)}, "method: PTuningV2 -> PrefixTuning"),
    "rate": ({"optimizer.learning_rate": -1.0}, "must be a finite number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_program_is_made_of_is_refused_by_name(world, tmp_path, monkeypatch, name):
    monkeypatch.setattr(population_loop, "make_population_step", None)  # nothing is compiled
    fields, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        train_population(world.run(tmp_path), ({}, fields))


def test_what_no_population_can_hold_is_refused(world, tmp_path):
    with pytest.raises(UserError, match="FullFineTuning moves the whole backbone"):
        train_population(world.run(tmp_path, method=FullFineTuning()), ({"seed": 1}, {"seed": 2}))
    with pytest.raises(UserError, match="no baseline"):
        train_population(world.run(tmp_path, baseline=HeadOnly()), ({"seed": 1},))
    with pytest.raises(UserError, match="has no members"):
        train_population(world.run(tmp_path), ())


@pytest.mark.slow
def test_leaves_that_are_moved_or_drawn_are_each_members_own(world, tmp_path):
    """BitFit's biases, a trained pooler and a pooler drawn by the seed: stacked, while the rest is there once."""
    for name, changes in {
        "biases": {"method": BitFit()},
        "trained": {"head": SequenceClassifier(pooling="trained_pooler")},
        "drawn": {"head": SequenceClassifier(pooling="pooler"), "backbone": world.roberta},
    }.items():
        run = world.run(tmp_path / name, steps=2, optimizer=Optimizer(1e-2, epsilon=1e-4), **changes)
        found = train_population(run, ({"seed": 1}, {"seed": 2}), independent_order=True)
        alone = loop.train(dataclasses.replace(run, seed=2, folder=str(tmp_path / f"{name} alone")))
        theirs, ours = load_adapter(alone.adapter), load_adapter(found.members[1].adapter)
        close(ours.trainable, theirs.trainable)
        close(ours.frozen["initialized"], theirs.frozen["initialized"])


def test_side_by_side_no_frozen_matrix_is_copied(world_of_two_layers, tmp_path):
    """The compiled step holds no array of K frozen matrices, and products with them have K times the rows."""
    run = world_of_two_layers.run("nowhere")
    fields = tuple({"seed": seed} for seed in range(5))
    runs = [with_fields(run, one) for one in fields]
    population = population_loop.Population(run, runs, False, len(fields), Checkpoints(tmp_path, best=None))
    state = population.init()
    batch, _ = population.next_batch(0)
    lowered = population._step.lower(state.train, state.active, *population._rates, population.frozen, batch)
    text = lowered.compile().as_text()
    rows = 5 * batch["input_ids"].size
    for inputs, outputs in ((32, 32), (32, 64), (64, 32)):
        assert f"f32[5,{inputs},{outputs}]" not in text
        found = re.findall(rf"f32\[{rows},{outputs}\]\S* dot\(", text)
        assert len(found) >= 2 * 2 - 1  # forwards and backwards in two layers, the lowest of which ends early
    assert population.frozen["backbone"]["layers"]["q"]["kernel"].shape == (2, 32, 32)


def test_grids_and_fields():
    assert grid({"seed": range(2), "optimizer.learning_rate": (1.0, 2.0)}) == (
        {"seed": 0, "optimizer.learning_rate": 1.0},
        {"seed": 0, "optimizer.learning_rate": 2.0},
        {"seed": 1, "optimizer.learning_rate": 1.0},
        {"seed": 1, "optimizer.learning_rate": 2.0},
    )


@pytest.mark.parametrize("values", [3, "12", None])
def test_a_grid_takes_several_values(values):
    with pytest.raises(UserError, match=r"grid is given seed = .* takes the values to try"):
        inspect.unwrap(grid)({"seed": values})


def test_tagging_has_metrics_for_each_member(world, tmp_path):
    run = world.run(tmp_path, task=world.tagging(), steps=2, evaluate_every=1)
    found = train_population(run, ({"seed": 1}, {"seed": 2, "optimizer.learning_rate": 1e-1}))
    for member in found.members:
        assert load_adapter(member.adapter).evaluate(batch_size=16) == pytest.approx(member.metrics["test"], abs=1e-6)
        assert json.loads((member.adapter / "metrics.json").read_text()) == member.metrics
    assert jnp.isfinite(found.step_seconds)
