"""Figures over a whole split, on the host: never means of per-batch values, which F1 would not survive."""

import warnings
from collections.abc import Sequence

import numpy as np

from jaxprefix.data.examples import IGNORED
from jaxprefix.errors import UserError
from jaxprefix.tasks.base import Evaluated, Metric


def counted(evaluated: Evaluated) -> np.ndarray:
    """Where there is a label, bool of the shape of `labels`.

    Raises:
      UserError: nowhere.
    """
    where = evaluated.targets["labels"] != IGNORED
    if not where.any():
        raise UserError("The evaluated split has no position with a label; give one that has.")
    return where


def predicted(evaluated: Evaluated) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions, int `[N]`, where there is a label."""
    where = counted(evaluated)
    return evaluated.targets["labels"][where], evaluated.outputs["predictions"][where]


def mean_loss(evaluated: Evaluated) -> float | None:
    """The mean loss where there is a label, in nats; None where there are no losses."""
    losses = evaluated.outputs.get("losses")
    return None if losses is None else float(np.asarray(losses, np.float64)[counted(evaluated)].mean())


def perplexity(evaluated: Evaluated) -> float | None:
    """The exponential of the mean loss."""
    loss = mean_loss(evaluated)
    return None if loss is None else float(np.exp(loss))


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


LOSS = Metric(mean_loss, higher_is_better=False)
ACCURACY = Metric(lambda evaluated: accuracy(*predicted(evaluated)))
LANGUAGE = {"accuracy": ACCURACY, "loss": LOSS, "perplexity": Metric(perplexity, higher_is_better=False)}
"""What is measured of a language model of any kind."""
