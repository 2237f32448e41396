"""Intervals and tests for proportions: pure arrays.

scipy and statsmodels have Wilson's interval for one proportion at a time; here millions of pairs go through at once.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

ROUNDING = 1e-9
"""Accuracies, their differences and p-values that are nearer to each other than this differ by rounding alone."""


def near_chance(accuracy: float, chance: float) -> bool:
    """Return whether an accuracy is at most a tenth of the way from chance to 1: a model that did not train.

    chance: of ``majority_share``.
    """
    # rounded, so that exactly a tenth is one; NaN is no accuracy
    return not round(accuracy - chance - 0.1 * (1 - chance), 12) > 0


def majority_share(labels: Counts) -> float:
    """Return the share of the most frequent class, the accuracy of a constant answer. labels: (n,)."""
    return float(np.bincount(labels).max() / len(labels))


def wilson(successes: Counts | Floats, n: Counts | Floats, *, confidence: float) -> tuple[Floats, Floats]:
    """Return Wilson's score interval (low, high) of a proportion; NaN where n is 0. Source: Wilson 1927."""
    from scipy.special import ndtri  # only here: most jobs need none of scipy, which takes a second to import

    z = ndtri((1 + confidence) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = successes / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # at p = 0 and p = 1 the ends are 0 and 1 exactly, which rounding would miss
    low = np.where((successes == 0) & (n > 0), 0.0, centre - half)
    return low, np.where((successes == n) & (n > 0), 1.0, centre + half)


def newcombe(
    successes_1: Counts | Floats,
    n_1: Counts | Floats,
    successes_2: Counts | Floats,
    n_2: Counts | Floats,
    *,
    confidence: float,
) -> tuple[Floats, Floats]:
    """Return the interval (low, high) of p_1 - p_2 from two Wilson intervals; NaN where a count is 0.

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    low_1, high_1 = wilson(successes_1, n_1, confidence=confidence)
    low_2, high_2 = wilson(successes_2, n_2, confidence=confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_1, p_2 = successes_1 / n_1, successes_2 / n_2
    low = p_1 - p_2 - np.hypot(p_1 - low_1, high_2 - p_2)
    high = p_1 - p_2 + np.hypot(high_1 - p_1, p_2 - low_2)
    return low, high


def standard_error(successes_1: Counts, n_1: Counts, successes_2: Counts, n_2: Counts) -> Floats:
    """Return the plug-in standard error of p_1 - p_2; NaN where a count is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p_1, p_2 = successes_1 / n_1, successes_2 / n_2
        error: Floats = np.sqrt(p_1 * (1 - p_1) / n_1 + p_2 * (1 - p_2) / n_2)
    return error


def greater_p_value(successes_1: Counts, n_1: Counts, successes_2: Counts, n_2: Counts) -> Floats:
    """Return the one-sided p-value of p_1 > p_2 by the z-test with the pooled standard error.

    1 where all or none succeeded, which says nothing; NaN where a count is 0.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (successes_1 + successes_2) / (n_1 + n_2)
        error = np.sqrt(pooled * (1 - pooled) * (1 / n_1 + 1 / n_2))
        z = (successes_1 / n_1 - successes_2 / n_2) / error
    constant = (pooled == 0) | (pooled == 1)
    missing = (n_1 == 0) | (n_2 == 0)
    from scipy.special import ndtr

    return np.where(missing, np.nan, np.where(constant, 1.0, ndtr(-z)))


def paired_p_value(differences: Counts) -> float:
    """Return the exact two-sided p-value of a paired permutation test of two methods on the same samples.

    differences: (seeds, samples), right by the one less right by the other: -1, 0 or 1. Under the null hypothesis the
    methods could be exchanged on each test sample, for all its seeds together; this flips the sign of the sample's
    sum, and the p-value is the share of all 2^samples flips with a total as far from 0 as this one or farther. With
    one seed it is McNemar's exact test. Seeds are taken as they are: what other seeds would give, the bootstrap's
    interval says.
    """
    sums = np.abs(differences.sum(0))
    # sums of one size flip alike: their total is size * (2 * flipped - count)
    distribution = np.ones(1)
    for size, count in zip(*np.unique(sums[sums > 0], return_counts=True), strict=True):
        steps = np.zeros(size * count + 1)
        steps[::size] = _fair_binomial(int(count))
        # all terms are positive, so nothing cancels as it would through a Fourier transform
        distribution = np.convolve(distribution, steps)
    totals = 2 * np.arange(len(distribution)) - sums.sum()
    as_far = np.abs(totals) >= abs(int(differences.sum()))
    return float(min(distribution[as_far].sum(), 1.0))


@lru_cache(maxsize=256)
def _fair_binomial(count: int) -> Floats:
    """Return the probabilities of 0 ... count heads of a fair coin: (count + 1,).

    Each is the float64 nearest to it, so that a p-value of exactly 1/16 meets a level of 1/16 on every machine.
    """
    ways = [1]
    for heads in range(count):
        ways.append(ways[-1] * (count - heads) // (heads + 1))
    return np.array([number / 2**count for number in ways])


def holm(p_values: Floats) -> Floats:
    """Return p-values adjusted for their number, for the family-wise error rate. Source: Holm 1979."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def bootstrap_interval(
    values: NDArray[np.bool_] | Counts, *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the percentile interval of the mean of ``values`` over seeds and samples, both resampled.

    values: (seeds, samples), right or wrong, or differences of these; rows and columns are drawn with replacement,
    independently, so that the interval covers new seeds and new test samples alike (Owen 2007, the pigeonhole
    bootstrap). With one seed it covers test samples alone.
    """
    rows, columns = _resamples(*values.shape, resamples, seed)
    totals = ((rows @ values.astype(np.float64)) * columns).sum(1)
    # totals are whole numbers, so an end between two of them that is 0 is exactly that, and has no sign by rounding
    ends = np.quantile(totals, [(1 - confidence) / 2, (1 + confidence) / 2]).round(9) + 0.0
    low, high = ends / values.size
    return float(low), float(high)


@lru_cache(maxsize=4)
def _resamples(seeds: int, samples: int, resamples: int, seed: int) -> tuple[Counts, Counts]:
    """Return how often each resample has each seed, and each sample: (resamples, seeds) and (resamples, samples).

    Kept for the next call: tables hold many intervals over the same few groups of samples.
    """
    random = np.random.default_rng(seed)
    rows, columns = (random.multinomial(n, np.full(n, 1 / n), size=resamples) for n in (seeds, samples))
    return rows, columns
