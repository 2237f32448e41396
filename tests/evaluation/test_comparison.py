"""Runs against one another: every cell against a plain loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import bat.evaluation.comparison
from bat.evaluation.comparison import (
    EQUAL,
    FAILED,
    HIGHER,
    LOWER,
    NOT_SHOWN,
    NOTHING_LEFT_OUT,
    UNCORRECTED,
    UNFAIR,
    comparison_table,
)
from bat.evaluation.summary import METRICS
from bat.io.files import provenance
from bat.io.tables import read_table, write_table
from bat.seeds import derive_seed
from bat.statistics import ROUNDING, bootstrap_interval


def results(
    rates: dict[str, float], seeds: int, samples: int, random: np.random.Generator, atypical: int = 3
) -> pd.DataFrame:
    """Per-sample results of runs with the given accuracies, rows in a random order."""
    rows = [
        {
            "method": name,
            "seed": seed,
            "checkpoint": checkpoint,
            "test_index": 10 + sample,
            "atypical": sample < atypical,
        }
        | {column: bool(random.random() < rate) for column in METRICS.values()}
        for name, rate in rates.items()
        for seed in range(seeds)
        for checkpoint in ("best", "last")
        for sample in range(samples)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=int(random.integers(2**31)), ignore_index=True)


def compare(samples: pd.DataFrame, grounds: dict[str, Any] | None = None, **questions: Any) -> pd.DataFrame:
    return comparison_table(samples, questions, confidence=0.95, bootstrap=400, seed=3, **(grounds or {}))


@given(st.integers(1, 4), st.integers(4, 12), st.integers(0, 2**20))
@settings(max_examples=20)
def test_differences_equal_a_loop(seeds: int, samples: int, seed: int) -> None:
    table = results({"a": 0.7, "b": 0.4, "c": 0.5}, seeds, samples, np.random.default_rng(seed))
    found = compare(table, one=[("a", "b"), ("c", "b")], two=[("c", "a")])
    assert len(found) == 3 * 2 * 3 * len(METRICS)
    right = {
        (row["method"], row["seed"], row["checkpoint"], row["test_index"], metric): row[column]
        for row in table.to_dict("records")
        for metric, column in METRICS.items()
    }
    groups = {"all": range(10, 10 + samples), "atypical": range(10, 13), "typical": range(13, 10 + samples)}
    for row in found.to_dict("records"):
        differences = [
            int(right[row["method"], s, row["checkpoint"], j, row["metric"]])
            - int(right[row["baseline"], s, row["checkpoint"], j, row["metric"]])
            for s in range(seeds)
            for j in groups[row["group"]]
        ]
        assert (row["seeds"], row["seeds"] * row["samples"]) == (seeds, len(differences))
        assert row["difference"] == pytest.approx(np.mean(differences))
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
        by_seed = np.reshape(differences, (seeds, -1))
        stream = derive_seed(3, "bootstrap")
        interval = bootstrap_interval(by_seed, confidence=0.95, resamples=400, seed=stream)
        assert (row["ci_low"], row["ci_high"]) == interval
        if seeds == 1:
            gained, lost = differences.count(1), differences.count(-1)
            expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            assert row["p_value"] == pytest.approx(expected)


def test_holm_runs_over_the_pairs_of_one_question_and_cell() -> None:
    table = results({"a": 0.8, "b": 0.5, "c": 0.7, "d": 0.6}, 3, 40, np.random.default_rng(0))
    both = compare(table, one=[("a", "b"), ("c", "b"), ("d", "b")], two=[("a", "d")])
    for _, cell in both.groupby(["question", "checkpoint", "group", "metric"]):
        p, n = np.sort(cell["p_value"].to_numpy()), len(cell)
        stepped = np.minimum(np.maximum.accumulate([(n - i) * p[i] for i in range(n)]), 1)
        assert np.sort(cell["p_holm"].to_numpy()) == pytest.approx(stepped)


def test_a_clear_difference_is_named_with_its_direction() -> None:
    table = results({"good": 0.95, "bad": 0.3, "same": 0.3}, 5, 200, np.random.default_rng(1), atypical=50)
    found = compare(table, q=[("good", "bad"), ("bad", "good"), ("same", "bad")]).set_index(["method", "baseline"])
    assert set(found.loc[("good", "bad"), "verdict"]) == {HIGHER}
    assert set(found.loc[("bad", "good"), "verdict"]) == {LOWER}
    none = found.loc[("same", "bad")]
    assert ((none["verdict"] == NOT_SHOWN) == ((none["ci_low"] <= 0) & (none["ci_high"] >= 0))).all()


def test_a_difference_that_does_not_survive_the_correction_is_not_named() -> None:
    random = np.random.default_rng(2)
    # 12 of 60 samples are lost by one seed's model: p is 0.0005 alone, and over 0.05 among 120 pairs
    base = results({"base": 1.0, **{f"same_{i}": 1.0 for i in range(119)}}, 1, 60, random).query("checkpoint == 'last'")
    # all but equal: equal results would not be compared
    base.loc[base["method"].str.startswith("same") & (base["test_index"] == 69), list(METRICS.values())] = False
    worse = base[base["method"] == "base"].assign(method="worse")
    worse.loc[worse["test_index"] < 22, list(METRICS.values())] = False
    samples = pd.concat([base, worse], ignore_index=True)
    pairs = [("worse", "base")] + [(f"same_{i}", "base") for i in range(119)]
    alone, among = compare(samples, q=pairs[:1]), compare(samples, q=pairs)
    cell = {"method": "worse", "group": "all"}
    assert set(rows(alone, **cell)["verdict"]) == {LOWER}
    assert set(rows(among, **cell)["verdict"]) == {UNCORRECTED}


def test_only_seeds_that_both_have_are_paired() -> None:
    table = results({"a": 0.7, "b": 0.4}, 3, 20, np.random.default_rng(4))
    cut = table[(table["method"] != "a") | (table["seed"] != 1)]
    found = compare(cut, q=[("a", "b")])
    assert set(found["seeds"]) == {2}
    pd.testing.assert_frame_equal(found, compare(table[table["seed"] != 1], q=[("a", "b")]))


def test_a_group_without_samples_has_no_row() -> None:
    table = results({"a": 0.7, "b": 0.4}, 2, 20, np.random.default_rng(5), atypical=0)
    assert set(compare(table, q=[("a", "b")])["group"]) == {"all", "typical"}


def test_without_pairs_the_table_is_empty_and_can_be_written(tmp_path: Path) -> None:
    none = compare(results({"a": 0.5}, 2, 8, np.random.default_rng(6)), methods=[], removal=[])
    write_table(tmp_path / "c.parquet", "comparisons", none.assign(tier="fast"), provenance("comparisons"))
    assert read_table(tmp_path / "c.parquet", "comparisons").empty


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.0, 0.2), NOT_SHOWN),
        ((1e-17, 0.2), NOT_SHOWN),  # 0 but for rounding
        ((ROUNDING, 0.2), NOT_SHOWN),
        ((0.001, 0.2), HIGHER),
        ((-0.2, 0.0), NOT_SHOWN),
        ((-0.2, -1e-17), NOT_SHOWN),
        ((-0.2, -ROUNDING), NOT_SHOWN),
        ((-0.2, -0.001), LOWER),
        ((-0.1, 0.2), NOT_SHOWN),
    ],
)
def test_an_interval_that_touches_zero_shows_no_difference(
    interval: tuple[float, float], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bat.evaluation.comparison, "bootstrap_interval", lambda *_, **__: interval)
    monkeypatch.setattr(bat.evaluation.comparison, "paired_p_value", lambda *_: 0.001)
    found = compare(results({"a": 0.9, "b": 0.1}, 3, 40, np.random.default_rng(7)), q=[("a", "b")])
    assert set(found["verdict"]) == {verdict}
    assert set(found["ci_low"]) == {interval[0]}


@pytest.mark.parametrize(
    ("confidence", "p_value", "verdict"),
    [
        (0.95, 0.025, HIGHER),  # twice it is the level
        (0.9, 0.05, HIGHER),  # 1 - 0.9 is a little less than 0.1
        (0.95, 0.02501, UNCORRECTED),
        (0.9, 0.05001, UNCORRECTED),
    ],
)
def test_a_p_value_at_the_level_passes(
    confidence: float, p_value: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bat.evaluation.comparison, "bootstrap_interval", lambda *_, **__: (0.1, 0.2))
    monkeypatch.setattr(bat.evaluation.comparison, "paired_p_value", lambda *_: p_value)
    samples = results({"a": 0.9, "b": 0.1, "c": 0.9}, 3, 40, np.random.default_rng(8))
    questions = {"q": [("a", "b"), ("c", "b")]}
    found = comparison_table(samples, questions, confidence=confidence, bootstrap=400, seed=3)
    assert set(found["verdict"]) == {verdict}
    assert found["p_holm"].to_numpy() == pytest.approx(2 * p_value)


def test_no_difference_from_a_run_whose_training_failed() -> None:
    table = results({"good": 0.95, "lost": 0.1, "base": 0.5}, 5, 100, np.random.default_rng(9), atypical=40)
    pairs = [("good", "lost"), ("lost", "base"), ("good", "base")]
    found = compare(table, {"failed": ["lost"]}, q=pairs).set_index(["method", "baseline"])
    for pair in pairs[:2]:
        assert set(found.loc[pair, "verdict"]) == {FAILED}
        assert found.loc[pair, ["p_value", "p_holm"]].isna().all(axis=None)
    # of the three pairs one is tested, so that nothing is corrected
    tested = found.loc[pairs[2]]
    assert set(tested["verdict"]) == {HIGHER}
    assert (tested["p_holm"] == tested["p_value"]).all()
    whole = compare(table, q=pairs).set_index(["method", "baseline"])
    assert set(whole.loc[pairs[0], "verdict"]) == {HIGHER}
    assert (found["difference"] == whole["difference"]).all()


@pytest.mark.parametrize(
    ("left_out", "with_all", "with_twin"),
    [
        ({"m": 0, "m_without": 10, "m_twin": 10}, HIGHER, HIGHER),
        ({"m": 0, "m_without": 0, "m_twin": 0}, NOTHING_LEFT_OUT, NOTHING_LEFT_OUT),
        ({"m": 0, "m_without": 10, "m_twin": 9}, HIGHER, UNFAIR),
        ({"m": 0, "m_without": 10, "m_twin": 0}, HIGHER, UNFAIR),
    ],
)
def test_a_removal_needs_samples_left_out_and_a_fair_twin(
    left_out: dict[str, int], with_all: str, with_twin: str
) -> None:
    table = results({"m_without": 0.95, "m": 0.3, "m_twin": 0.3}, 5, 200, np.random.default_rng(10), atypical=80)
    pairs = [("m_without", "m"), ("m_without", "m_twin"), ("m_twin", "m")]
    found = compare(table, {"left_out": left_out}, removal=pairs, q=pairs[:2])
    verdicts = [
        set(rows(found, question="removal", method=method, baseline=baseline)["verdict"]) for method, baseline in pairs
    ]
    assert verdicts[:2] == [{with_all}, {with_twin}]
    assert (verdicts[2] == {NOTHING_LEFT_OUT}) == (left_out["m_twin"] == 0)
    assert set(rows(found, question="q")["verdict"]) == {HIGHER}


def test_runs_that_are_right_on_the_same_samples_are_not_compared() -> None:
    table = results({"a": 0.7, "b": 0.2}, 3, 30, np.random.default_rng(11))
    same = table[table["method"] == "a"].assign(method="same").sample(frac=1, random_state=1)
    almost = same.assign(method="almost")
    # one sample of one seed at the last epoch makes these two different runs there
    place = (almost["seed"] == 1) & (almost["test_index"] == 20) & (almost["checkpoint"] == "last")
    almost.loc[place, "robust_correct"] = ~almost.loc[place, "robust_correct"]
    found = compare(pd.concat([table, same, almost]), q=[("a", "same"), ("a", "almost"), ("b", "a")])
    assert set(rows(found, method="a", baseline="same")["verdict"]) == {EQUAL}
    assert set(rows(found, method="a", baseline="almost", checkpoint="best")["verdict"]) == {EQUAL}
    last = rows(found, method="a", baseline="almost", checkpoint="last")
    assert set(last["verdict"]) == {NOT_SHOWN}
    corrected = (
        rows(found, method="b", checkpoint="last")["p_holm"] / rows(found, method="b", checkpoint="last")["p_value"]
    )
    assert corrected.max() == pytest.approx(2)
    alone = rows(found, method="b", checkpoint="best")
    assert (alone["p_holm"] == alone["p_value"]).all()


def rows(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    for column, value in values.items():
        table = table[table[column] == value]
    return table
