"""Probes: balanced accuracy stays below one."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from pipelines.evaluation.probes import balanced_accuracy
from pipelines.evaluation.statistics import bootstrap_weights


def test_balanced_accuracy_is_that_of_scikit_learn_and_stays_below_one():
    generator = np.random.default_rng(0)
    labels = generator.choice(["a", "b", "c"], 40, p=[0.6, 0.3, 0.1])
    predicted = np.where(generator.random(40) < 0.7, labels, "a")
    weights = bootstrap_weights(40, 200, seed=0)
    found = balanced_accuracy(labels, predicted, weights)
    assert found.value == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert 0 <= found.low < found.value < found.high <= 1
    perfect = balanced_accuracy(labels, labels, weights)
    assert (perfect.low, perfect.value, perfect.high) == (1, 1, 1)
