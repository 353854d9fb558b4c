"""Regression: standardised targets, answers in their own units, correlations that may be undefined."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxprefix as jp
from jaxprefix.tasks import Evaluated, prepare
from jaxprefix.tasks.regression import pearson, restored, spearman
from jaxprefix.training.resume import History
from tests.training.worlds import NO_DROPOUT, write_encoder, write_jsonl


def rows(count, seed):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        good = int(random.integers(0, 6))
        words = ["good"] * good + ["bad"] * (6 - good)
        found.append({"text": " ".join(random.permutation(words)), "score": 100.0 + 20 * good, "other": -float(good)})
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory, shared_steps):
    folder = tmp_path_factory.mktemp("regression")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        write_encoder(folder / "encoder", layers=1)
        yield folder


def run_of(home, **changes):
    files = [write_jsonl(home / f"{seed}.jsonl", rows(48 if seed == 0 else 24, seed)) for seed in range(3)]
    task = jp.Regression(jp.Files(*files), max_length=16, **changes)
    optimizer = jp.Optimizer(learning_rate=2e-2)
    fields = {**NO_DROPOUT, "steps": 40, "batch_size": 16, "evaluate_every": 20, "buckets": (16,), "unroll": False}
    return jp.Run(task, str(home / "encoder"), jp.PTuningV2(length=3), optimizer=optimizer, **fields)


def with_folder(run, folder):
    return dataclasses.replace(run, folder=str(folder))


def tokenizer_of(home):
    return jp.load_pretrained(str(home / "encoder"))[2]


def test_a_run_learns_and_answers_in_the_units_of_the_rows(home):
    result = jp.train(with_folder(run_of(home), home / "one"))
    assert list(result.metrics["test"]) == ["pearson", "spearman", "mse", "loss"]
    assert result.metrics["test"]["pearson"] > 0.5
    adapter, asked = jp.load_adapter(result.adapter), rows(10, 5)
    found = np.array([answer["value"] for answer in adapter.predict(asked)])
    assert 50 < found.mean() < 250 and adapter.labels == ()
    assert adapter.evaluate(batch_size=16) == pytest.approx(result.metrics["test"], rel=1e-4)
    bank = jp.Bank({"a": adapter, "b": adapter})
    np.testing.assert_allclose([one["value"] for one in bank(asked, ["a", "b"] * 5)], found, rtol=1e-4)


def test_several_targets_have_their_metrics_and_their_mean(home):
    result = jp.train(with_folder(run_of(home, target=("score", "other"), metric="mse"), home / "two"))
    found = result.metrics["validation"]
    assert next(iter(found)) == "mse"
    for name in ("mse", "pearson", "spearman"):
        assert found[name] == pytest.approx((found[f"{name}/score"] + found[f"{name}/other"]) / 2)
    (answer,) = jp.load_adapter(result.adapter).predict([rows(1, 0)[0]["text"]])
    assert list(answer["values"]) == ["score", "other"]


def test_targets_are_standardised_by_the_training_rows(home):
    task = run_of(home).task
    examples = {split: prepare(task, tokenizer_of(home), split) for split in ("train", "validation")}
    values, facts = examples["train"].targets["values"].values, examples["train"].facts
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-5)
    assert examples["validation"].facts == facts
    said = [[row["score"]] for row in rows(24, 1)]
    np.testing.assert_allclose(restored(examples["validation"].targets["values"].values, facts), said, rtol=1e-6)


def test_the_loss_is_the_mean_squared_error():
    logits, values = jnp.array([[1.0, 2.0], [0.0, 4.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
    batch = {"values": values, "weight": jnp.array([1.0, 0.5])}
    total, weight = jp.Regressor(2).loss(logits, batch)
    assert float(total) == pytest.approx(0.5 + 0.5 * 10) and float(weight) == 1.5
    np.testing.assert_allclose(jp.Regressor(2).outputs(logits, batch)["losses"], [0.5, 10])


def test_correlations_are_those_of_scipy_and_undefined_ones_nan():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, 40).astype(float), random.standard_normal(40)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    assert math.isnan(pearson(np.full(5, 0.1), b[:5])) and math.isnan(spearman(b[:5], np.full(5, 0.1)))


def test_an_undefined_metric_is_never_the_best():
    task = jp.Regression(jp.Files("x.jsonl"))
    same = Evaluated(
        {"values": np.zeros((3, 1)), "losses": np.ones(3)}, {"values": np.array([[1.0], [2.0], [3.0]])}, np.arange(3),
        None, {"mean": [0.0], "scale": [1.0]},
    )  # fmt: skip
    found, history = task.measure(same), History()
    assert math.isnan(found["pearson"]) and math.isnan(found["spearman"]) and found["mse"] == pytest.approx(14 / 3)
    history.evaluated(1, found["pearson"], task.higher_is_better)
    history.evaluated(2, 0.1, task.higher_is_better)
    assert history.best_step == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many", True, None])
def test_a_target_that_is_no_finite_number_is_named(home, value):
    path = write_jsonl(home / "bad.jsonl", [*rows(2, 0), {"text": "a", "score": value}])
    with pytest.raises(jp.UserError, match=r"bad.jsonl:3 has .*column 'score'"):
        prepare(jp.Regression(jp.Files(path)), tokenizer_of(home))


def test_what_cannot_be_learned_is_refused(home):
    path = write_jsonl(home / "same.jsonl", [{"text": "a", "score": 2}] * 3)
    with pytest.raises(jp.UserError, match="have the same 'score'"):
        prepare(jp.Regression(jp.Files(path)), tokenizer_of(home))
    with pytest.raises(jp.UserError, match=r"Regressor has no labels over which .*label_smoothing=0"):
        jp.Run(jp.Regression(jp.Files("x.jsonl")), label_smoothing=0.1).check()
    with pytest.raises(jp.UserError, match="name one, or several once each"):
        jp.Run(jp.Regression(jp.Files("x.jsonl"), target=("a", "a"))).check()
    with pytest.raises(jp.UserError, match="SequenceClassifier does not answer the task Regression; take Regressor"):
        jp.Run(jp.Regression(jp.Files("x.jsonl")), head=jp.SequenceClassifier()).check()
