"""Probabilities of labels on the host."""

import numpy as np
import pytest

from jaxprefix.tasks.labelled import label_probabilities


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5])
def test_probabilities_are_a_softmax_of_any_number_of_rows(rows):
    logits = np.random.default_rng(rows).normal(0, 5, (rows, 7)).astype(np.float32)
    found = label_probabilities(logits)
    weights = np.exp(logits.astype(np.float64))
    assert found.shape == logits.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, weights / weights.sum(-1, keepdims=True), rtol=1e-5)
