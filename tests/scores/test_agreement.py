"""Agreement of scores: scipy and scikit-learn on the resamples written out, and loops for precision."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from bat.scores.agreement import auc, precision, spearman

DRAWS = {"confidence": 0.9, "resamples": 40, "seed": 3}
FEW = {"confidence": 0.9, "resamples": 1, "seed": 0}


def of_top(score, chosen):
    """Return the expected share of chosen ones among the top, equal scores in random order."""
    number, hits = int(sum(chosen)), Fraction(0)
    for value, mine in zip(score, chosen, strict=True):
        over, equal = sum(other > value for other in score), sum(other == value for other in score)
        if mine:
            hits += max(Fraction(0), min(Fraction(1), Fraction(number - over, equal)))
    return float(hits / number)


MEASURES = {
    "spearman": (spearman, lambda score, other: float(spearmanr(score, other).statistic)),
    "auc": (auc, lambda score, chosen: float(roc_auc_score(chosen, score))),
    "precision": (precision, of_top),
}


def world(seed, n=25):
    """Return a score with ties, one that it has to do with, and which samples are over a threshold of that."""
    random = np.random.default_rng(seed)
    other = random.integers(8, size=n) / 8
    score = np.round(other + random.normal(size=n), 1)
    chosen = other > 0.6
    chosen[:2] = True, False
    return score, other, chosen


@pytest.mark.parametrize("name", MEASURES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, derandomize=True)
def test_a_measure_is_that_of_the_samples_one_by_one(name, seed):
    measure, by_hand = MEASURES[name]
    score, other, chosen = world(seed)
    asked = other if name == "spearman" else chosen
    assert measure(score, asked, **FEW).value == pytest.approx(by_hand(score, asked), abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_an_interval_is_that_of_the_measure_on_each_resample(name):
    measure, by_hand = MEASURES[name]
    score, other, chosen = world(1)
    asked = other if name == "spearman" else chosen
    random, values = np.random.default_rng(DRAWS["seed"]), []
    for _ in range(DRAWS["resamples"]):
        drawn = random.integers(len(score), size=len(score))
        values.append(by_hand(score[drawn], asked[drawn]))
    found = measure(score, asked, **DRAWS)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=1e-12)
    assert found.low < found.value < found.high
    assert measure(score, asked, **DRAWS | {"seed": 4}) != found


@pytest.mark.parametrize("name", MEASURES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, derandomize=True)
def test_a_measure_knows_the_order_of_scores_alone_and_not_of_samples(name, seed):
    measure, _ = MEASURES[name]
    score, other, chosen = world(seed)
    asked = other if name == "spearman" else chosen
    order = np.random.default_rng(seed).permutation(len(score))
    first = measure(score, asked, **FEW).value
    assert measure(score[order], asked[order], **FEW).value == pytest.approx(first, abs=1e-12)
    assert measure(np.exp(score), asked, **FEW).value == first


def test_measures_without_an_answer():
    score, none, every = np.arange(4.0), np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
    assert all(math.isnan(value) for value in auc(score, none, **DRAWS))
    assert all(math.isnan(value) for value in auc(score, every, **DRAWS))
    assert all(math.isnan(value) for value in precision(score, none, **DRAWS))
    assert all(math.isnan(value) for value in spearman(score, np.ones(4), **DRAWS))
    # a resample without a chosen sample is left out
    one = np.array([False, False, False, True])
    assert precision(score, one, **DRAWS) == (1.0, 1.0, 1.0)
