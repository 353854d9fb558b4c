"""Metrics over a whole dataset, on the host: never means of per-batch values, which F1 would not survive."""

import warnings
from collections.abc import Sequence

import numpy as np

from jaxprefix.data.examples import IGNORED
from jaxprefix.errors import UserError
from jaxprefix.tasks.kinds import Classification, Tagging, Task, Unlabelled


def main_metric(task: Task) -> str:
    """The metric that chooses the best checkpoint; the first that `evaluate_metrics` names."""
    return task.metric


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better: true of all but losses and perplexity."""
    return metric not in ("loss", "perplexity")


def evaluate_metrics(
    task: Task,
    labels: np.ndarray,
    outputs: np.ndarray,
    weight: np.ndarray | None = None,
    label_names: Sequence[str] = (),
    losses: np.ndarray | None = None,
) -> dict[str, float]:
    """All metrics of a task, its own first.

    Args:
      task: classification gives `accuracy` and `f1_macro`, tagging `seqeval_f1` and `accuracy` (of the tags),
        language modelling of any kind `accuracy` and `perplexity`; each also `loss`, the mean cross-entropy in nats,
        where it can be known.
      labels: int [N] for classification, [N, T] with -100 = ignored otherwise.
      outputs: predicted labels, int of the shape of `labels`; or logits, float with one axis more.
      weight: [N], 0 for rows that only fill a batch; all rows count where it is not given.
      label_names: the labels' names in the order of the logits; tagging needs them.
      losses: float of the shape of `labels`, the cross-entropy of each; computed from logits where they are given.

    Raises:
      UserError: not one position to score.
    """
    labels, outputs = np.asarray(labels), np.asarray(outputs)
    if outputs.ndim > labels.ndim:
        losses = cross_entropy(outputs, labels) if losses is None else losses
        outputs = outputs.argmax(-1)
    counted = labels != IGNORED
    if weight is not None:
        counted &= (np.asarray(weight) > 0).reshape(-1, *[1] * (labels.ndim - 1))
    if not counted.any():
        raise UserError("The evaluated split has no position with a label; give one that has.")
    if isinstance(task, Tagging):
        metrics = {"seqeval_f1": seqeval_f1(labels, outputs, counted, label_names)}
        metrics["accuracy"] = accuracy(labels[counted], outputs[counted])
    else:
        metrics = {"accuracy": accuracy(labels[counted], outputs[counted])}
    if isinstance(task, Classification):
        metrics["f1_macro"] = f1_macro(labels[counted], outputs[counted])
    if losses is not None:
        metrics["loss"] = float(np.asarray(losses, np.float64)[counted].mean())
    if isinstance(task, Unlabelled) and losses is not None:
        metrics["perplexity"] = float(np.exp(metrics["loss"]))
    main = main_metric(task)
    if main not in metrics:
        raise ValueError(f"{main} needs the losses or the logits")
    return {main: metrics.pop(main), **metrics}


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of equal entries."""
    return float(np.mean(labels == predictions))


def f1_macro(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Unweighted mean of the F1 of the classes that occur among labels or predictions."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]  # also a number


def seqeval_f1(labels: np.ndarray, predictions: np.ndarray, counted: np.ndarray, names: Sequence[str]) -> float:
    """Micro F1 of whole entities, as conlleval counts them (seqeval's default mode).

    `labels`, `predictions` int [N, T]; only where `counted` bool [N, T] (first sub-tokens of words).
    """
    from seqeval.metrics import f1_score

    if not len(names):
        raise ValueError("seqeval needs the names of the labels")
    tags = np.array(names, dtype=object)
    rows = [row for row in range(len(labels)) if counted[row].any()]
    gold = [tags[labels[row][counted[row]]].tolist() for row in rows]
    found = [tags[predictions[row][counted[row]]].tolist() for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no entity at all counts as F1 of 0, and seqeval warns of it
        return float(f1_score(gold, found, zero_division=0))  # pyright: ignore[reportArgumentType]  # also a number


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[label], in float64; 0 where the label is -100. logits [..., C], labels [...]."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    known = np.where(labels == IGNORED, 0, labels)
    chosen = np.take_along_axis(logits, known[..., None], -1)[..., 0]
    return np.where(labels == IGNORED, 0.0, np.log(np.exp(logits).sum(-1)) - chosen)
