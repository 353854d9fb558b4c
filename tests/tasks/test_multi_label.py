"""Several labels a row: losses, thresholds from the validation rows, answers alone and in a bank."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import jaxprefix as jp
from jaxprefix.tasks import Evaluated, prepare
from jaxprefix.tasks.multi_label import best_threshold
from tests.training.worlds import NO_DROPOUT, write_encoder, write_jsonl

NAMES = ("bad", "good", "red")


def rows(count, seed):
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        had = [name for name, chosen in zip(NAMES, random.random(3) < (0.5, 0.5, 0.1), strict=True) if chosen]
        words = [*had[:2], *random.choice(["the", "cat", "sat"], 3)]
        found.append({"text": " ".join(map(str, random.permutation(words))), "labels": had if index else list(NAMES)})
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory, shared_steps):
    folder = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        write_encoder(folder / "encoder", layers=1)
        yield folder


def run_of(home, folder, **changes):
    files = [write_jsonl(home / f"{seed}.jsonl", rows(48 if seed == 0 else 24, seed)) for seed in range(3)]
    task = jp.MultiLabelClassification(jp.Files(*files), max_length=16, **changes)
    optimizer = jp.Optimizer(learning_rate=2e-2)
    fields = {**NO_DROPOUT, "steps": 40, "batch_size": 16, "evaluate_every": 20, "buckets": (16,), "unroll": False}
    method = jp.PTuningV2(length=3)
    return jp.Run(task, str(home / "encoder"), method, optimizer=optimizer, folder=str(home / folder), **fields)


@pytest.fixture(scope="module")
def trained(home):
    run = run_of(home, "validation", thresholds="validation")
    return run, jp.train(run)


def test_thresholds_of_the_validation_rows_travel_with_the_adapter(trained):
    _, result = trained
    adapter = jp.load_adapter(result.adapter)
    assert adapter.labels == NAMES and len(adapter.facts["thresholds"]) == 3
    assert adapter.evaluate(batch_size=16) == pytest.approx(result.metrics["test"], abs=1e-6)
    asked = [row["text"] for row in rows(12, 4)]
    answers = adapter.predict(asked)
    for answer in answers:
        assert list(answer["scores"]) == list(NAMES)
        pairs = zip(NAMES, adapter.facts["thresholds"], strict=True)
        assert answer["labels"] == [name for name, least in pairs if answer["scores"][name] >= least]
    bank = jp.Bank({"a": adapter, "b": adapter})
    for one, other in zip(bank(asked, ["a", "b"] * 6), answers, strict=True):
        assert one["labels"] == other["labels"] and one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_members_of_a_population_have_their_own_thresholds(trained, home):
    run, result = trained
    found = jp.train_population(dataclasses.replace(run, folder=str(home / "many")), ({}, {"seed": 1}))
    mine = [jp.load_adapter(member.adapter).facts["thresholds"] for member in found.members]
    assert mine[0] == pytest.approx(jp.load_adapter(result.adapter).facts["thresholds"], abs=1e-4)
    assert mine[1] != mine[0]
    assert found.members[0].metrics["test"] == pytest.approx(result.metrics["test"], abs=1e-4)


def evaluated(logits, labels, **facts):
    names = [str(number) for number in range(np.shape(labels)[1])]
    outputs = {"logits": np.asarray(logits, np.float32), "losses": np.zeros(len(logits))}
    targets, facts = {"labels": np.asarray(labels, bool)}, {"labels": names, **facts}
    return Evaluated(outputs, targets, np.arange(len(logits)), None, facts)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**31), st.sampled_from([0.2, 0.5, (0.1, 0.5, 0.7, 0.9)]))
def test_metrics_are_those_of_sklearn(count, seed, thresholds):
    random = np.random.default_rng(seed)
    logits, labels = random.standard_normal((12, count)), random.random((12, count)) < 0.4
    thresholds = thresholds[:count] if isinstance(thresholds, tuple) else thresholds
    task = jp.MultiLabelClassification(jp.Files("x.jsonl"), thresholds=thresholds)
    found = task.measure(evaluated(logits, labels))
    has = 1 / (1 + np.exp(-logits.astype(np.float32).astype(float))) >= thresholds
    assert next(iter(found)) == "f1_micro" and found["accuracy"] == pytest.approx((has == labels).all(1).mean())
    if count > 1:
        for average in ("micro", "macro"):
            expected = f1_score(labels, has, average=average, zero_division=0.0)
            assert found[f"f1_{average}"] == pytest.approx(expected)
    else:
        expected = f1_score(labels[:, 0], has[:, 0], zero_division=0.0)
        assert found["f1_micro"] == found["f1_macro"] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=20))
def test_no_threshold_has_a_better_f1(pairs):
    scores, labels = np.array([score / 8 for score, _ in pairs]), np.array([label for _, label in pairs])
    found = best_threshold(scores, labels)
    if not labels.any():
        assert found == 0.5
        return

    def f1(threshold):
        return f1_score(labels, scores >= threshold, zero_division=0.0)

    assert f1(found) == pytest.approx(max(f1(threshold) for threshold in {*scores, *(scores + 1e-9), 0.0, 0.5}))


def test_the_loss_is_the_mean_binary_cross_entropy():
    logits, labels = jnp.array([[0.0, 2.0]]), jnp.array([[True, False]])
    batch = {"labels": labels, "weight": jnp.ones(1)}
    expected = (np.log(2) + np.log1p(np.exp(2.0))) / 2
    assert float(jp.MultiLabelClassifier(2).loss(logits, batch)[0]) == pytest.approx(expected)
    assert float(jp.MultiLabelClassifier(2).outputs(logits, batch)["losses"][0]) == pytest.approx(expected)
    smoothed = float(jp.MultiLabelClassifier(2).loss(logits, batch, 0.2)[0])
    soft = (np.log(2) + (0.9 * np.log1p(np.exp(2.0)) + 0.1 * np.log1p(np.exp(-2.0)))) / 2
    assert smoothed == pytest.approx(soft, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["good", "good"], "the label 'good' twice in column 'labels'"),
        ("good", "'good' in column 'labels'; give a list"),
        (None, "nothing in column 'labels'"),
    ],
)
def test_a_row_whose_labels_are_no_list_is_named(home, value, words):
    path = write_jsonl(home / "odd.jsonl", [*rows(2, 0), {"text": "a", "labels": value}])
    with pytest.raises(jp.UserError, match=f"odd.jsonl:3 .*{words}"):
        prepare(jp.MultiLabelClassification(jp.Files(path)), jp.load_pretrained(str(home / "encoder"))[2])


def test_what_does_not_fit_is_refused(home):
    files, tokenizer = jp.Files("x.jsonl"), jp.load_pretrained(str(home / "encoder"))[2]
    for thresholds in (0.0, 1.0, (0.5, 2.0)):
        with pytest.raises(jp.UserError, match="a finite number above 0 and below 1"):
            jp.Run(jp.MultiLabelClassification(files, thresholds=thresholds)).check()
    with pytest.raises(jp.UserError, match="are chosen on validation rows, and the source has none"):
        jp.Run(jp.MultiLabelClassification(files, thresholds="validation")).check()
    source = jp.Files(write_jsonl(home / "a.jsonl", rows(4, 0)))
    with pytest.raises(jp.UserError, match="thresholds has 2 numbers for 3 labels"):
        prepare(jp.MultiLabelClassification(source, thresholds=(0.2, 0.3)), tokenizer)
    source = jp.Files(write_jsonl(home / "none.jsonl", [{"text": "a", "labels": []}] * 2))
    with pytest.raises(jp.UserError, match=r"No row of .*none.jsonl has a label"):
        prepare(jp.MultiLabelClassification(source), tokenizer)
    with pytest.raises(jp.UserError, match=r"No row of the training split .*none.jsonl has a label"):
        prepare(jp.MultiLabelClassification(source, labels=("a", "b")), tokenizer)
