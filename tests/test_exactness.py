"""Values that lie exactly on a boundary, and ties: what they decide is a rule, never the last bit of a float."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from influences import find_pairs
from methods import BAT, but

from bat import statistics
from bat.config import Steps, Without
from bat.evaluation.comparison import HIGHER, comparison_table
from bat.evaluation.summary import METRICS, summary_table
from bat.scores.estimators import Rates, effect_table, found_pairs, group_table, memorization_table
from bat.statistics import bootstrap_interval, holm, near_chance, paired_p_value
from bat.training.awp import perturbed
from bat.training.loop import learning_rate_factor
from bat.training.selection import atypical_for, removed


def rates(*counts):
    return Rates(*(np.array([count]) for count in counts))


@given(st.integers(1, 2800), st.integers(1, 2800), st.data())
def test_a_difference_is_the_float_nearest_to_the_fraction(n_in, n_out, data):
    right_in, right_out = data.draw(st.integers(0, n_in)), data.draw(st.integers(0, n_out))
    found = rates(right_in, n_in, right_out, n_out).difference[0]
    assert found == float(Fraction(right_in, n_in) - Fraction(right_out, n_out))


@pytest.mark.parametrize(("n_in", "n_out"), [(20, 20), (140, 60), (35, 15)])
def test_over_a_threshold_is_decided_as_by_fractions(n_in, n_out):
    right_in, right_out = (grid.ravel() for grid in np.mgrid[: n_in + 1, : n_out + 1])
    found = Rates(right_in, np.full_like(right_in, n_in), right_out, np.full_like(right_out, n_out)).difference
    common = n_in * n_out
    numerators = right_in * n_out - right_out * n_in
    met = 0
    for percent in range(1, 100):
        # numerator / common > percent / 100, in whole numbers
        np.testing.assert_array_equal(found > percent / 100, 100 * numerators > percent * common)
        met += (100 * numerators == percent * common).sum()
    assert met > 10


def at_exactly(counts_in, counts_out, models=20):
    """Masks and results of 2 * models models for samples that are right so often in, and left out."""
    n = len(counts_in)
    mask = np.repeat([[True], [False]], models, axis=0).repeat(n, axis=1)
    order = np.arange(models)[:, None]
    return mask, np.vstack([order < np.array(counts_in), order < np.array(counts_out)])


def test_memorization_of_exactly_the_threshold_is_not_over_it():
    # 17/20 - 14/20 as floats is 0.15000000000000002, 15/20 - 12/20 is 0.15000000000000002, 19/20 - 16/20 0.1499999...
    mask, correct = at_exactly([17, 15, 19, 3, 18], [14, 12, 16, 0, 14])
    table = memorization_table(mask, correct, correct.astype(np.float16), confidence=0.95)
    assert table["memorization"].tolist() == [0.15, 0.15, 0.15, 0.15, 0.2]
    assert (table["memorization"] > 0.15).tolist() == [False, False, False, False, True]


def test_influence_of_exactly_the_threshold_is_not_over_it_and_ties_go_to_the_lower_index():
    mask, _ = at_exactly([0, 0, 0], [0, 0, 0])
    # the first source is in and out of the same models as the others
    _, correct = at_exactly([17, 18], [14, 14])
    found = find_pairs(
        mask,
        correct,
        train_index=np.array([4, 6, 9]),
        train_labels=np.zeros(3, int),
        target_index=np.array([1, 2]),
        target_labels=np.zeros(2, int),
        false_discovery_rate=0.999,
    )
    assert found.pairs["significant"].all()
    scores = pd.DataFrame({"train_index": [4, 6, 9], "memorization": [0.4, 0.6, 0.9]})
    groups = group_table(found, np.array([1, 2]), np.zeros(2, int), scores, threshold=0.15)
    assert groups["atypical"].tolist() == [False, True]
    assert groups["max_influence"].tolist() == [0.15, 0.2]
    assert groups["max_influence_train_index"].tolist() == [4, 4]
    assert groups["memorization"].tolist() == [0.4, 0.4]


def test_equal_influence_of_different_counts_is_a_tie():
    # 17/20 - 14/20 and 3/20 - 0/20: both 3/20
    first, second = rates(17, 20, 14, 20).difference, rates(3, 20, 0, 20).difference
    pairs = pd.DataFrame({"train_index": [2, 1], "target_index": 7, "influence": [*first, *second]})
    scores = pd.DataFrame({"train_index": [1, 2], "memorization": [0.1, 0.2]})
    found = found_pairs(pairs.assign(significant=True))
    groups = group_table(found, np.array([7]), np.array([0]), scores, threshold=0.1)
    assert groups["max_influence_train_index"].tolist() == [1]


@pytest.mark.parametrize(
    ("threshold", "p_values"), [(0.5, [0.5, 0.5]), (0.6, [0.5] * 5 + [1.0]), (0.75, [0.5, 0.5, 1])]
)
def test_a_false_discovery_rate_that_is_met_exactly_is_kept(threshold, p_values):
    mask, _ = at_exactly([0], [0])
    # as often right with the sample as without has the p-value 1/2; always right has 1
    _, correct = at_exactly(*([7 if p < 1 else 20 for p in p_values],) * 2)
    names = {"target_index": np.arange(len(p_values)), "target_labels": np.zeros(len(p_values), int)}
    both = {"train_index": np.zeros(1, int), "train_labels": np.zeros(1, int)} | names
    found = find_pairs(mask, correct, **both, false_discovery_rate=threshold)
    for kind in ("", "soft_"):
        assert found.pairs[f"{kind}p_value"].tolist() == p_values
        assert found.pairs[f"{kind}significant"].tolist() == [p < 1 for p in p_values]
    # whether they are rows or not
    assert find_pairs(mask, correct, **both, false_discovery_rate=threshold, over=0.5).significant == found.significant
    below = find_pairs(mask, correct, **both, false_discovery_rate=threshold - 1e-9).pairs
    assert not below["significant"].any()


def table_of(values, **columns):
    n = len(values)
    return pd.DataFrame({"train_index": np.arange(n), "label": 0, "memorization": values} | columns)


def test_of_samples_memorized_alike_the_first_are_removed():
    table = table_of([0.5, np.nan, 0.9, 0.5, 0.5, 0.1, 0.5])
    for fraction, first in ((1 / 7, [2]), (2 / 7, [0, 2]), (4 / 7, [0, 2, 3, 4]), (6 / 7, [0, 2, 3, 4, 5, 6])):
        named = removed(table, Without(what="top", fraction=fraction, random=False), None, seed=0)
        assert np.flatnonzero(named).tolist() == first
    many = table_of(np.arange(400) % 2 / 2)
    named = removed(many, Without(what="top", fraction=0.25, random=False), None, seed=0)
    assert np.flatnonzero(named).tolist() == list(range(1, 200, 2))


@pytest.mark.parametrize(
    ("n", "fraction", "count"), [(100, 0.575, 58), (100, 0.145, 14), (100, 0.285, 28), (50, 0.21, 10)]
)
def test_the_number_removed_is_that_of_the_decimal(n, fraction, count):
    table = table_of(np.linspace(0, 1, n))
    assert removed(table, Without(what="top", fraction=fraction, random=False), None, seed=0).sum() == count


def test_memorization_of_exactly_a_methods_threshold_is_not_over_it():
    table = table_of([0.15, 0.1500001, 0.1499999], atypical=False)
    assert atypical_for(table, None, but(BAT, threshold=0.15), seed=0).tolist() == [False, True, False]


def test_consistency_at_exactly_the_threshold_is_not_over_it():
    n = 200
    right = np.arange(n + 1)
    table = table_of(np.zeros(n + 1), p_out=right / n, atypical=False)
    for percent in range(1, 100):
        method = but(BAT, score="consistency", threshold=percent / 100)
        # 1 - right / n > percent / 100
        expected = 100 * (n - right) > percent * n
        np.testing.assert_array_equal(atypical_for(table, None, method, seed=0), expected)


def test_effects_of_equal_means_are_0_and_of_equal_models_have_no_variance():
    mask = np.array([[1, 1], [1, 1], [1, 0], [0, 1], [0, 0], [0, 0]], dtype=bool)
    # with the first sample 1, 4, 7 of 9 right; without it 3, 4, 5: the same mean
    table = effect_table(
        mask,
        {"clean": np.array([1, 4, 7, 3, 4, 5]), "robust": np.full(6, 7)},
        table_of([0.3, 0.4]),
        samples=9,
        false_discovery_rate=0.5,
    )
    assert list(table)[:7] == ["train_index", "label", "memorization", "models", "n_in", "n_out", "clean_effect"]
    assert table["clean_effect"].tolist() == [0, float(Fraction(8, 27) - Fraction(16, 27))]
    assert table["clean_p_value"][0] == 1
    assert table["robust_effect"].tolist() == table["robust_standard_error"].tolist() == [0, 0]
    assert table["robust_p_value"].isna().all()
    assert not table["robust_significant"].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_an_end_of_the_bootstrap_that_is_0_is_exactly_0(sign, monkeypatch):
    # two resamples with totals of -1 and 39: their 2.5 % quantile is 0, but 40 * ((1 - 0.95) / 2) a little more than 1
    drawn = np.ones((2, 1), dtype=int), np.array([[0, 1], [39, 0]])
    monkeypatch.setattr(statistics, "_resamples", lambda *sizes: drawn)
    ends = bootstrap_interval(sign * np.array([[1, -1]]), confidence=0.95, resamples=2, seed=0)
    assert ends[sign < 0] == 0
    assert str(ends[sign < 0]) == "0.0"
    assert abs(ends[sign > 0]) == 19


@pytest.mark.parametrize("gained", range(1, 50))
def test_paired_p_values_of_few_samples_are_exact(gained):
    assert paired_p_value(np.ones((1, gained), dtype=int)) == 2 * 0.5**gained
    # each sample counts twice, for two seeds
    assert paired_p_value(np.ones((2, gained), dtype=int)) == 2 * 0.5**gained


def test_paired_p_values_of_two_sizes_are_exact():
    # sums 2, 1, 1: 2 of 8 flips are as far from 0 as 4; sums 2, -1, 1 have the total 2: those of 4, and of 2
    assert paired_p_value(np.array([[1, 1, 1], [1, 0, 0]])) == 2 / 8
    assert paired_p_value(np.array([[1, -1, 1], [1, 0, 0]])) == 6 / 8


def test_a_p_value_of_exactly_the_level_names_a_difference():
    # McNemar's p-value of 6 against 0 is 1/32; twice that, by Holm, is 1/16
    rows = []
    for method, right in (("one", [True] * 6), ("other", [True] * 6), ("base", [False] * 6)):
        for index, correct in enumerate(right):
            row = {"method": method, "seed": 0, "checkpoint": "last", "test_index": index, "atypical": False}
            rows.append(row | dict.fromkeys(METRICS.values(), correct))
    questions = {"methods": [("one", "base"), ("other", "base")]}
    for confidence, verdict in ((15 / 16, HIGHER), (15 / 16 + 1e-6, "no difference shown after correction")):
        table = comparison_table(pd.DataFrame(rows), questions, confidence=confidence, bootstrap=50, seed=0)
        assert (table["p_value"] == 1 / 32).all()
        assert (table["p_holm"] == 1 / 16).all()
        assert (table["verdict"] == verdict).all()


def test_holm_of_equal_p_values_is_their_number_times_each():
    assert holm(np.array([0.0625, 0.25, 0.0625])).tolist() == [0.1875, 0.25, 0.1875]


def test_seeds_that_are_alike_do_not_deviate():
    # 1/10 three times has the mean 0.10000000000000002
    rows = [
        {"method": "one", "seed": seed, "checkpoint": "last", "test_index": index, "atypical": False}
        | dict.fromkeys(METRICS.values(), index == seed)
        for seed in range(3)
        for index in range(10)
    ]
    table = summary_table(pd.DataFrame(rows), confidence=0.95, bootstrap=10, seed=0)
    assert (table["seed_deviation"] == 0).all()


@pytest.mark.parametrize("total", [50, 100, 200, 700, 1000])
def test_a_milestone_is_met_at_its_step_exactly(total):
    for percent in range(1, 100):
        schedule = Steps(name="steps", warmup=0.0, milestones=(percent / 100,), factor=0.5)
        first = -(-percent * total // 100)
        assert [learning_rate_factor(schedule, done, total) for done in (first - 1, first)] == [1, 0.5]


@pytest.mark.parametrize("n", [20, 30, 100, 997, 1000])
def test_exactly_a_tenth_of_the_way_is_near_chance(n):
    met = 0
    for most in range(1, n):
        # 10 (right - most) <= n - most
        last = most + (n - most) // 10
        assert near_chance(last / n, most / n)
        assert not near_chance((last + 1) / n, most / n)
        met += (n - most) % 10 == 0
    assert met


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-25, 1e-36])
def test_weights_move_as_far_by_a_tiny_gradient_as_by_any_other(size):
    weight, gradient = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.6, -0.8]])
    with perturbed([weight], [gradient * size], gamma=0.1):
        torch.testing.assert_close(weight, torch.tensor([[3.3, 3.6]]))
    assert torch.equal(weight, torch.tensor([[3.0, 4.0]]))


def test_weights_of_any_norm_stay_where_they_are_without_a_gradient():
    weight = torch.full((10, 10), 1e6)
    with perturbed([weight], [torch.zeros_like(weight)], gamma=1.0):
        assert (weight == 1e6).all()
