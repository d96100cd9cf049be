"""Bootstrap over items: intervals of means and of set distances, and the significance of differences.

An item is what is drawn independently: a file, or a prompt with all its pieces; never a window of a file.

Sources
    H15    Hesterberg 2015, What Teachers Should Know About the Bootstrap, https://arxiv.org/abs/1411.5279
    Holm   Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its uncertainty.

    Attributes:
        value: the estimate itself.
        low: lower end of the 95 % interval; equal to ``value`` where a single item leaves nothing to resample.
        high: upper end.
        num_items: independent items behind it.
        replicates: the figure on each bootstrap sample, for comparisons of two results.
    """

    value: float
    low: float
    high: float
    num_items: int
    replicates: tuple[float, ...] = ()


def bootstrap_weights(num_items: int, num_replicates: int, seed: int) -> Int[np.ndarray, "replicates items"]:
    """How often each item is drawn in each bootstrap sample. The same arguments give the same draws.

    Raises:
        ValueError: there is nothing to draw from.
    """
    if num_items < 1 or num_replicates < 1:
        raise ValueError(
            f"a bootstrap needs at least one item and one replicate, got {num_items} items and {num_replicates}"
        )
    generator = np.random.default_rng((seed, num_items))
    return generator.multinomial(num_items, np.full(num_items, 1 / num_items), size=num_replicates)


def interval(replicates: Float[np.ndarray, " replicates"], num_items: int) -> tuple[float, float]:
    """Expanded percentile interval: as wide as Student's t asks for few items (H15, section 5.3)."""
    finite = replicates[np.isfinite(replicates)]
    if num_items < 2 or not len(finite):
        return float("nan"), float("nan")
    expanded = np.sqrt(num_items / (num_items - 1)) * stats.t.ppf((1 + LEVEL) / 2, num_items - 1)
    tail = stats.norm.cdf(-expanded)
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def estimate(value: float, replicates: Float[np.ndarray, " replicates"], num_items: int) -> Estimate:
    """Value with the interval of its replicates."""
    low, high = interval(replicates, num_items)
    if np.isnan(low):
        low = high = value
    return Estimate(float(value), low, high, num_items, tuple(float(number) for number in replicates))


def mean_estimate(
    values: Sequence[float] | Float[np.ndarray, " items"], weights: Int[np.ndarray, "replicates items"]
) -> Estimate:
    """Mean over items. Items without a value (NaN) are left out, and ``num_items`` says how many are left.

    Raises:
        ValueError: no item has a value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    present = np.isfinite(numbers)
    if not present.any():
        raise ValueError(f"none of the {len(numbers)} items has a finite value; there is no mean to estimate")
    drawn = weights[:, present].astype(np.float64)
    totals = drawn.sum(1)
    replicates = np.divide(drawn @ numbers[present], totals, out=np.full(len(drawn), np.nan), where=totals > 0)
    return estimate(float(numbers[present].mean()), replicates, int(present.sum()))


def difference(first: Estimate, second: Estimate) -> tuple[Estimate, float]:
    """Second minus first, and the two-sided p-value of its being zero.

    Where both have replicates from the same draws of the same items, this is the paired bootstrap. A figure and its
    mean replicate may differ (set distances are biased by the sample size), so the spread is centred on the value.

    Raises:
        ValueError: the numbers of replicates differ.
    """
    if len(first.replicates) != len(second.replicates):
        raise ValueError(
            f"the results were made with {len(first.replicates)} and {len(second.replicates)} bootstrap replicates; "
            "evaluate again with the same number"
        )
    value = second.value - first.value
    spread = np.array(second.replicates) - np.array(first.replicates)
    centred = spread - np.nanmean(spread) + value
    num_items = min(first.num_items, second.num_items)
    above, below = np.sum(centred >= 0), np.sum(centred <= 0)
    p_value = min(1.0, 2 * (min(above, below) + 1) / (len(centred) + 1))
    return estimate(value, centred, num_items), float(p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in the order given (Holm)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
