import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, chi2_contingency, norm, permutation_test

from bat.statistics import (
    bootstrap_interval,
    greater_p_value,
    holm,
    majority_share,
    near_chance,
    newcombe,
    paired_p_value,
    standard_error,
    wilson,
)


def counts(*values):
    return tuple(np.array([value]) for value in values)


@st.composite
def proportion(draw, most=60):
    n = draw(st.integers(1, most))
    return draw(st.integers(0, n)), n


def test_the_majority_share_is_that_of_the_most_frequent_class():
    assert majority_share(np.array([2, 0, 2, 2, 5])) == 3 / 5


LEVEL = st.sampled_from([0.5, 0.8, 0.95, 0.99])


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 41, 997])
def test_wilson_equals_scipy(n, confidence):
    successes = np.unique(np.linspace(0, n, 42).round().astype(np.int64))
    low, high = wilson(successes, np.full_like(successes, n), confidence=confidence)
    for s, ours in zip(successes, zip(low, high, strict=True), strict=True):
        scipys = binomtest(int(s), n).proportion_ci(confidence, method="wilson")
        assert ours == pytest.approx((scipys.low, scipys.high), abs=1e-12)


@given(proportion(), LEVEL)
def test_wilson_is_ordered_inside_0_1_and_mirrored_for_failures(part, confidence):
    s, n = part
    low, high = (float(end[0]) for end in wilson(*counts(s, n), confidence=confidence))
    assert 0 <= low <= s / n <= high <= 1
    mirrored = wilson(*counts(n - s, n), confidence=confidence)
    assert (1 - high, 1 - low) == pytest.approx([float(end[0]) for end in mirrored], abs=1e-12)


@pytest.mark.parametrize(
    ("table", "interval"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((6, 7, 2, 7), (0.0582, 0.8062)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 20), (0.6791, 1.0000)),
        ((10, 10, 0, 10), (0.6075, 1.0000)),
    ],
)
def test_newcombe_gives_the_published_intervals(table, interval):
    # Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10
    low, high = newcombe(*counts(*table), confidence=0.95)
    assert (low[0], high[0]) == pytest.approx(interval, abs=5.1e-5)


@given(proportion(), proportion(), LEVEL)
def test_newcombe_is_composed_of_wilson_intervals(one, two, confidence):
    (s_1, n_1), (s_2, n_2) = one, two
    p_1, p_2 = s_1 / n_1, s_2 / n_2
    low_1, high_1 = binomtest(s_1, n_1).proportion_ci(confidence, method="wilson")
    low_2, high_2 = binomtest(s_2, n_2).proportion_ci(confidence, method="wilson")
    low, high = newcombe(*counts(s_1, n_1, s_2, n_2), confidence=confidence)
    assert low[0] == pytest.approx(p_1 - p_2 - math.sqrt((p_1 - low_1) ** 2 + (high_2 - p_2) ** 2), abs=1e-9)
    assert high[0] == pytest.approx(p_1 - p_2 + math.sqrt((high_1 - p_1) ** 2 + (p_2 - low_2) ** 2), abs=1e-9)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_newcombe_covers_about_as_often_as_it_says(confidence):
    n_1, n_2, p_1, p_2 = 40, 15, 0.8, 0.5
    s_1, s_2 = np.meshgrid(np.arange(n_1 + 1), np.arange(n_2 + 1), indexing="ij")
    low, high = newcombe(s_1, np.full_like(s_1, n_1), s_2, np.full_like(s_2, n_2), confidence=confidence)
    chance = binom.pmf(s_1, n_1, p_1) * binom.pmf(s_2, n_2, p_2)
    assert chance[(low <= p_1 - p_2) & (p_1 - p_2 <= high)].sum() == pytest.approx(confidence, abs=0.03)


@given(proportion(), proportion())
def test_standard_error_is_the_plug_in_formula(one, two):
    (s_1, n_1), (s_2, n_2) = one, two
    variance = s_1 * (n_1 - s_1) / n_1**3 + s_2 * (n_2 - s_2) / n_2**3
    assert standard_error(*counts(s_1, n_1, s_2, n_2))[0] == pytest.approx(math.sqrt(variance), abs=1e-12)


def hand_p_value(s_1, n_1, s_2, n_2):
    pooled = (s_1 + s_2) / (n_1 + n_2)
    z = (s_1 / n_1 - s_2 / n_2) / math.sqrt(pooled * (1 - pooled) * (n_1 + n_2) / (n_1 * n_2))
    return math.erfc(z / math.sqrt(2)) / 2


@given(proportion(), proportion())
def test_p_value_equals_the_hand_formula_and_half_of_pearsons_test(one, two):
    (s_1, n_1), (s_2, n_2) = one, two
    p = greater_p_value(*counts(s_1, n_1, s_2, n_2))[0]
    if s_1 + s_2 in (0, n_1 + n_2):
        assert p == 1
        return
    assert p == pytest.approx(hand_p_value(s_1, n_1, s_2, n_2), rel=1e-9)
    # the square of the pooled z is Pearson's chi-squared
    pearson = chi2_contingency([[s_1, n_1 - s_1], [s_2, n_2 - s_2]], correction=False).pvalue
    assert 2 * min(p, 1 - p) == pytest.approx(pearson, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("table", "p"),
    [
        ((3, 6, 5, 10), 0.5),  # equal proportions
        ((0, 6, 0, 10), 1),
        ((6, 6, 10, 10), 1),
        ((10**6, 10**6, 0, 10**6), 0),
        ((0, 10**6, 10**6, 10**6), 1),
    ],
)
def test_p_value_in_limit_cases(table, p):
    assert greater_p_value(*counts(*table))[0] == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(("right", "level", "times"), [(0.9, 1e-3, 1.6), (0.9, 1e-5, 2.8), (0.5, 1e-3, 1.0)])
def test_p_value_is_too_small_where_most_are_right_as_the_documents_say(right, level, times):
    ins, outs = np.meshgrid(np.arange(141), np.arange(61), indexing="ij")
    chance = binom.pmf(ins, 140, right) * binom.pmf(outs, 60, right)
    p = greater_p_value(ins, np.full_like(ins, 140), outs, np.full_like(outs, 60))
    assert chance[p <= level].sum() / level == pytest.approx(times, abs=0.05)


PAIRED = [lambda *table: newcombe(*table, confidence=0.95), standard_error, greater_p_value]


@pytest.mark.parametrize("function", PAIRED, ids=["newcombe", "standard_error", "greater_p_value"])
@pytest.mark.parametrize("table", [(0, 0, 3, 5), (3, 5, 0, 0), (0, 0, 0, 0), (0, 0, 0, 5), (0, 0, 5, 5), (0, 5, 0, 0)])
def test_a_comparison_with_nothing_is_nan(function, table):
    assert np.isnan(function(*counts(*table))).all()


@pytest.mark.parametrize("confidence", [0.68, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_wilson_ends_at_0_and_1_exactly(n, confidence):
    assert wilson(*counts(0, n), confidence=confidence)[0] == 0
    assert wilson(*counts(n, n), confidence=confidence)[1] == 1


def test_wilson_of_nothing_is_nan():
    assert np.isnan(wilson(*counts(0, 0), confidence=0.95)).all()


def by_hand(correct, resamples, random):
    """Resample rows and columns of ``correct`` one by one."""
    seeds, samples = correct.shape
    means = []
    for _ in range(resamples):
        rows, columns = random.integers(seeds, size=seeds), random.integers(samples, size=samples)
        means.append(correct[rows][:, columns].mean())
    return np.array(means)


@pytest.mark.parametrize("shape", [(4, 60), (1, 500), (12, 40)])
def test_bootstrap_equals_resampling_by_hand(shape):
    random = np.random.default_rng(5)
    difficulty = random.random((1, shape[1])) * 0.8
    correct = random.random(shape) < difficulty + 0.2 * random.random((shape[0], 1))
    means = by_hand(correct, 6000, random)
    low, high = bootstrap_interval(correct, confidence=0.9, resamples=6000, seed=1)
    # a quantile of 6000 draws of a normal has a standard error of 0.027 deviations
    assert (low, high) == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=0.13 * means.std() + 1e-9)


def test_bootstrap_of_one_seed_is_the_interval_of_a_mean():
    correct = np.arange(400)[None, :] < 280
    low, high = bootstrap_interval(correct, confidence=0.95, resamples=10_000, seed=0)
    half = norm.ppf(0.975) * math.sqrt(0.7 * 0.3 / 400)
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.004)


def test_bootstrap_of_seeds_that_disagree_on_all_samples_is_binomial():
    correct = np.repeat(np.arange(20)[:, None] < 12, 500, axis=1)
    low, high = bootstrap_interval(correct, confidence=0.9, resamples=4000, seed=3)
    assert (low, high) == pytest.approx((binom.ppf(0.05, 20, 0.6) / 20, binom.ppf(0.95, 20, 0.6) / 20))


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 9)])
def test_bootstrap_of_constant_results_has_no_width(value, shape):
    interval = bootstrap_interval(np.full(shape, value), confidence=0.95, resamples=100, seed=0)
    assert interval == (float(value), float(value))


def test_bootstrap_depends_on_its_seed_alone():
    correct = np.random.default_rng(0).random((3, 50)) < 0.6
    first, again, other = (bootstrap_interval(correct, confidence=0.9, resamples=200, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


@given(st.integers(1, 3), st.integers(2, 9), st.integers(0, 2**20))
@settings(max_examples=60)
def test_paired_p_value_equals_all_permutations(seeds, samples, seed):
    first, second = np.random.default_rng(seed).integers(2, size=(2, seeds, samples))
    every = permutation_test(
        (first.sum(0), second.sum(0)), lambda a, b: float((a - b).sum()), permutation_type="samples", n_resamples=np.inf
    )
    # scipy doubles the smaller tail, which of a symmetric distribution is the same
    assert paired_p_value(first - second) == pytest.approx(every.pvalue, abs=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (1, 0), (6, 0), (12, 3), (40, 41), (5, 90), (900, 700), (2600, 2500)]
)
def test_paired_p_value_of_one_seed_is_mcnemars(gained, lost):
    differences = np.repeat([1, -1, 0], [gained, lost, 20])[None]
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert paired_p_value(differences) == pytest.approx(expected, rel=1e-9)


def test_paired_p_value_stays_positive_far_out():
    assert 0 < paired_p_value(np.ones((5, 100), dtype=np.int64)) == pytest.approx(2.0**-99, rel=1e-9)


def test_a_p_value_is_at_most_1():
    # the probabilities of 470 coins add up to a little more
    assert paired_p_value(np.repeat([1, -1], 235)[None]) == 1


def test_holm_gives_the_steps_of_the_paper():
    # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then no less than the one before
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([])).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    adjusted = holm(np.array(p_values))
    order, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set()
    for step, place in enumerate(order):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(place)
    assert {int(place) for place in np.flatnonzero(adjusted <= level)} == rejected


@pytest.mark.parametrize(
    ("accuracy", "chance", "near"),
    [
        (0.10, 0.1, True),
        (0.19, 0.1, True),  # chance and a tenth of the way from it to 1
        (0.1901, 0.1, False),
        (0.12, 0.01, False),
        (0.5, 0.5, True),
        (0.56, 0.5, False),
        (float("nan"), 0.1, True),
    ],
)
def test_a_model_near_chance_did_not_train(accuracy, chance, near):
    assert near_chance(accuracy, chance) is near
