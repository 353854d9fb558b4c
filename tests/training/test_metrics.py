"""Metrics by hand-made cases, and by agreement with their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.data import Files
from jaxprefix.errors import UserError
from jaxprefix.tasks import CausalLanguage, Classification, MaskedLanguage, Tagging
from jaxprefix.tasks.base import Evaluated

SOURCE = Files("rows.jsonl")
TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def measured(task, labels, predictions, losses=None):
    """The metrics of predictions `[N]` or `[N, T]`."""
    outputs = {"predictions": np.asarray(predictions), **({} if losses is None else {"losses": losses})}
    facts = {"labels": list(TAGS)}
    return task.measure(Evaluated(outputs, {"labels": np.asarray(labels)}, np.arange(len(labels)), None, facts))


def test_classification_counts_rows():
    labels, predictions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    metrics = measured(Classification(SOURCE), labels, predictions)
    assert list(metrics) == ["accuracy", "f1_macro"]
    assert metrics["accuracy"] == 0.5
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)  # of the classes 0, 1, 2


def test_the_tasks_own_metric_comes_first():
    task = Classification(SOURCE, metric="f1_macro")
    assert next(iter(measured(task, [0, 1], [0, 1]))) == task.metric == "f1_macro"
    assert task.higher_is_better and not CausalLanguage(SOURCE).higher_is_better
    assert not task.metrics["loss"].higher_is_better


def test_heads_give_predictions_and_losses():
    logits = np.array([[2.0, 0.0], [1000.0, 0.0]], np.float32)
    found = jp.SequenceClassifier(2).outputs(jnp.asarray(logits), {"labels": jnp.array([0, 1])})
    metrics = measured(Classification(SOURCE), [0, 1], found["predictions"], np.asarray(found["losses"]))
    assert metrics["accuracy"] == 0.5
    assert metrics["loss"] == pytest.approx((np.log1p(np.exp(-2.0)) + 1000) / 2)


def test_entities_are_counted_whole_and_at_first_sub_tokens():
    ignored = -100
    labels = np.array([[ignored, 1, ignored, 2, 0, 3, ignored], [ignored, 3, 0, 1, ignored, ignored, ignored]])
    predictions = np.array([[3, 1, 0, 2, 0, 0, 1], [0, 3, 0, 1, 2, 1, 1]])
    metrics = measured(Tagging(SOURCE), labels, predictions)
    assert next(iter(metrics)) == "seqeval_f1"
    # Gold: PER(1-2), LOC; LOC, PER. Found: PER(1-2); LOC, PER. Precision 3/3, recall 3/4.
    assert metrics["seqeval_f1"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert metrics["accuracy"] == pytest.approx(6 / 7)
    predictions[0, 3] = 0  # half an entity is none: 2 of 3 found are right, 2 of 4 are found
    metrics = measured(Tagging(SOURCE), labels, predictions)
    assert metrics["seqeval_f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_entities_follow_conlleval_not_strict_mode():
    labels, predictions = np.array([[1, 2, 0]]), np.array([[2, 2, 0]])  # I- without B- begins an entity
    assert measured(Tagging(SOURCE), labels, predictions)["seqeval_f1"] == 1.0


def test_no_entity_anywhere_is_zero_without_a_warning(recwarn):
    labels = np.zeros((2, 3), int)
    assert measured(Tagging(SOURCE), labels, labels)["seqeval_f1"] == 0.0
    assert not recwarn.list


def test_masked_language_is_measured_over_chosen_tokens():
    labels = np.array([[-100, 3, -100], [1, -100, 2]])
    predictions = np.array([[5, 3, 5], [1, 5, 0]])
    losses = np.array([[9.0, 1.0, 9.0], [2.0, 9.0, 3.0]], np.float32)
    metrics = measured(MaskedLanguage(SOURCE, metric="perplexity"), labels, predictions, losses=losses)
    assert next(iter(metrics)) == "perplexity"
    assert metrics == pytest.approx({"perplexity": np.exp(2.0), "accuracy": 2 / 3, "loss": 2.0})


def test_nothing_to_score_is_refused():
    with pytest.raises(UserError, match="no position with a label"):
        measured(Tagging(SOURCE), np.full((2, 3), -100), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="perplexity needs outputs"):
        measured(MaskedLanguage(SOURCE, metric="perplexity"), np.array([[1]]), np.array([[1]]))
