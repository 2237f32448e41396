import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from influences import find_pairs
from scipy.stats import norm, t, ttest_ind

from bat.scores.estimators import (
    FoundPairs,
    Rates,
    error_column,
    fit_text,
    found_pairs,
    group_table,
    influence_means,
    influence_rates,
    mean_table,
    memorization_means,
    memorization_rates,
    memorization_scores,
    memorization_table,
    null_pairs_row,
    over_threshold,
    score_column,
    shuffled,
    taken_for,
)
from bat.scores.subsets import subset_masks
from bat.seeds import derive_seed
from bat.statistics import greater_p_value, newcombe, standard_error

DESIGNS = ["balanced", "independent"]


@st.composite
def outcomes(draw):
    """Return (mask, correct on training samples, correct on targets, counted) of a few models."""
    models, n, targets = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    mask, train = (draw(arrays(bool, (models, n))) for _ in range(2))
    test, counted = (draw(arrays(bool, (models, targets))) for _ in range(2))
    return mask, train, test, counted


def tally(inside, right, counts):
    """Count one pair, model by model: (correct_in, n_in, correct_out, n_out)."""
    result = [0, 0, 0, 0]
    for k in range(len(inside)):
        if counts[k]:
            side = 0 if inside[k] else 2
            result[side] += int(right[k])
            result[side + 1] += 1
    return result


def difference(correct_in, n_in, correct_out, n_out):
    return correct_in / n_in - correct_out / n_out if n_in and n_out else math.nan


def brute_rates(mask, correct, counted):
    """The four counts (4, n, targets) by loops over training samples, targets and models."""
    pairs = [
        [tally(mask[:, i], correct[:, j], counted[:, j]) for j in range(correct.shape[1])] for i in range(mask.shape[1])
    ]
    return np.moveaxis(np.array(pairs), 2, 0)


@given(outcomes())
def test_memorization_counts_equal_a_double_loop(case):
    mask, correct, _, _ = case
    rates = memorization_rates(mask, correct)
    expected = [tally(mask[:, i], correct[:, i], np.ones(len(mask))) for i in range(mask.shape[1])]
    np.testing.assert_array_equal(np.transpose(rates), expected)
    np.testing.assert_allclose(rates.difference, [difference(*row) for row in expected], atol=1e-12, rtol=0)


@given(outcomes(), st.booleans())
def test_influence_counts_equal_a_triple_loop(case, count_all):
    mask, _, correct, counted = case
    rates = influence_rates(mask, correct) if count_all else influence_rates(mask, correct, counted)
    expected = brute_rates(mask, correct, np.ones_like(correct) if count_all else counted)
    np.testing.assert_array_equal(np.stack(rates), expected)
    differences = [[difference(*pair) for pair in row] for row in np.moveaxis(expected, 0, 2)]
    np.testing.assert_allclose(rates.difference, differences, atol=1e-12, rtol=0)


def masked_average(x, mask):
    return (x * mask).sum(0) / np.maximum(mask.sum(0), 1e-10)


def masked_dot(x, mask):
    return x @ mask / np.maximum(mask.sum(0, keepdims=True), 1e-10)


@given(outcomes())
def test_estimates_equal_those_of_feldman_and_zhangs_mnist_example(case):
    # their formulas, in float64; where a count is 0 they have a proportion of 0, and we nothing
    mask, train, test, _ = (part.astype(np.float64) for part in case)
    known = (mask.sum(0) > 0) & (mask.sum(0) < len(mask))
    memorization = masked_average(train, mask) - masked_average(train, 1 - mask)
    influence = masked_dot(test.T, mask) - masked_dot(test.T, 1 - mask)
    ours = memorization_rates(case[0], case[1]).difference, influence_rates(case[0], case[2]).difference
    np.testing.assert_allclose(ours[0][known], memorization[known], atol=1e-12, rtol=0)
    np.testing.assert_allclose(ours[1][known], influence.T[known], atol=1e-12, rtol=0)
    assert np.isnan(ours[0][~known]).all()
    assert np.isnan(ours[1][~known]).all()


@given(outcomes(), st.integers(0, 12))
def test_rates_of_all_models_are_the_sums_over_batches_of_models(case, cut):
    mask, train, test, counted = case
    for rates, arguments in ((memorization_rates, (mask, train)), (influence_rates, (mask, test, counted))):
        whole = rates(*arguments)
        first, second = (rates(*(array[part] for array in arguments)) for part in (slice(cut), slice(cut, None)))
        merged = Rates(*(a + b for a, b in zip(first, second, strict=True)))
        np.testing.assert_array_equal(np.stack(merged), np.stack(whole))


@st.composite
def plans(draw):
    samples = draw(st.integers(1, 30))
    return samples, draw(st.integers(0, samples)), draw(st.integers(0, 2**40))


@given(plans(), st.sampled_from(DESIGNS), st.integers(0, 25), st.integers(0, 6))
def test_subsets_have_their_size_and_depend_on_seed_and_model_alone(plan, design, first, count):
    samples, size, seed = plan
    window = subset_masks(samples, size, design=design, seed=seed, first=first, count=count)
    assert window.shape == (count, samples)
    assert window.dtype == bool
    assert (window.sum(1) == size).all()
    everything = subset_masks(samples, size, design=design, seed=seed, first=0, count=first + count)
    np.testing.assert_array_equal(window, everything[first:])


@given(plans(), st.integers(1, 40))
def test_balanced_subsets_leave_samples_out_equally_often_after_each_model(plan, models):
    samples, size, seed = plan
    masks = subset_masks(samples, size, design="balanced", seed=seed, first=0, count=models)
    left_out = (~masks).cumsum(0)
    assert (left_out.max(1) - left_out.min(1)).max() <= 1


@pytest.mark.parametrize("size", [7, 8])
def test_the_subsets_of_a_seed_stay_what_they_are(size):
    """Shards that were made before, and those of other machines, have the same; here with Python's lists."""
    out, line, number = 10 - size, [], 0
    independent = ~subset_masks(10, size, design="independent", seed=4, first=3, count=27)
    balanced = ~subset_masks(10, size, design="balanced", seed=4, first=3, count=27)
    for model in range(30):
        if len(line) < out:
            fresh = np.random.default_rng(derive_seed(4, "order", number)).permutation(10).tolist()
            first = [sample for sample in fresh if sample not in line][: out - len(line)]
            line, number = line + first + [sample for sample in fresh if sample not in first], number + 1
        alone = np.random.default_rng(derive_seed(4, "subset", model)).permutation(10).tolist()
        if model >= 3:
            assert np.flatnonzero(independent[model - 3]).tolist() == sorted(alone[:out])
            assert np.flatnonzero(balanced[model - 3]).tolist() == sorted(line[:out])
        line = line[out:]


@pytest.mark.parametrize("design", DESIGNS)
def test_subsets_of_other_seeds_and_models_differ(design):
    masks = np.stack([subset_masks(50, 35, design=design, seed=s, first=0, count=20) for s in range(3)])
    assert len(np.unique(masks.reshape(-1, 50), axis=0)) == 60


@pytest.mark.parametrize("design", DESIGNS)
def test_subsets_leave_out_all_samples_and_pairs_alike(design):
    samples, size, models = 10, 7, 4000
    out = ~subset_masks(samples, size, design=design, seed=1, first=0, count=models)
    together = out.T.astype(int) @ out / models
    pairs = together[~np.eye(samples, dtype=bool)]
    assert together.diagonal() == pytest.approx(0.3, abs=0.04)
    # 3 of 10 without replacement; the standard error is 0.004
    assert pairs == pytest.approx(0.3 * 2 / 9, abs=0.02)


def example(models=40, n=30, targets=25, classes=3, seed=0):
    random = np.random.default_rng(seed)
    mask = random.random((models, n)) < 0.7
    # correct more often where the same-numbered training sample was in the subset, so that there is something to find
    chance = 0.3 + 0.6 * mask[:, np.arange(targets) % n]
    correct = random.random((models, targets)) < chance
    return {
        "mask": mask,
        "correct": correct,
        "train_index": 100 + np.arange(n),
        "train_labels": np.arange(n) % classes,
        "target_index": 500 + np.arange(targets),
        "target_labels": np.arange(targets) % classes,
    }


def test_memorization_table_has_each_samples_estimate_and_uncertainty():
    case = example(targets=30)
    table = memorization_table(case["mask"], case["correct"], case["correct"].astype(np.float16), confidence=0.9)
    for i, row in enumerate(table.itertuples()):
        counts = tally(case["mask"][:, i], case["correct"][:, i], np.ones(40))
        single = tuple(np.array([count]) for count in counts)
        low, high = newcombe(*single, confidence=0.9)
        assert (row.n_in, row.n_out) == (counts[1], counts[3])
        assert (row.p_in, row.p_out) == pytest.approx((counts[0] / counts[1], counts[2] / counts[3]))
        assert row.memorization == pytest.approx(difference(*counts), abs=1e-12)
        assert row.standard_error == pytest.approx(standard_error(*single)[0])
        assert (row.ci_low, row.ci_high) == pytest.approx((low[0], high[0]))


def test_a_sample_that_was_never_left_out_or_never_in_has_no_score_but_its_counts():
    mask = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 0, 0]], dtype=bool)
    correct = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
    table = memorization_table(mask, correct, correct.astype(np.float16), confidence=0.95)
    assert table["n_in"].tolist() == [4, 0, 2]
    assert table["n_out"].tolist() == [0, 4, 2]
    assert table["memorization"].isna().tolist() == [True, True, False]
    uncertain = ["standard_error", "ci_low", "ci_high", "soft_standard_error", "soft_ci_low", "soft_ci_high"]
    assert table.loc[:1, uncertain].isna().all(axis=None)
    assert table["soft_memorization"].isna().tolist() == [True, True, False]
    assert table["p_in"].tolist() == pytest.approx([0.75, math.nan, 1.0], nan_ok=True)
    assert table["p_out"].tolist() == pytest.approx([math.nan, 0.75, 0.0], nan_ok=True)


def test_scores_by_default_have_95_percent_intervals():
    random = np.random.default_rng(0)
    arrays = random.random((40, 5)) < 0.7, random.random((40, 5)) < 0.5
    pd.testing.assert_frame_equal(memorization_scores(*arrays), memorization_scores(*arrays, confidence=0.95))


@pytest.mark.parametrize(
    ("mask", "correct", "found"),
    [
        (np.ones(3, bool), np.ones(3, bool), "mask is bool of shape (3,), correct bool of shape (3,)"),
        (np.ones((2, 3), bool), np.ones((3, 2), bool), "mask is bool of shape (2, 3), correct bool of shape (3, 2)"),
        (np.ones((2, 3)), np.ones((2, 3), bool), "mask is float64 of shape (2, 3), correct bool of shape (2, 3)"),
        (np.ones((2, 3), bool), np.ones((2, 3)), "mask is bool of shape (2, 3), correct float64 of shape (2, 3)"),
    ],
)
def test_scores_of_other_arrays_are_refused(mask, correct, found):
    with pytest.raises(ValueError, match=re.escape(f"{found}: give bool arrays of one shape (models, n)")):
        memorization_scores(mask, correct)


@pytest.mark.parametrize("confidence", [95, 1.0, 0, -1, float("nan")])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match=re.escape(f"confidence is {confidence}: give a number between 0 and 1")):
        memorization_scores(np.ones((2, 3), bool), np.ones((2, 3), bool), confidence=confidence)


@pytest.mark.parametrize("place", [0, 1])
def test_the_gaps_of_a_masked_array_are_not_counted_as_answers(place):
    arrays = [np.ones((2, 3), bool), np.ones((2, 3), bool)]
    arrays[place] = np.ma.masked_array(arrays[place], mask=np.eye(2, 3))
    with pytest.raises(ValueError, match="a masked array, whose gaps would count"):
        memorization_scores(*arrays)


def test_samples_that_most_models_trained_on_them_get_wrong_are_counted():
    table = pd.DataFrame({"p_in": [1.0, 0.5, 0.49, 0.0, np.nan], "p_out": [1.0, 0.0, 0.0, 0.0, 1.0]})
    assert fit_text(table) == (
        "subset models are right on 49.8% of what they were trained on and on 25.0% of what they were not; 2 training "
        "samples are wrong in most models trained on them, which hides their memorization: raise "
        "memorization.recipe.epochs"
    )
    assert fit_text(table[:2]).endswith("; 0 training samples are wrong in most models trained on them")
    assert fit_text(table[4:]) is None


def test_negative_memorization_is_not_clipped():
    mask = np.array([[True], [False]])
    table = memorization_table(mask, ~mask, (~mask).astype(np.float16), confidence=0.95)
    assert table["memorization"].tolist() == table["soft_memorization"].tolist() == [-1.0]


def benjamini_hochberg(p_values, level):
    """Reject the k smallest p-values for the largest k with p_(k) <= k / m * level (Benjamini and Hochberg 1995)."""
    p_values = np.asarray(p_values)
    order = np.argsort(p_values, kind="stable")
    rejected = np.zeros(len(p_values), dtype=bool)
    for k in range(len(order), 0, -1):
        if p_values[order[k - 1]] <= k / len(order) * level:
            rejected[order[:k]] = True
            break
    return rejected


def brute_table(case, counted=None):
    """Rows of ``influence_table`` without its verdict, by loops: {(train_index, target_index): values}."""
    rows = {}
    everyone = np.ones(len(case["mask"]))
    for i, source in enumerate(case["train_index"]):
        for j, target in enumerate(case["target_index"]):
            if case["train_labels"][i] != case["target_labels"][j] or (counted is not None and source == target):
                continue
            models = everyone if counted is None else counted[:, j]
            counts = tally(case["mask"][:, i], case["correct"][:, j], models)
            single = tuple(np.array([count]) for count in counts)
            rows[source, target] = (
                case["train_labels"][i],
                difference(*counts),
                standard_error(*single)[0],
                greater_p_value(*single)[0],
            )
    return rows


def own_targets(seed):
    """Targets that are training samples themselves, and the models not trained on them."""
    case = example(seed=seed)
    targets = slice(5, 20)
    case |= {"target_index": case["train_index"][targets], "target_labels": case["train_labels"][targets]}
    case["correct"] = case["correct"][:, :15]
    # one sample is in each subset and one in none, so that some pair has nothing to compare
    case["mask"][:, 8], case["mask"][:, 11] = True, False
    return case, ~case["mask"][:, targets]


@pytest.mark.parametrize("level", [0.01, 0.05, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("own", [False, True], ids=["others", "own"])
def test_influence_table_equals_loops_and_a_brute_force_benjamini_hochberg(own, seed, level):
    case, counted = own_targets(seed) if own else (example(seed=seed), None)
    found = find_pairs(**case, counted=counted, false_discovery_rate=level)
    table, every = found.pairs, brute_table(case, counted)
    assert found.tests == len(every)
    expected = {key: row for key, row in every.items() if not math.isnan(row[1])}
    assert (len(expected) < len(every)) == own  # the case of own targets has pairs without a test
    keys = list(zip(table["train_index"], table["target_index"], strict=True))
    assert sorted(keys) == sorted(expected)
    columns = ["label", "influence", "standard_error", "p_value"]
    np.testing.assert_allclose(table[columns], [expected[key] for key in keys], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(table["significant"], benjamini_hochberg(table["p_value"], level))


def test_the_examples_have_pairs_that_are_significant_and_pairs_that_are_not():
    for case, counted in ((example(), None), own_targets(0)):
        verdict = find_pairs(**case, counted=counted, false_discovery_rate=0.7).pairs["significant"]
        assert 0 < verdict.sum() < len(verdict)


def test_indices_of_another_split_are_not_taken_for_the_sample_itself():
    case = example(n=2, targets=2, classes=1)
    case["target_index"] = case["train_index"]
    assert find_pairs(**case, false_discovery_rate=0.1).tests == 4


def test_without_atypical_samples_there_are_no_pairs_and_no_atypical_targets():
    case = example(n=0, targets=0) | {
        "correct": np.ones((40, 3), dtype=bool),
        "target_index": np.array([4, 6, 9]),
        "target_labels": np.array([0, 1, 1]),
    }
    found = find_pairs(**case, false_discovery_rate=0.1)
    assert (len(found.pairs), found.tests, found.significant) == (0, 0, (0, 0))
    some = find_pairs(**example(), false_discovery_rate=0.1).pairs
    pd.testing.assert_series_equal(found.pairs.dtypes, some.dtypes)
    assert (some.dtypes[["train_index", "target_index", "label"]] == np.int64).all()
    scores = pd.DataFrame({"train_index": [], "memorization": []})
    groups = group_table(found, case["target_index"], case["target_labels"], scores, threshold=0.1)
    assert groups["target_index"].tolist() == [4, 6, 9]
    assert groups["label"].tolist() == [0, 1, 1]
    assert groups[["max_influence", "max_influence_train_index", "memorization"]].isna().all(axis=None)
    assert not groups["atypical"].any()


def pair(train, target, influence, significant):
    return {"train_index": train, "target_index": target, "influence": influence, "significant": significant}


SCORES = pd.DataFrame({"train_index": [9, 2, 1, 3], "memorization": [0.9, 0.2, 0.1, 0.3]})


def groups_of(pairs, targets, threshold=0.15):
    table = pd.DataFrame([pair(*row) for row in pairs])
    labels = np.zeros(len(targets), int)
    groups = group_table(found_pairs(table), np.array(targets), labels, SCORES, threshold=threshold)
    return groups.set_index("target_index")


@pytest.mark.parametrize(
    ("pairs", "atypical"),
    [
        ([(1, 7, 0.5, True)], True),
        ([(1, 7, 0.5, False)], False),
        ([(1, 7, 0.1, True)], False),
        ([(1, 7, 0.15, True)], False),
        ([(1, 7, 0.5, False), (2, 7, 0.1, True)], False),
        ([(1, 7, 0.5, False), (2, 7, 0.2, True)], True),
        ([(1, 8, 0.5, True), (2, 7, 0.1, True)], False),
    ],
)
def test_a_target_is_atypical_only_by_one_pair_that_is_significant_and_over_the_threshold(pairs, atypical):
    assert groups_of(pairs, [7])["atypical"].tolist() == [atypical]


def test_max_influence_is_that_of_the_strongest_pair_and_missing_without_one():
    pairs = [(3, 7, -0.2, False), (2, 7, 0.4, True), (9, 7, 0.3, True), (9, 8, -0.5, False), (2, 8, -0.1, False)]
    groups = groups_of(pairs, [8, 6, 7])
    assert groups.index.tolist() == [8, 6, 7]
    assert groups["max_influence"].tolist() == pytest.approx([-0.1, math.nan, 0.4], nan_ok=True)
    assert groups["max_influence_train_index"].tolist() == pytest.approx([2, math.nan, 2], nan_ok=True)
    assert groups["memorization"].tolist() == pytest.approx([0.2, math.nan, 0.2], nan_ok=True)


@pytest.mark.parametrize("soft", [False, True])
def test_the_test_that_is_asked_for_makes_a_target_atypical_and_that_of_the_other_stands_beside(soft):
    verdicts = {"significant": [True, False, False], "soft_significant": [False, True, False]}
    table = pd.DataFrame({"train_index": 1, "target_index": [7, 8, 9], "influence": 0.5} | verdicts)
    found = FoundPairs(table, found_pairs(table).strongest, 3, (1, 1))
    scores = SCORES.assign(soft_memorization=SCORES["memorization"] / 2)
    groups = group_table(found, np.array([7, 8, 9]), np.zeros(3, int), scores, threshold=0.15, soft=soft)
    assert groups["hard_atypical"].tolist() == [True, False, False]
    assert groups["soft_atypical"].tolist() == [False, True, False]
    assert groups["atypical"].tolist() == groups[f"{'soft' if soft else 'hard'}_atypical"].tolist()
    memorized = scores.set_index("train_index").loc[1, "soft_memorization" if soft else "memorization"]
    assert groups["memorization"].tolist() == [memorized] * 3


def test_a_pair_without_an_estimate_does_not_hide_the_strongest():
    groups = groups_of([(1, 7, 0.4, True), (2, 7, math.nan, False)], [7])
    assert groups["max_influence"].tolist() == [0.4]
    assert groups["max_influence_train_index"].tolist() == [1]


def test_group_table_equals_loops_over_an_influence_table():
    case = example()
    case["target_labels"] = np.where(case["target_labels"] == 2, 9, case["target_labels"])  # a class without sources
    found = find_pairs(**case, false_discovery_rate=0.5)
    pairs = found.pairs
    scores = pd.DataFrame({"train_index": case["train_index"], "memorization": np.arange(len(case["train_index"])) / 7})
    groups = group_table(found, case["target_index"], case["target_labels"], scores, threshold=0.35)
    for j, row in enumerate(groups.itertuples()):
        mine = [p for p in pairs.itertuples() if p.target_index == row.target_index]
        assert row.target_index == case["target_index"][j]
        assert row.label == case["target_labels"][j]
        assert row.atypical == any(p.significant and p.influence > 0.35 for p in mine)
        if mine:
            strongest = {p.train_index: p.influence for p in mine}
            assert row.max_influence == max(strongest.values())
            assert strongest[row.max_influence_train_index] == row.max_influence
        else:
            assert row.label == 9
            assert np.isnan(row.max_influence)
    assert 0 < groups["atypical"].sum() < len(groups)


def planted(models=400, n=40, targets=20, seed=0):
    """A world in which target j is right with chance 0.2, or 0.8 with its one source in the subset."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    source = np.array([random.choice(np.flatnonzero(labels == j % 2)) for j in range(targets)])
    mask = subset_masks(n, 28, design="balanced", seed=seed, first=0, count=models)
    correct = random.random((models, targets)) < np.where(mask[:, source], 0.8, 0.2)
    case = {
        "mask": mask,
        "correct": correct,
        "train_index": np.arange(n),
        "train_labels": labels,
        "target_index": np.arange(targets),
        "target_labels": np.arange(targets) % 2,
    }
    return case, {(int(i), j) for j, i in enumerate(source)}


def found(table):
    strong = table[table["significant"] & (table["influence"] > 0.15)]
    return set(zip(strong["train_index"], strong["target_index"], strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_planted_influence_is_found_and_nothing_else(seed):
    case, truth = planted(seed=seed)
    table = find_pairs(**case, false_discovery_rate=0.05).pairs
    assert len(table) == 400
    assert truth <= found(table)
    assert len(found(table) - truth) <= 2
    rows = table[[pair in truth for pair in zip(table["train_index"], table["target_index"], strict=True)]]
    # (0.16 / 280 + 0.16 / 120) ** 0.5 = 0.044 is the standard error
    np.testing.assert_allclose(rows["influence"], 0.6, atol=0.2)
    assert rows["influence"].mean() == pytest.approx(0.6, abs=0.04)
    assert rows["standard_error"].mean() == pytest.approx(0.044, abs=0.004)


def test_without_influence_next_to_nothing_is_found():
    discoveries = []
    for seed in range(10):
        case, _ = planted(seed=seed)
        # each model gets the subset of another: its results no longer tell of the mask
        case["mask"] = np.random.default_rng(seed).permutation(case["mask"])
        discoveries.append(len(found(find_pairs(**case, false_discovery_rate=0.05).pairs)))
    # a world without any influence has a discovery with probability 0.05 (that is what the procedure controls)
    assert sum(count > 0 for count in discoveries) <= 2
    assert sum(discoveries) <= 4


@st.composite
def probabilities(draw):
    """Return (mask, probabilities, counted) of a few models, many of them equal, and of one target each."""
    models, n = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    mask, counted = (draw(arrays(bool, (models, n))) for _ in range(2))
    values = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, width=16))
    return mask, draw(arrays(np.float16, (models, n), elements=values)), counted


def side(values):
    """Sum, sum of squares and number, by a loop over Python's floats."""
    values = [float(value) for value in values]
    return sum(values), sum(value**2 for value in values), len(values)


@given(probabilities())
def test_soft_sums_equal_loops(case):
    mask, p, counted = case
    own, pairs = memorization_means(mask, p), influence_means(mask, p, counted)
    every = influence_means(mask, p)
    for i in range(mask.shape[1]):
        expected = *side(p[mask[:, i], i]), *side(p[~mask[:, i], i])
        np.testing.assert_allclose([values[i] for values in own], expected, atol=1e-12, rtol=0)
        for j in range(mask.shape[1]):
            expected = *side(p[mask[:, i], j]), *side(p[~mask[:, i], j])
            np.testing.assert_allclose([values[i, j] for values in every], expected, atol=1e-12, rtol=0)
            inside, outside = (p[counted[:, j] & (mask[:, i] == has), j] for has in (True, False))
            expected = *side(inside), *side(outside)
            np.testing.assert_allclose([values[i, j] for values in pairs], expected, atol=1e-12, rtol=0)


def soft_example(seed=0):
    case = example(targets=30, seed=seed)
    random = np.random.default_rng(seed)
    p = np.clip(case["correct"] * 0.5 + random.random(case["correct"].shape) / 2, 0, 1).astype(np.float16)
    return case, p


def ends_by_hand(p, z):
    """Return where (mean - m)^2 = z^2 d m (1 - m) / n, d the share of the largest variance that there is."""
    n, mean = len(p), p.mean()
    d = min(1, (n * p.var(ddof=1) + 0.25) / (n * mean * (1 - mean) + 0.25))
    k = z**2 * d / n
    return mean, *np.sort(np.roots([1 + k, -2 * mean - k, mean**2]).real)


@pytest.mark.parametrize("seed", range(3))
def test_soft_memorization_has_welchs_standard_error_and_an_interval_of_two_scaled_score_intervals(seed):
    case, p = soft_example(seed)
    table = memorization_table(case["mask"], case["correct"], p, confidence=0.9)
    for i, row in enumerate(table.itertuples()):
        inside, outside = (p[case["mask"][:, i] == has, i].astype(float) for has in (True, False))
        test = ttest_ind(inside, outside, equal_var=False)
        low, high = test.confidence_interval(0.9)
        assert row.soft_p_in == pytest.approx(inside.mean(), abs=1e-12)
        assert row.soft_p_out == pytest.approx(outside.mean(), abs=1e-12)
        assert row.soft_memorization == pytest.approx(inside.mean() - outside.mean(), abs=1e-12)
        assert row.soft_standard_error == pytest.approx((high - low) / 2 / t.ppf(0.95, test.df), abs=1e-12)
        (m_1, low_1, high_1), (m_2, low_2, high_2) = (ends_by_hand(side, norm.ppf(0.95)) for side in (inside, outside))
        assert row.soft_ci_low == pytest.approx(m_1 - m_2 - np.hypot(m_1 - low_1, high_2 - m_2), abs=1e-12)
        assert row.soft_ci_high == pytest.approx(m_1 - m_2 + np.hypot(high_1 - m_1, m_2 - low_2), abs=1e-12)


def test_soft_intervals_of_right_and_wrong_are_those_of_the_hard_score():
    case = example(targets=30, seed=0)
    table = memorization_table(case["mask"], case["correct"], case["correct"].astype(np.float16), confidence=0.95)
    for end in ("ci_low", "ci_high"):
        np.testing.assert_allclose(table[f"soft_{end}"], table[end], atol=1e-12, rtol=0)


@given(probabilities())
def test_soft_intervals_hold_the_score_and_have_a_width_wherever_two_models_are_on_each_side(case):
    mask, p, _ = case
    means = memorization_means(mask, p)
    low, high = means.interval(confidence=0.95)
    known = (means.n_in > 1) & (means.n_out > 1)
    assert np.isnan([low[~known], high[~known]]).all()
    low, high, difference = low[known], high[known], means.difference[known]
    assert (low <= difference + 1e-12).all()
    assert (difference <= high + 1e-12).all()
    assert (high - low > 0.01).all()
    assert (low >= -1 - 1e-12).all()
    assert (high <= 1 + 1e-12).all()


@pytest.mark.parametrize("models", [50, 400])
@pytest.mark.parametrize("rare", [0.004, 0.02, 0.1, 0.4])
def test_soft_intervals_hold_what_models_are_rarely_unsure_of(models, rare):
    """Probabilities of 0.99 to 1, but in some models far lower: those seen often all agree."""
    random = np.random.default_rng(derive_seed(0, models, int(1000 * rare)))
    mask = np.zeros((models, 4000), dtype=bool)
    mask[: models // 2] = True
    unsure = random.random(mask.shape) < np.where(mask, 0.001, rare)
    p = np.where(unsure, random.beta(1, 2, mask.shape), random.uniform(0.99, 1, mask.shape))
    truth = (rare - 0.001) * (0.995 - 1 / 3)
    low, high = memorization_means(mask, p.astype(np.float16)).interval(confidence=0.95)
    assert ((low <= truth) & (truth <= high)).mean() > 0.94


@pytest.mark.parametrize("own", [False, True], ids=["others", "own"])
@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.7])
def test_soft_influence_equals_scipys_welch_test_and_a_brute_force_benjamini_hochberg(own, level):
    case, p = soft_example()
    counted = None
    if own:
        case, counted = own_targets(0)
        p = p[:, :15]
    found = find_pairs(**case, counted=counted, probability=p, false_discovery_rate=level)
    table = found.pairs
    for row in table.itertuples():
        i = int(np.flatnonzero(case["train_index"] == row.train_index)[0])
        j = int(np.flatnonzero(case["target_index"] == row.target_index)[0])
        counts = np.ones(40, dtype=bool) if counted is None else counted[:, j]
        inside, outside = (p[counts & (case["mask"][:, i] == has), j].astype(float) for has in (True, False))
        assert row.soft_influence == pytest.approx(inside.mean() - outside.mean(), abs=1e-12)
        test = ttest_ind(inside, outside, equal_var=False, alternative="greater")
        # a p-value of at least a half is looked up only where it could be significant, or for a row
        assert row.soft_p_value == pytest.approx(test.pvalue, abs=1e-12, nan_ok=True)
    known = table["soft_p_value"].notna().to_numpy()
    rejected = benjamini_hochberg(table.loc[known, "soft_p_value"], level)
    np.testing.assert_array_equal(table.loc[known, "soft_significant"], rejected)
    assert found.significant == (table["significant"].sum(), table["soft_significant"].sum())
    assert level < 0.7 or 0 < rejected.sum() < len(table)


def test_only_pairs_over_the_threshold_are_rows_but_all_are_tested():
    case, p = soft_example()
    every = find_pairs(**case, probability=p, false_discovery_rate=0.3)
    some = find_pairs(**case, probability=p, false_discovery_rate=0.3, over=0.25)
    assert some[2:] == every[2:]
    pd.testing.assert_frame_equal(some.strongest, every.strongest)
    expected = every.pairs[every.pairs["influence"] > 0.25].reset_index(drop=True)
    assert 0 < len(expected) < len(every.pairs)
    pd.testing.assert_frame_equal(some.pairs, expected)


def test_a_pair_of_exactly_the_threshold_is_no_row():
    case, p = soft_example()
    every = find_pairs(**case, probability=p, false_discovery_rate=0.3).pairs
    exactly = every["influence"].median()
    some = find_pairs(**case, probability=p, false_discovery_rate=0.3, over=exactly).pairs
    assert (every["influence"] == exactly).any()
    assert len(some) == (every["influence"] > exactly).sum()


@pytest.mark.parametrize("own", [False, True], ids=["others", "own"])
@pytest.mark.parametrize("most", [1, 20])
def test_pairs_are_the_same_in_pieces(own, most, monkeypatch):
    case, p = soft_example()
    counted = None
    if own:
        case, counted = own_targets(0)
        p = p[:, :15]
    settings = {"probability": p, "counted": counted, "false_discovery_rate": 0.3}
    whole = find_pairs(**case, **settings)
    monkeypatch.setattr("bat.scores.estimators._PAIRS", most)
    pieces = find_pairs(**case, **settings)
    pd.testing.assert_frame_equal(pieces.pairs, whole.pairs)
    pd.testing.assert_frame_equal(pieces.strongest.sort_index(), whole.strongest.sort_index())
    assert pieces[2:] == whole[2:]


def test_models_that_all_say_the_same_are_no_evidence_and_models_that_differ_without_fail_are():
    mask = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], dtype=bool)
    p = np.array([[1, 0.5], [1, 0.5], [0, 0.5], [0, 0.5]], dtype=np.float16)
    case = {
        "mask": mask,
        "correct": p > 0.5,
        "train_index": np.arange(1),
        "train_labels": np.zeros(1, int),
        "target_index": np.arange(2),
        "target_labels": np.zeros(2, int),
    }
    table = find_pairs(**case | {"mask": mask[:, :1]}, probability=p, false_discovery_rate=0.6).pairs
    assert table["soft_influence"].tolist() == [1, 0]
    assert table["soft_standard_error"].tolist() == [0, 0]
    assert table["soft_p_value"].tolist() == [0, 1]


def test_a_target_whose_pairs_all_lack_an_estimate_has_no_strongest():
    case, counted = own_targets(0)
    counted[:, 3] = False
    found = find_pairs(**case, counted=counted, false_discovery_rate=0.3)
    assert case["target_index"][3] not in found.strongest.index
    every = found.pairs.dropna(subset="influence")
    assert set(found.strongest.index) == set(every["target_index"])
    pd.testing.assert_series_equal(
        found.strongest["influence"].sort_index(), every.groupby("target_index")["influence"].max(), check_names=False
    )


def test_pairs_of_a_file_are_found_as_they_stand_there():
    pairs = find_pairs(**example(), false_discovery_rate=0.7).pairs
    found = found_pairs(pairs)
    assert (found.tests, found.significant) == (len(pairs), (pairs["significant"].sum(), 0))
    assert found.pairs["soft_significant"].eq(False).all()
    pd.testing.assert_frame_equal(found.pairs.drop(columns="soft_significant"), pairs.drop(columns="soft_significant"))


def test_shuffles_begin_with_the_order_itself_and_follow_the_seed():
    first, *others = shuffled(50, 3, seed=4)
    assert first.tolist() == list(range(50))
    expected = [np.random.default_rng(derive_seed(4, "null", number)).permutation(50) for number in (1, 2, 3)]
    np.testing.assert_array_equal(others, expected)


def test_pairs_by_chance_are_counted_by_each_test():
    hard, soft = [True, True, False, True], [False, False, True, False]
    pairs = pd.DataFrame({"target_index": [7, 7, 8, 9], "significant": hard, "soft_significant": soft})
    counts = {"significant": 12, "found": 3, "targets": 2, "soft_significant": 5, "soft_found": 1, "soft_targets": 1}
    row = null_pairs_row(FoundPairs(pairs, pd.DataFrame(), tests=40, significant=(12, 5)))
    assert row == {"pairs": 40, "over_threshold": 4} | counts


@pytest.mark.parametrize("score", ["hard", "soft"])
def test_a_score_of_exactly_the_threshold_is_not_over_it(score):
    table = pd.DataFrame({"memorization": [0.1, 0.15, 0.2], "soft_memorization": [0.2, 0.15, 0.1]})
    assert over_threshold(table, score, 0.15).tolist() == [score == "soft", False, score == "hard"]
    assert [score_column(score), error_column(score)] == [
        "soft_" * (score == "soft") + name for name in ("memorization", "standard_error")
    ]


def test_means_over_all_models():
    random = np.random.default_rng(0)
    correct, p = random.random((30, 4)) < 0.5, random.random((30, 4)).astype(np.float16)
    table = mean_table(correct, p)
    assert table["accuracy"].tolist() == pytest.approx([column.sum() / 30 for column in correct.T])
    assert table["soft_accuracy"].tolist() == pytest.approx([sum(map(float, column)) / 30 for column in p.T], abs=1e-12)


@given(st.data())
def test_what_samples_are_taken_for_equals_loops(data):
    models, n, classes = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    predicted = data.draw(arrays(np.uint8, (models, n), elements=st.integers(0, classes)))
    counted = data.draw(st.one_of(st.none(), arrays(bool, (models, n))))
    table = taken_for(predicted, counted, classes)
    assert table.dtypes.astype(str).tolist() == ["Int64", "float64", "float64"]
    for i, row in enumerate(table.itertuples(index=False)):
        said = [int(predicted[k, i]) for k in range(models) if counted is None or counted[k, i]]
        if not said:
            assert all(pd.isna(value) for value in row)
            continue
        numbers = [said.count(label) for label in range(classes + 1)]
        most = max(range(classes), key=lambda label: (numbers[label], -label))
        assert row.taken_for == most
        assert row.taken_for_share == pytest.approx(numbers[most] / len(said), abs=1e-12)
        shares = [number / len(said) for number in numbers if number]
        assert row.entropy == pytest.approx(-sum(share * math.log(share) for share in shares), abs=1e-12)
        assert not (row.entropy == 0 and math.copysign(1, row.entropy) < 0)
