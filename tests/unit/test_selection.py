"""Which samples a run leaves out or takes for atypical, and what having a sample does to models."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, PGD_AT, but
from scipy.stats import ttest_ind

from bat.config import Removal, Without, removal_pairs, removal_runs
from bat.memorization import effect_table
from bat.selection import atypical_for, harmful_table, removed


def scores(n=60, seed=0):
    random = np.random.default_rng(seed)
    memorization = np.where(random.random(n) < 0.1, np.nan, random.uniform(-0.1, 1, n))
    return pd.DataFrame(
        {
            "train_index": random.permutation(1000)[:n],
            "label": random.integers(0, 4, n),
            "memorization": memorization,
            "p_out": random.random(n),
            "atypical": memorization > 0.6,
        }
    )


def without(what, fraction=None, random=False):
    return Without(what=what, fraction=fraction, random=random)


@given(st.integers(0, 500), st.floats(0.02, 0.4))
@settings(deadline=None, max_examples=40)
def test_the_most_memorized_are_removed_and_the_twin_has_as_many_others_of_each_class(seed, fraction):
    table = scores(seed=seed)
    named = removed(table, without("top", fraction), None, seed=seed)
    assert named.sum() == round(fraction * len(table))
    values = table["memorization"].fillna(-9)
    if named.any():
        assert values[named].min() >= values[~named].max()
    twin = removed(table, without("top", fraction, random=True), None, seed=seed)
    assert not (named & twin).any()
    assert twin.sum() == named.sum()
    for label in range(4):
        mine = table["label"].to_numpy() == label
        if 2 * (named & mine).sum() <= mine.sum() and 2 * named.sum() <= len(table):
            assert (twin & mine).sum() >= (named & mine).sum()


def test_a_twin_depends_on_its_seed_and_case_alone():
    table = scores()
    case = without("atypical", random=True)
    assert np.array_equal(removed(table, case, None, seed=1), removed(table, case, None, seed=1))
    assert not np.array_equal(removed(table, case, None, seed=1), removed(table, case, None, seed=2))


def test_harmful_and_benign_samples_are_those_of_the_table():
    table = scores()
    rare = table[table["atypical"]]
    harmful = rare.assign(harmful=np.arange(len(rare)) % 2 == 0)
    for what, odd in (("harmful", 0), ("benign", 1)):
        found = removed(table, without(what), harmful, seed=0)
        assert set(table.loc[found, "train_index"]) == set(rare["train_index"].iloc[odd::2])
    with pytest.raises(ValueError, match="table of harmful samples"):
        removed(table, without("harmful"), None, seed=0)


def test_harmful_samples_by_hand():
    rows = [(1, 7, 0.0), (2, 7, 0.9), (3, 7, 0.8), (4, 7, 0.6), (3, 8, 0.0), (4, 8, 0.5)]
    first = pd.DataFrame(rows, columns=["epoch", "train_index", "wrong_probability"]).assign(label=1, memorization=0.5)
    second = first.assign(wrong_probability=0.4)
    table = harmful_table([first, second], threshold=0.5).set_index("train_index")
    assert table.loc[7, "wrong_probability"] == pytest.approx((0.8 + 0.6 + 0.4 + 0.4) / 4)
    assert table.loc[8, "wrong_probability"] == pytest.approx((0.0 + 0.5 + 0.4 + 0.4) / 4)
    assert table["wrong_share"].tolist() == [1, 0.75]
    assert table["harmful"].tolist() == [True, False]


def test_scores_of_a_method():
    table = scores()
    assert np.array_equal(atypical_for(table, PGD_AT, seed=0), table["atypical"])
    own = atypical_for(table, but(BAT, threshold=0.3), seed=0)
    assert np.array_equal(own, table["memorization"] > 0.3)
    shuffled = atypical_for(table, but(BAT, threshold=0.3, score="shuffled"), seed=0)
    assert shuffled.sum() == own.sum()
    assert not np.array_equal(shuffled, own)
    consistency = atypical_for(table, but(BAT, threshold=0.3, score="consistency"), seed=0)
    assert np.array_equal(consistency, 1 - table["p_out"] > 0.3)


def test_runs_of_removal_are_named_and_paired():
    removal = Removal(method="pgd_at", fractions=(0.05,), harmful_threshold=0.5)
    names = [run.name.removeprefix("pgd_at_without_") for run in removal_runs([PGD_AT], removal)]
    cases = ["atypical", "top_0_05", "harmful", "benign"]
    assert names == cases + [f"random_{case}" for case in cases]
    pairs = removal_pairs(removal)
    assert ("pgd_at_without_harmful", "pgd_at_without_random_harmful") in pairs
    assert sum(baseline == "pgd_at" for _, baseline in pairs) == 8
    with pytest.raises(ValueError, match="no method"):
        removal_runs([BAT], removal)
    assert removal_runs([BAT], Removal(method=None, fractions=(), harmful_threshold=0.5)) == ()


def test_effects_equal_welchs_test_and_a_planted_one_is_found():
    random = np.random.default_rng(0)
    mask = random.random((80, 30)) < 0.7
    accuracy = 0.8 + 0.01 * random.standard_normal(80) - 0.03 * mask[:, 4]
    table = effect_table(mask, {"robust": accuracy}, scores(30), false_discovery_rate=0.05)
    for i, row in table.iterrows():
        inside, outside = accuracy[mask[:, i]], accuracy[~mask[:, i]]
        assert row["robust_effect"] == pytest.approx(inside.mean() - outside.mean())
        assert row["robust_p_value"] == pytest.approx(ttest_ind(inside, outside, equal_var=False).pvalue)
        assert (row["n_in"], row["n_out"]) == (len(inside), len(outside))
    assert table.index[table["robust_significant"]].tolist() == [4]
    assert table.loc[4, "robust_effect"] < -0.02
