"""Intervals and tests for proportions: pure arrays.

scipy and statsmodels have Wilson's interval for one proportion at a time; here millions of pairs go through at once.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def wilson(successes: Counts, n: Counts, *, confidence: float) -> tuple[Floats, Floats]:
    """Return Wilson's score interval (low, high) of a proportion; NaN where n is 0. Source: Wilson 1927."""
    z = ndtri((1 + confidence) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = successes / n
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # at p = 0 and p = 1 the ends are 0 and 1 exactly, which rounding would miss
    low = np.where((successes == 0) & (n > 0), 0.0, centre - half)
    return low, np.where((successes == n) & (n > 0), 1.0, centre + half)


def newcombe(
    successes_1: Counts, n_1: Counts, successes_2: Counts, n_2: Counts, *, confidence: float
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
    missing = (n_1 == 0) | (n_2 == 0)
    return np.where(missing, np.nan, low), np.where(missing, np.nan, high)


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
    return np.where(missing, np.nan, np.where(constant, 1.0, ndtr(-z)))


def bootstrap_interval(
    correct: NDArray[np.bool_], *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the percentile interval of the mean of ``correct`` over seeds and samples, both resampled.

    correct: (seeds, samples) bool; rows and columns are drawn with replacement, independently, so that the interval
    covers new seeds and new test samples alike (Owen 2007, the pigeonhole bootstrap). With one seed it covers
    test samples alone.
    """
    seeds, samples = correct.shape
    random = np.random.default_rng(seed)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    columns = random.multinomial(samples, np.full(samples, 1 / samples), size=resamples)
    means = ((rows @ correct.astype(np.float64)) * columns).sum(1) / (seeds * samples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
