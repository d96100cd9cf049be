"""Distances between two sets of embeddings: Frechet (FAD) and unbiased kernel distance (KAD), with intervals.

A set is a list of items (files), each with one embedding per window: (windows, dim). Windows of a file resemble each
other, so only items are resampled, and the kernel distance never compares a file with itself.

Both know a paired mode, where item i of one set is a coded version of item i of the other. Then items are resampled
and left out together, and a set has the distance zero from itself, exactly.

Symbols
    x, y   embeddings of the reference and of what is judged
    k      Gaussian kernel, its bandwidth the median distance between windows of the reference

Sources
    FAD    Kilgour et al. 2019, https://arxiv.org/abs/1812.08466
    INF    Chong and Forsyth 2020 (the limit of infinite samples), https://arxiv.org/abs/1911.07023;
           for audio Gui et al. 2024, https://arxiv.org/abs/2311.01616
    KAD    Chung et al. 2025, https://arxiv.org/abs/2502.15602
    MMD    Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13, lemma 6
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.spatial.distance import cdist, pdist

from pipelines.evaluation.statistics import Estimate, bootstrap_weights, estimate

KAD_SCALE = 100.0  # squared MMD is reported times 100, as the KAD paper's toolkit does
FRACTIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the items, for the extrapolation
DRAWS = 6  # random subsets at each fraction
FRECHET_REPLICATES = 200  # each needs two eigendecompositions

Items = Sequence[Float[np.ndarray, "_ _"]]
"""(windows, dim) of each file; files may have different numbers of windows."""


def frechet_distance(
    mean_x: Float[np.ndarray, " dim"],
    covariance_x: Float[np.ndarray, "dim dim"],
    mean_y: Float[np.ndarray, " dim"],
    covariance_y: Float[np.ndarray, "dim dim"],
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |mean difference|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2))."""
    eigenvalues, vectors = np.linalg.eigh(covariance_x)
    root = (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ covariance_y @ root).clip(min=0)).sum()
    distance = ((mean_x - mean_y) ** 2).sum() + np.trace(covariance_x) + np.trace(covariance_y) - 2 * cross
    return float(distance)


@dataclass(frozen=True)
class Moments:
    """Per item: number of windows, their sum and their sum of outer products."""

    counts: Float[np.ndarray, " items"]
    sums: Float[np.ndarray, "items dim"]
    products: Float[np.ndarray, "items dim dim"]

    @classmethod
    def of(cls, items: Items) -> "Moments":
        """Moments about the origin, which should be near the windows so that the numbers stay small."""
        return cls(
            np.array([float(len(item)) for item in items]),
            np.stack([item.sum(0) for item in items]),
            np.stack([item.T @ item for item in items]),
        )

    def gaussian(
        self, weights: Int[np.ndarray, " items"]
    ) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        """Mean and covariance of a weighted set."""
        count = float(weights @ self.counts)
        mean = (weights @ self.sums) / count
        product = np.tensordot(weights.astype(np.float64), self.products, axes=1)
        return mean, (product - count * np.outer(mean, mean)) / (count - 1)


def frechet_estimate(reference: Items, judged: Items, *, paired: bool, num_replicates: int, seed: int) -> Estimate:
    """Frechet distance extrapolated to infinite sets (INF), with a bootstrap interval.

    The distance of finite samples is too large by about c / n. It is measured on random subsets of several sizes and
    a line in 1 / size is fitted; its value at 0 counts. The interval is the spread of the distance under resampled
    items, centred there. Only the first 200 replicates are computed; the others repeat them.

    Raises:
        ValueError: a set has fewer than four items; the dimensions differ; paired sets differ in length.
    """
    _check(reference, judged, paired)
    x, y = (Moments.of(items) for items in _centred_in_their_span(reference, judged))

    def distance(weights_x: np.ndarray, weights_y: np.ndarray) -> float:
        return frechet_distance(*x.gaussian(weights_x), *y.gaussian(weights_y))

    generator = np.random.default_rng((seed, len(reference), len(judged)))
    inverse_sizes, values = [], []
    for fraction in FRACTIONS:
        for _ in range(DRAWS if fraction < 1 else 1):
            subset_x = _subset(len(reference), fraction, generator)
            subset_y = subset_x if paired else _subset(len(judged), fraction, generator)
            inverse_sizes.append(0.5 * (len(reference) / subset_x.sum() + len(judged) / subset_y.sum()))
            values.append(distance(subset_x, subset_y))
    weighting = np.where(np.array(inverse_sizes) == 1.0, np.sqrt(DRAWS), 1.0)  # the full set has no sampling error
    limit = float(np.polyfit(inverse_sizes, values, 1, w=weighting)[1])

    computed = min(num_replicates, FRECHET_REPLICATES)
    pairs = _resampled(len(reference), len(judged), paired, computed, seed)
    replicates = np.array([distance(weights_x, weights_y) for weights_x, weights_y in zip(*pairs, strict=True)])
    replicates = np.resize(replicates - replicates.mean() + limit, num_replicates)
    return estimate(limit, replicates, min(len(reference), len(judged)))


def kernel_estimate(reference: Items, judged: Items, *, paired: bool, num_replicates: int, seed: int) -> Estimate:
    """Kernel distance: 100 times the unbiased squared maximum mean discrepancy (KAD, MMD), with its interval.

    Unbiased means that the expectation is zero for sets from one distribution, so single values may be negative.

    Raises:
        ValueError: as for ``frechet_estimate``; or all windows of the reference are equal.
    """
    _check(reference, judged, paired)
    gamma = 1 / (2 * bandwidth(reference) ** 2)
    kernel = _SetKernel(reference, judged, gamma, paired)
    ones = np.ones((1, len(reference))), np.ones((1, len(judged)))
    weights = _resampled(len(reference), len(judged), paired, num_replicates, seed)
    value = kernel.discrepancy(*ones)[0]
    replicates = kernel.discrepancy(*weights)
    return estimate(KAD_SCALE * value, KAD_SCALE * replicates, min(len(reference), len(judged)))


def bandwidth(reference: Items) -> float:
    """Median distance between windows of the reference (KAD, section 3.3).

    Raises:
        ValueError: more than half of the windows are equal.
    """
    median = float(np.median(pdist(np.concatenate(list(reference)).astype(np.float64))))
    if median == 0:
        raise ValueError("more than half of the reference's windows are equal (silence?), so they have no scale")
    return median


class _SetKernel:
    """Sums of the kernel over the windows of each pair of items, from which any resampling follows."""

    def __init__(self, reference: Items, judged: Items, gamma: float, paired: bool) -> None:
        self.paired = paired
        self.count_x, self.count_y = (np.array([float(len(item)) for item in items]) for items in (reference, judged))
        x, y = (np.concatenate(list(items)).astype(np.float64) for items in (reference, judged))
        edges_x, edges_y = (np.r_[0, np.cumsum(count)[:-1]].astype(int) for count in (self.count_x, self.count_y))

        def sums(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            values = np.exp(-gamma * cdist(a, b, "sqeuclidean"))
            return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)

        self.xx, self.yy = sums(x, x, edges_x, edges_x), sums(y, y, edges_y, edges_y)
        self.xy = sums(x, y, edges_x, edges_y)

    def discrepancy(
        self, weights_x: Num[np.ndarray, "replicates x"], weights_y: Num[np.ndarray, "replicates y"]
    ) -> Float[np.ndarray, " replicates"]:
        """Squared discrepancy of each weighting; pairs of one item with itself never count."""
        within_x = _pair_mean(self.xx, weights_x, weights_x, self.count_x, self.count_x, skip_diagonal=True)
        within_y = _pair_mean(self.yy, weights_y, weights_y, self.count_y, self.count_y, skip_diagonal=True)
        across = _pair_mean(self.xy, weights_x, weights_y, self.count_x, self.count_y, skip_diagonal=self.paired)
        return within_x + within_y - 2 * across


def _pair_mean(
    sums: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    count_l: np.ndarray,
    count_r: np.ndarray,
    skip_diagonal: bool,
) -> np.ndarray:
    """Weighted mean over pairs of windows, (replicates,); NaN where a replicate holds a single item."""
    sizes = np.outer(count_l, count_r)
    if skip_diagonal:
        sums, sizes = sums - np.diag(np.diag(sums)), sizes - np.diag(np.diag(sizes))
    total = np.einsum("ri,ij,rj->r", left, sums, right, optimize=True)
    number = np.einsum("ri,ij,rj->r", left, sizes, right, optimize=True)
    return np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)


def _centred_in_their_span(reference: Items, judged: Items) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Both sets about the reference's mean, in float64, in an orthonormal basis of what they span together.

    No distance changes, and sets with fewer windows than dimensions become small.
    """
    origin = np.concatenate(list(reference)).mean(0).astype(np.float64)
    x, y = ([item.astype(np.float64) - origin for item in items] for items in (reference, judged))
    joint = np.concatenate([*x, *y])
    if len(joint) >= joint.shape[1]:
        return x, y
    basis = np.linalg.svd(joint, full_matrices=False)[2].T
    return [item @ basis for item in x], [item @ basis for item in y]


def _resampled(
    num_x: int, num_y: int, paired: bool, num_replicates: int, seed: int
) -> tuple[Int[np.ndarray, "replicates x"], Int[np.ndarray, "replicates y"]]:
    weights_x = bootstrap_weights(num_x, num_replicates, seed)
    return weights_x, weights_x if paired else bootstrap_weights(num_y, num_replicates, seed + 1)


def _subset(num_items: int, fraction: float, generator: np.random.Generator) -> Int[np.ndarray, " items"]:
    weights = np.zeros(num_items, dtype=np.int64)
    weights[generator.permutation(num_items)[: max(2, round(fraction * num_items))]] = 1
    return weights


def _check(reference: Items, judged: Items, paired: bool) -> None:
    if min(len(reference), len(judged)) < 4:
        raise ValueError(
            f"a distance between sets needs at least 4 items in each, got {len(reference)} in the reference "
            f"and {len(judged)}; add files"
        )
    if paired and [len(item) for item in reference] != [len(item) for item in judged]:
        raise ValueError("paired sets must hold the same items with the same numbers of windows")
    dims = {item.shape[1] for item in (*reference, *judged)}
    if len(dims) != 1:
        raise ValueError(f"all embeddings must have one dimension, got {sorted(dims)}; were two models mixed?")
