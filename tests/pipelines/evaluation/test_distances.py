"""Set distances against closed forms, and their zeros."""

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.evaluation.distances import bandwidth, frechet_distance, frechet_estimate, kernel_estimate
from pipelines.evaluation.statistics import Estimate

Distance = Callable[..., Estimate]


def clustered(
    num_items: int, dim: int = 8, shift: float = 0.0, scale: float = 1.0, windows: int = 5, seed: int = 0
) -> list[np.ndarray]:
    """Standard normal windows, scaled and shifted, of which half the variance is shared within an item."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_items, 1, dim))
    noise = generator.normal(size=(num_items, windows, dim))
    return list(shift + scale * (centres + noise) * 0.5**0.5)


def test_frechet_distance_of_commuting_gaussians() -> None:
    mean_x, mean_y = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 5.0])
    deviations_x, deviations_y = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    covariances = [(rotation * deviations**2) @ rotation.T for deviations in (deviations_x, deviations_y)]
    expected = ((mean_x - mean_y) ** 2).sum() + ((deviations_x - deviations_y) ** 2).sum()
    assert frechet_distance(mean_x, covariances[0], mean_y, covariances[1]) == pytest.approx(expected)


def test_frechet_distance_of_gaussians_that_do_not_commute() -> None:
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    # in two dimensions tr((AB)^(1/2)) = (tr(AB) + 2 det(AB)^(1/2))^(1/2)
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected)


def test_frechet_estimate_is_not_biased_by_the_sample_size() -> None:
    expected = 8 * (0.3**2 + 0.2**2)
    estimates = [
        frechet_estimate(
            clustered(60, seed=seed),
            clustered(60, shift=0.3, scale=1.2, seed=seed + 100),
            paired=False,
            num_replicates=60,
            seed=seed,
        )
        for seed in range(10)
    ]
    assert np.mean([estimate.value for estimate in estimates]) == pytest.approx(expected, rel=0.2)
    assert np.mean([estimate.low <= expected <= estimate.high for estimate in estimates]) >= 0.8


def test_kernel_estimate_agrees_with_the_closed_form_for_gaussians() -> None:
    reference = clustered(300, dim=2, windows=1)
    judged = clustered(300, dim=2, shift=1.0, windows=1, seed=1)
    variance = bandwidth(reference) ** 2

    def expected_kernel(distance_squared: float) -> float:
        """Mean of the Gaussian kernel over pairs of standard normal vectors whose means are so far apart."""
        return variance / (variance + 2) * np.exp(-distance_squared / (2 * (variance + 2)))

    expected = 100 * 2 * (expected_kernel(0.0) - expected_kernel(2.0))
    estimate = kernel_estimate(reference, judged, paired=False, num_replicates=200, seed=0)
    assert estimate.value == pytest.approx(expected, rel=0.1)
    assert estimate.low <= expected <= estimate.high


@pytest.mark.parametrize("distance", [frechet_estimate, kernel_estimate])
def test_a_set_has_no_distance_from_itself(distance: Distance) -> None:
    items = clustered(10, dim=20)
    estimate = distance(items, items, paired=True, num_replicates=50, seed=0)
    assert estimate.value == pytest.approx(0, abs=1e-4)
    assert (estimate.low, estimate.high) == pytest.approx((0, 0), abs=1e-4)


def test_frechet_estimate_of_few_windows_in_many_dimensions_is_that_of_their_span() -> None:
    few, many = clustered(6, dim=4, windows=2), clustered(6, dim=4, shift=1.0, windows=2, seed=1)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 4)))[0].T
    lifted = [[item @ rotation for item in items] for items in (few, many)]
    estimates = [
        frechet_estimate(*sets, paired=False, num_replicates=20, seed=0).value for sets in ((few, many), lifted)
    ]
    assert estimates[1] == pytest.approx(estimates[0], rel=1e-6)


@pytest.mark.parametrize("distance", [frechet_estimate, kernel_estimate])
def test_two_sets_of_one_kind_have_no_distance_within_the_interval(distance: Distance) -> None:
    covered = []
    for seed in range(10):
        estimate = distance(
            clustered(40, seed=seed), clustered(40, seed=seed + 50), paired=False, num_replicates=100, seed=seed
        )
        covered.append(estimate.low <= 0 <= estimate.high)
    assert np.mean(covered) >= 0.9


@pytest.mark.parametrize("distance", [frechet_estimate, kernel_estimate])
def test_what_is_further_away_has_the_larger_distance(distance: Distance) -> None:
    reference = clustered(20)
    near, far = (
        distance(reference, clustered(20, shift=shift, seed=1), paired=False, num_replicates=50, seed=0)
        for shift in (0.7, 1.5)
    )
    assert 0 < near.low < near.value < far.value


def test_too_small_and_mixed_sets_are_refused() -> None:
    items = clustered(5)
    with pytest.raises(ValueError, match="at least 4 items"):
        kernel_estimate(items[:3], items, paired=False, num_replicates=10, seed=0)
    with pytest.raises(ValueError, match="one dimension, got"):
        frechet_estimate(items, clustered(5, dim=3), paired=False, num_replicates=10, seed=0)
    with pytest.raises(ValueError, match="same items"):
        frechet_estimate(items, clustered(6), paired=True, num_replicates=10, seed=0)
    with pytest.raises(ValueError, match="no scale"):
        kernel_estimate([np.zeros((2, 8))] * 4, items[:4], paired=False, num_replicates=10, seed=0)
