"""Which samples a run leaves out or takes for atypical, and what having a sample does to models."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, BAT_MART, BAT_TRADES, DPLS, PGD_AT, but
from refusals import refusal
from scipy.stats import ttest_ind

import bat.training.selection
from bat.config import PROXIES, Removal, Without, removal_pairs, removal_runs
from bat.scores.estimators import effect_table
from bat.training.selection import atypical_for, difficulty_for, hardest_table, harmful_table, removed


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
@settings(max_examples=40)
def test_the_most_memorized_are_removed_and_the_twin_has_as_many_others_of_each_class(seed, fraction):
    table = scores(seed=seed)
    named = removed(table, without("top", fraction), None, seed=seed)
    assert named.sum() == round(Decimal(str(fraction)) * len(table))
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


@given(st.integers(0, 500), st.integers(1, 40), st.floats(0.01, 0.99))
@settings(max_examples=60)
def test_the_most_memorized_equal_those_of_a_sorted_list(seed, n, fraction):
    table = scores(n, seed)
    scored = sorted((-value, i) for i, value in enumerate(table["memorization"]) if not np.isnan(value))
    found = set(np.flatnonzero(removed(table, without("top", fraction), None, seed=seed)))
    first = [i for _, i in scored][: round(Decimal(str(fraction)) * n)]
    assert found == set(first)  # a sample without a score is not known to be memorized


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=30), bits=st.integers(0, 2**30), seed=st.integers(0, 99))
@settings(max_examples=100)
def test_a_twin_has_the_class_counts_of_the_named_samples_as_far_as_there_are_others(labels, bits, seed):
    labels = np.array(labels)
    named = np.array([bits >> i & 1 for i in range(len(labels))], dtype=bool)
    table = scores(len(labels)).assign(label=labels, atypical=named)
    assert np.array_equal(removed(table, without("atypical"), None, seed=seed), named)
    case = without("atypical", random=True)
    twin = removed(table, case, None, seed=seed)
    assert not (twin & named).any()
    assert twin.sum() == min(named.sum(), (~named).sum())
    wanted, others, got = ([(rows & (labels == c)).sum() for c in range(3)] for rows in (named, ~named, twin))
    assert all(count >= min(pair) for count, *pair in zip(got, wanted, others, strict=True))
    if all(want <= other for want, other in zip(wanted, others, strict=True)):
        assert got == wanted


def test_each_other_sample_of_a_class_is_drawn_alike():
    table = scores(12).assign(label=[0, 1] * 6, atypical=[True, True] + 10 * [False])
    drawn = np.mean([removed(table, without("atypical", random=True), None, seed=s) for s in range(1000)], axis=0)
    assert drawn[:2].tolist() == [0, 0]
    assert abs(drawn[2:] - 1 / 5).max() < 4 * (0.2 * 0.8 / 1000) ** 0.5


def test_a_twin_depends_on_its_seed_and_case_alone():
    table = scores()
    case = without("atypical", random=True)
    assert np.array_equal(removed(table, case, None, seed=1), removed(table, case, None, seed=1))
    assert not np.array_equal(removed(table, case, None, seed=1), removed(table, case, None, seed=2))
    # of the same size, but drawn on their own
    top = without("top", table["atypical"].mean(), random=True)
    assert removed(table, top, None, seed=1).sum() == table["atypical"].sum()
    assert not np.array_equal(removed(table, case, None, seed=1), removed(table, top, None, seed=1))


@given(st.integers(0, 500), st.integers(2, 40), st.floats(0.01, 0.99))
@settings(max_examples=60)
def test_the_hardest_equal_those_of_a_sorted_list_whatever_the_order_of_rows(seed, n, fraction):
    table, random = scores(n, seed), np.random.default_rng(seed)
    runs = [random.choice([0.0, 0.5, 1.0, 9.0], (epochs, n)) for epochs in (1, 3)]
    hardest = hardest_table(table, runs)
    means = [(runs[0][0, i] + sum(runs[1][:, i])) / 4 for i in range(n)]
    assert hardest["adversarial_loss"].tolist() == pytest.approx(means)
    assert hardest["train_index"].tolist() == table["train_index"].tolist()
    first = [i for _, i in sorted((-value, i) for i, value in enumerate(hardest["adversarial_loss"]))]
    expected = first[: round(Decimal(str(fraction)) * n)]
    for rows in (hardest, hardest.sample(frac=1, random_state=seed)):
        named = removed(table, without("hardest", fraction), None, rows, seed=seed)
        assert set(np.flatnonzero(named)) == set(expected)
    twin = removed(table, without("hardest", fraction, random=True), None, hardest, seed=seed)
    assert not (twin & named).any()
    assert twin.sum() == min(named.sum(), (~named).sum())


def test_the_hardest_need_a_table():
    line = refusal(lambda: removed(scores(), without("hardest", 0.1), None, seed=0))
    assert line == "hardest samples need the table of losses: give --hardest, from stage hardest"


def test_harmful_and_benign_samples_are_those_of_the_table():
    table = scores()
    rare = table[table["atypical"]]
    harmful = rare.assign(harmful=np.arange(len(rare)) % 2 == 0)
    for what, odd in (("harmful", 0), ("benign", 1)):
        found = removed(table, without(what), harmful, seed=0)
        assert set(table.loc[found, "train_index"]) == set(rare["train_index"].iloc[odd::2])
    assert "give --harmful" in refusal(lambda: removed(table, without("harmful"), None, seed=0))


def test_harmful_samples_by_hand():
    rows = [(1, 7, 0.0), (2, 7, 0.9), (3, 7, 0.8), (4, 7, 0.6), (3, 8, 0.0), (4, 8, 0.5)]
    first = pd.DataFrame(rows, columns=["epoch", "train_index", "wrong_probability"]).assign(label=1, memorization=0.5)
    second = first.assign(wrong_probability=0.4)
    # of an odd number of epochs the middle one is late, and a run that stopped early has its own half
    third = pd.DataFrame([(1, 7, 1.0), (2, 7, 0.4), (3, 7, 0.6)], columns=["epoch", "train_index", "wrong_probability"])
    third = harmful_table([third.assign(label=1, memorization=0.5)], threshold=0.5)
    assert third["wrong_probability"].tolist() == [0.5]
    assert third["harmful"].tolist() == [False]  # not over the threshold
    table = harmful_table([first, second], threshold=0.5).set_index("train_index")
    assert table.loc[7, "wrong_probability"] == pytest.approx((0.8 + 0.6 + 0.4 + 0.4) / 4)
    assert table.loc[8, "wrong_probability"] == pytest.approx((0.0 + 0.5 + 0.4 + 0.4) / 4)
    assert table["wrong_share"].tolist() == [1, 0.75]
    assert table["harmful"].tolist() == [True, False]


def test_scores_of_a_method():
    table = scores()
    assert atypical_for(table, None, PGD_AT, seed=0) is None
    assert "needs --memorization" in refusal(lambda: atypical_for(None, scores(), BAT, seed=0))
    own = atypical_for(table, None, but(BAT, threshold=0.3), seed=0)
    assert np.array_equal(own, table["memorization"] > 0.3)
    shuffled = atypical_for(table, None, but(BAT, threshold=0.3, score="shuffled"), seed=0)
    assert shuffled.sum() == own.sum()
    assert not np.array_equal(shuffled, own)
    consistency = atypical_for(table, None, but(BAT, threshold=0.3, score="consistency"), seed=0)
    assert np.array_equal(consistency, 1 - table["p_out"] > 0.3)
    robust = scores(seed=5)
    assert not np.array_equal(robust["memorization"], table["memorization"])
    under_attack = but(BAT, threshold=0.3, score="robust_memorization")
    assert np.array_equal(atypical_for(None, robust, under_attack, seed=0), robust["memorization"] > 0.3)
    assert "needs --robust-memorization" in refusal(lambda: atypical_for(table, None, under_attack, seed=0))


@pytest.mark.parametrize("score", PROXIES)
@given(seed=st.integers(0, 200), levels=st.sampled_from([3, 1000]))
@settings(max_examples=10)
def test_by_a_proxy_as_many_are_atypical_as_by_memorization_those_with_the_highest_values(score, seed, levels):
    table, random = scores(seed=seed), np.random.default_rng(seed)
    cheap = pd.DataFrame({name: random.integers(levels, size=len(table)) / 7 for name in PROXIES})
    found = atypical_for(table, None, but(BAT, threshold=0.3, score=score), seed=0, proxies=cheap)
    number = sum(value > 0.3 for value in table["memorization"])
    best = sorted(range(len(table)), key=lambda row: (-cheap[score][row], row))
    assert sorted(np.flatnonzero(found)) == sorted(best[:number])


def test_a_proxy_needs_both_tables():
    method = but(BAT, score="csl")
    assert "needs --proxies, of stage proxies" in refusal(lambda: atypical_for(scores(), None, method, seed=0))
    cheap = pd.DataFrame({"csl": np.arange(60)})
    assert "needs --memorization" in refusal(lambda: atypical_for(None, None, method, seed=0, proxies=cheap))


@given(st.integers(0, 200), st.sampled_from([BAT, BAT_TRADES, BAT_MART]), st.floats(0, 0.95))
@settings(max_examples=40)
def test_shuffled_scores_are_the_same_values_at_other_places(seed, method, threshold):
    table = scores(seed=seed)
    control = but(method, threshold=threshold, score="shuffled")
    shuffled = atypical_for(table, None, control, seed=seed)
    assert shuffled.sum() == (table["memorization"] > threshold).sum()
    # all methods with weights get the same control, so that they are compared on the same samples
    other = but(BAT, threshold=threshold, score="shuffled")
    assert np.array_equal(shuffled, atypical_for(table, None, other, seed=seed))


@pytest.mark.parametrize("score", ["memorization", "consistency"])
@given(seed=st.integers(0, 200))
@settings(max_examples=20)
def test_a_samples_own_score_decides_whatever_the_order_of_samples(score, seed):
    table, method = scores(seed=seed), but(BAT, threshold=0.3, score=score)
    order = np.random.default_rng(seed).permutation(len(table))
    found = atypical_for(table, None, method, seed=0)
    assert np.array_equal(atypical_for(table.iloc[order], None, method, seed=1), found[order])
    rows = zip(table["memorization"], table["p_out"], strict=True)
    expected = [(1 - p if score == "consistency" else value) > 0.3 for value, p in rows]  # no NaN is over anything
    assert found.tolist() == expected


@given(seed=st.integers(0, 200))
@settings(max_examples=30)
def test_difficulty_is_the_score_clipped_and_0_without_one(seed):
    table, robust = scores(seed=seed), scores(seed=seed + 1)
    for score, values in (
        ("memorization", table["memorization"]),
        ("consistency", [1 - p for p in table["p_out"]]),
        ("robust_memorization", robust["memorization"]),
    ):
        found = difficulty_for(table, robust, but(DPLS, score=score), seed=0)
        expected = [min(max(value, 0.0), 1.0) if value == value else 0.0 for value in values]
        assert found.tolist() == expected
        assert (found[1:] == 0).any() or score == "consistency"
    shuffled = difficulty_for(table, None, but(DPLS, score="shuffled"), seed=seed)
    plain = difficulty_for(table, None, DPLS, seed=seed)
    assert sorted(shuffled) == sorted(plain)
    assert not np.array_equal(shuffled, plain)
    # the same control as that of BAT: a sample over a threshold is so for both
    over = atypical_for(table, None, but(BAT, threshold=0.3, score="shuffled"), seed=seed)
    assert np.array_equal(shuffled > 0.3, over)


def test_methods_without_difficulty_have_none_and_scores_that_are_not_there_are_refused():
    assert difficulty_for(scores(), scores(), BAT, seed=0) is None
    assert atypical_for(scores(), scores(), DPLS, seed=0) is None
    assert refusal(lambda: difficulty_for(None, None, DPLS, seed=0)).startswith("method dpls: its score needs --memor")
    imported = scores().assign(p_out=np.nan)
    assert "no p_out" in refusal(lambda: difficulty_for(imported, None, but(DPLS, score="consistency"), seed=0))


def test_controls_are_drawn_by_streams_of_their_own(monkeypatch):
    asked = []
    monkeypatch.setattr(bat.training.selection, "derive_seed", lambda *parts: asked.append(parts) or 0)
    removed(scores(), without("top", 0.25, random=True), None, seed=7)
    atypical_for(scores(), None, but(BAT, score="shuffled"), seed=8)
    assert asked == [(7, "without", "random_top_0_25"), (8, "shuffled")]


def test_the_most_memorized_need_a_fraction():
    with pytest.raises(ValueError, match=r"^top samples need a fraction$"):
        removed(scores(), without("top"), None, seed=0)


def test_consistency_that_is_not_there_is_refused():
    imported = scores().assign(p_out=np.nan)
    line = refusal(lambda: atypical_for(imported, None, but(BAT, score="consistency"), seed=0))
    assert line == (
        "method bat: score is consistency, but the scores have no p_out: take memorization, or estimate the scores "
        "(scores.source: subsets)"
    )
    assert atypical_for(imported, None, BAT, seed=0).any()


def test_runs_of_removal_are_named_and_paired():
    removal = Removal(method="pgd_at", fractions=(0.05,), hardest=(0.1,), harmful_threshold=0.5)
    names = [run.name.removeprefix("pgd_at_without_") for run in removal_runs([PGD_AT], removal)]
    cases = ["atypical", "top_0_05", "harmful", "benign", "hardest_0_1"]
    assert names == cases + [f"random_{case}" for case in cases]
    assert removal_pairs(removal) == [
        *(
            pair
            for case in cases
            for pair in (
                (f"pgd_at_without_{case}", "pgd_at"),
                (f"pgd_at_without_{case}", f"pgd_at_without_random_{case}"),
            )
        ),
        *((f"pgd_at_without_random_{case}", "pgd_at") for case in cases),
    ]
    # a run differs from its method in nothing but its name
    assert {but(run.method, name="pgd_at") for run in removal_runs([BAT, PGD_AT], removal)} == {PGD_AT}
    roles = [(run.base, run.role, run.without.random) for run in removal_runs([BAT, PGD_AT], removal)]
    assert roles == [("pgd_at", "removal", False)] * 5 + [("pgd_at", "random", True)] * 5
    with pytest.raises(ValueError, match=r"removal\.method is pgd_at, which is no method: take one of bat, or null"):
        removal_runs([BAT], removal)
    none = Removal(method=None, fractions=(), harmful_threshold=0.5)
    assert (removal_runs([BAT], none), removal_pairs(none)) == ((), [])


@given(st.lists(st.floats(1e-6, 0.999999), min_size=2, max_size=5, unique=True))
def test_each_fraction_has_a_name_of_its_own_that_paths_can_hold(fractions):
    removal = Removal(method="pgd_at", fractions=tuple(fractions), harmful_threshold=0.5)
    names = [run.name for run in removal_runs([PGD_AT], removal)]  # each checked by NAME
    assert len(set(names)) == len(names)
    assert without("top", 1e-05).name == "top_0_00001"
    assert without("top", 0.05, random=True).name == "random_top_0_05"


def test_effects_equal_welchs_test_and_a_planted_one_is_found():
    random = np.random.default_rng(0)
    mask = random.random((80, 30)) < 0.7
    right = (8000 + 100 * random.standard_normal(80) - 300 * mask[:, 4]).astype(int)
    accuracy = right / 10_000
    table = effect_table(mask, {"robust": right}, scores(30), samples=10_000, false_discovery_rate=0.05)
    for i, row in table.iterrows():
        inside, outside = accuracy[mask[:, i]], accuracy[~mask[:, i]]
        assert row["robust_effect"] == pytest.approx(inside.mean() - outside.mean())
        assert row["robust_p_value"] == pytest.approx(ttest_ind(inside, outside, equal_var=False).pvalue)
        assert (row["n_in"], row["n_out"]) == (len(inside), len(outside))
    assert table.index[table["robust_significant"]].tolist() == [4]
    assert table.loc[4, "robust_effect"] < -0.02


def test_effects_are_those_of_each_metric_on_its_own_and_have_welchs_standard_error():
    random = np.random.default_rng(1)
    mask, clean, robust = random.random((50, 8)) < 0.7, random.integers(400, size=50), random.integers(400, size=50)
    rows = scores(20).iloc[5:13]
    both = {"clean": clean, "robust": robust}
    table = effect_table(mask, both, rows, samples=400, false_discovery_rate=0.05)
    assert table["train_index"].tolist() == rows["train_index"].tolist()
    assert (table["models"] == 50).all()
    for name, right in both.items():
        accuracy = right / 400
        alone = effect_table(mask, {name: right}, rows, samples=400, false_discovery_rate=0.05)
        pd.testing.assert_frame_equal(alone, table[alone.columns])
        for i in range(8):
            inside, outside = accuracy[mask[:, i]], accuracy[~mask[:, i]]
            error = (inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside)) ** 0.5
            assert table.loc[i, f"{name}_standard_error"] == pytest.approx(error)


def test_effects_without_a_test():
    mask = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=bool)
    table = effect_table(mask, {"clean": np.array([1, 3, 2, 6])}, scores(3), samples=10, false_discovery_rate=0.5)
    # never left out, left out of one model, of two
    assert table["clean_effect"].tolist() == pytest.approx([np.nan, 0.2 - 0.6, 0.2 - 0.4], nan_ok=True)
    assert table["clean_p_value"].isna().tolist() == [True, True, False]
    assert table["clean_standard_error"].isna().tolist() == [True, True, False]
    assert table["clean_significant"].tolist()[:2] == [False, False]
    many = np.random.default_rng(0).random((40, 30)) < 0.7
    alike = effect_table(many, {"clean": np.full(40, 7)}, scores(30), samples=10, false_discovery_rate=0.5)
    assert (alike["clean_effect"] == 0).all()
    assert not alike["clean_significant"].any()
    none = effect_table(mask[:, :0], {"clean": np.full(4, 5)}, scores(3)[:0], samples=10, false_discovery_rate=0.5)
    assert none.empty
    assert list(none) == list(table)


def test_without_any_effect_few_experiments_find_one():
    random = np.random.default_rng(2)
    found, below = [], []
    for _ in range(400):
        mask = random.random((60, 25)) < 0.7
        right = (5000 + 500 * random.normal(size=60)).astype(int)
        table = effect_table(mask, {"robust": right}, scores(25), samples=10_000, false_discovery_rate=0.1)
        found.append(table["robust_significant"].any())
        below.append((table["robust_p_value"] < 0.1).mean())
    # under the null a discovery at all is a false one: at most 0.1, here with four standard errors of it
    assert np.mean(found) < 0.1 + 4 * (0.1 * 0.9 / 400) ** 0.5
    assert np.mean(below) == pytest.approx(0.1, abs=0.02)


def test_planted_effects_are_found_by_sign_and_size_and_little_else():
    random = np.random.default_rng(3)
    hits, false = 0, []
    for _ in range(50):
        mask = random.random((200, 40)) < 0.7
        effect = np.zeros(40)
        effect[:4] = -0.02, 0.02, -0.015, 0.015
        right = (10_000 * (0.6 + mask @ effect + 0.01 * random.standard_normal(200))).astype(int)
        table = effect_table(mask, {"robust": right}, scores(40), samples=10_000, false_discovery_rate=0.1)
        chosen = table["robust_significant"].to_numpy()
        hits += chosen[:4].sum()
        false.append(chosen[4:].sum() / max(chosen.sum(), 1))
        assert (np.sign(table.loc[chosen[:4].nonzero()[0], "robust_effect"]) == np.sign(effect[:4])[chosen[:4]]).all()
    assert hits > 0.9 * 4 * 50
    assert np.mean(false) < 0.1 + 4 * np.std(false) / 50**0.5
