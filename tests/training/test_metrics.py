"""Metrics by hand-made cases, and by agreement with their definitions."""

import numpy as np
import pytest

from jaxprefix.data import Files
from jaxprefix.errors import UserError
from jaxprefix.tasks import Classification, MaskedLanguage, Tagging
from jaxprefix.tasks.metrics import cross_entropy, evaluate_metrics, higher_is_better, main_metric

SOURCE = Files("rows.jsonl")
TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def test_classification_counts_rows_with_weight_only():
    labels, predictions = np.array([0, 0, 1, 2, 1]), np.array([0, 1, 1, 1, 0])
    metrics = evaluate_metrics(Classification(SOURCE), labels, predictions, np.array([1, 1, 1, 1, 0.0]))
    assert list(metrics) == ["accuracy", "f1_macro"]
    assert metrics["accuracy"] == 0.5
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)  # of the classes 0, 1, 2


def test_the_tasks_own_metric_comes_first():
    task = Classification(SOURCE, metric="f1_macro")
    assert next(iter(evaluate_metrics(task, np.array([0, 1]), np.array([0, 1])))) == main_metric(task) == "f1_macro"
    assert higher_is_better("f1_macro") and not higher_is_better("perplexity") and not higher_is_better("loss")


def test_logits_give_predictions_and_loss():
    labels, logits = np.array([0, 1]), np.array([[2.0, 0.0], [1000.0, 0.0]], np.float32)
    metrics = evaluate_metrics(Classification(SOURCE), labels, logits)
    assert metrics["accuracy"] == 0.5
    assert metrics["loss"] == pytest.approx((np.log1p(np.exp(-2.0)) + 1000) / 2)
    assert cross_entropy(np.zeros((3, 4)), np.array([1, -100, 3])).tolist() == pytest.approx([np.log(4), 0, np.log(4)])


def test_entities_are_counted_whole_and_at_first_sub_tokens():
    ignored = -100
    labels = np.array([[ignored, 1, ignored, 2, 0, 3, ignored], [ignored, 3, 0, 1, ignored, ignored, ignored]])
    predictions = np.array([[3, 1, 0, 2, 0, 0, 1], [0, 3, 0, 1, 2, 1, 1]])
    metrics = evaluate_metrics(Tagging(SOURCE), labels, predictions, label_names=TAGS)
    assert next(iter(metrics)) == "seqeval_f1"
    # Gold: PER(1-2), LOC; LOC, PER. Found: PER(1-2); LOC, PER. Precision 3/3, recall 3/4.
    assert metrics["seqeval_f1"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert metrics["accuracy"] == pytest.approx(6 / 7)
    predictions[0, 3] = 0  # half an entity is none: 2 of 3 found are right, 2 of 4 are found
    metrics = evaluate_metrics(Tagging(SOURCE), labels, predictions, label_names=TAGS)
    assert metrics["seqeval_f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_entities_follow_conlleval_not_strict_mode():
    labels, predictions = np.array([[1, 2, 0]]), np.array([[2, 2, 0]])  # I- without B- begins an entity
    assert evaluate_metrics(Tagging(SOURCE), labels, predictions, label_names=TAGS)["seqeval_f1"] == 1.0


def test_no_entity_anywhere_is_zero_without_a_warning(recwarn):
    labels = np.zeros((2, 3), int)
    assert evaluate_metrics(Tagging(SOURCE), labels, labels, label_names=TAGS)["seqeval_f1"] == 0.0
    assert not recwarn.list


def test_rows_of_weight_zero_have_no_entities():
    labels = np.array([[1, 0], [1, 0]])
    predictions = np.array([[1, 0], [0, 0]])
    metrics = evaluate_metrics(Tagging(SOURCE), labels, predictions, np.array([1.0, 0.0]), TAGS)
    assert metrics["seqeval_f1"] == metrics["accuracy"] == 1.0


def test_masked_language_is_measured_over_chosen_tokens():
    labels = np.array([[-100, 3, -100], [1, -100, 2]])
    predictions = np.array([[5, 3, 5], [1, 5, 0]])
    losses = np.array([[9.0, 1.0, 9.0], [2.0, 9.0, 3.0]], np.float32)
    metrics = evaluate_metrics(MaskedLanguage(SOURCE, metric="perplexity"), labels, predictions, losses=losses)
    assert next(iter(metrics)) == "perplexity"
    assert metrics == pytest.approx({"perplexity": np.exp(2.0), "accuracy": 2 / 3, "loss": 2.0})
    logits = np.zeros((2, 3, 7))
    assert evaluate_metrics(MaskedLanguage(SOURCE), labels, logits)["perplexity"] == pytest.approx(7)


def test_nothing_to_score_is_refused():
    with pytest.raises(UserError, match="no position with a label"):
        evaluate_metrics(Tagging(SOURCE), np.full((2, 3), -100), np.zeros((2, 3), int), label_names=TAGS)
    with pytest.raises(ValueError, match="perplexity needs the losses"):
        evaluate_metrics(MaskedLanguage(SOURCE, metric="perplexity"), np.array([[1]]), np.array([[1]]))
