"""Intervals cover what they should, and differences are found where there are some."""

import numpy as np
import pytest
from scipy import stats

from pipelines.evaluation.statistics import bootstrap_weights, difference, holm, mean_estimate


def test_bootstrap_intervals_cover_the_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(3.0, 2.0, size=(300, 8))
    estimates = [mean_estimate(values, bootstrap_weights(8, 400, seed)) for seed, values in enumerate(draws)]
    covered = np.mean([estimate.low <= 3.0 <= estimate.high for estimate in estimates])
    assert 0.91 <= covered <= 0.97  # 0.94 in the long run; the plain percentile interval reaches 0.89


def test_the_interval_of_many_normal_items_is_students() -> None:
    values = np.random.default_rng(1).normal(size=200)
    estimate = mean_estimate(values, bootstrap_weights(200, 4000, seed=0))
    low, high = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values))
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.02)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    assert (bootstrap_weights(5, 10, 3) == bootstrap_weights(5, 10, 3)).all()
    assert (bootstrap_weights(5, 10, 3) != bootstrap_weights(5, 10, 4)).any()
    assert (bootstrap_weights(5, 10, 3).sum(1) == 5).all()


def test_items_without_a_value_are_left_out_and_counted() -> None:
    estimate = mean_estimate([1.0, float("nan"), 3.0], bootstrap_weights(3, 50, 0))
    assert (estimate.value, estimate.num_items) == (2.0, 2)
    with pytest.raises(ValueError, match="none of the 2 items"):
        mean_estimate([float("nan"), float("inf")], bootstrap_weights(2, 50, 0))


def test_a_paired_difference_is_sharper_than_the_spread_of_the_items() -> None:
    generator = np.random.default_rng(2)
    difficulty = generator.normal(0, 10, size=30)
    weights = bootstrap_weights(30, 1000, seed=0)
    first = mean_estimate(difficulty, weights)
    second = mean_estimate(difficulty + 0.5 + generator.normal(0, 0.2, size=30), weights)
    change, p_value = difference(first, second)
    assert first.high - first.low > 5
    assert change.low > 0.3
    assert change.high < 0.7
    assert p_value < 0.01
    assert difference(first, first)[1] == 1.0


def test_holm_corrects_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
