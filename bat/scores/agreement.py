"""How well one score of samples finds what another says: Spearman's correlation, AUC, precision. Pure arrays."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bat.statistics import Bools, Counts, Floats


class Interval(NamedTuple):
    """A value with the ends of its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def spearman(score: Floats, reference: Floats, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return Spearman's rank correlation of two scores, (n,) each, equal values at their mean rank.

    The interval is the bootstrap's over samples, by percentiles, as of the other functions here.
    """
    measure = partial(_spearman, _places(score), _places(reference))
    return _bootstrap(measure, len(score), confidence, resamples, seed)


def auc(score: Floats, chosen: Bools, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the chance that a sample that is chosen has a higher score than another, equal ones counted half."""
    return _bootstrap(partial(_auc, _places(score), chosen), len(score), confidence, resamples, seed)


def precision(score: Floats, chosen: Bools, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the share of chosen samples among the n with the highest scores, where n is the number of chosen ones.

    Of equal scores at the end each counts by its share of the places left, so that the order of samples is nothing.
    """
    return _bootstrap(partial(_precision, _places(-score), chosen), len(score), confidence, resamples, seed)


def _bootstrap(
    measure: Callable[[Counts], float], samples: int, confidence: float, resamples: int, seed: int
) -> Interval:
    """Return a measure and its interval. measure: of how often a resample has each sample, (n,)."""
    with np.errstate(invalid="ignore"):
        values = np.array([measure(counts) for counts in _drawn(samples, resamples, seed)])
        value = measure(np.ones(samples, dtype=np.int64))
    # a resample without any chosen sample has no value
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(value, np.nan, np.nan)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def _drawn(samples: int, resamples: int, seed: int) -> Iterator[Counts]:
    """Yield how often each resample has each sample, one after the other: all at once can be larger than memory."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(samples, size=samples), minlength=samples)


def _places(values: Floats) -> NDArray[Any]:
    """Return for each sample the place of its value among the values that there are, in ascending order."""
    return np.unique(values, return_inverse=True)[1]


def _ranks(places: NDArray[Any], counts: Counts) -> Floats:
    """Return the mean rank of each sample's value among the samples of a resample."""
    of_value = np.bincount(places, weights=counts)
    ranks: Floats = (of_value.cumsum() - (of_value - 1) / 2)[places]
    return ranks


def _spearman(first: NDArray[Any], second: NDArray[Any], counts: Counts) -> float:
    one, other = (ranks - (ranks @ counts) / counts.sum() for ranks in (_ranks(first, counts), _ranks(second, counts)))
    return float((one * other) @ counts / np.sqrt((one**2 @ counts) * (other**2 @ counts)))


def _auc(places: NDArray[Any], chosen: Bools, counts: Counts) -> float:
    number = (counts * chosen).sum()
    over = _ranks(places, counts) @ (counts * chosen) - number * (number + 1) / 2
    return float(over / (number * (counts.sum() - number)))


def _precision(places: NDArray[Any], chosen: Bools, counts: Counts) -> float:
    of_value, chosen_of = (np.bincount(places, weights=weights) for weights in (counts, counts * chosen))
    number = chosen_of.sum()
    taken = np.clip(number - (of_value.cumsum() - of_value), 0, of_value)
    # of a value that the resample does not have, nothing is taken
    return float(taken / np.maximum(of_value, 1) @ chosen_of / number)
