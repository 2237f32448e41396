"""Proxies of memorization: each value of their tables against loops over the epochs of each sample, by hand."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from stages import BAT, NATURAL, SCORES, TRAIN, call, fails, rewrite, scores
from stubs import Lines
from worlds import MODELS, SIZES, World, tally

from bat.config import PROXIES, parse
from bat.config.specs import ProxiesSpec
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import read_table_with_facts, write_table
from bat.scores.agreement import auc, precision, spearman
from bat.scores.proxies import HALF, agreement_rows, proxies_of_run
from bat.scores.proxies import proxies as stage
from bat.training.records import packed

SPEC = {"threshold": 0.2, "confidence": 0.8, "bootstrap": 100, "seed": 4}


def quartile(values: list[float], share: float) -> float:
    """Return a quantile by straight lines between the sorted values."""
    place = share * (len(values) - 1)
    low, ordered = math.floor(place), sorted(values)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(values) - 1)] - ordered[low])


def by_hand(losses: list[float], right: list[bool], errors: list[float], epochs: list[int]) -> dict[str, float]:
    """Return the proxies of one sample of one run."""
    forgotten = sum(was and not now for was, now in pairwise(right))
    learned = [epoch for epoch, now in zip(epochs, right, strict=True) if now]
    early = next(number for number, epoch in enumerate(epochs) if epoch / epochs[-1] >= 0.1)
    return {
        "csl": math.fsum(losses),
        "lt_iqr": quartile(losses, 0.75) - quartile(losses, 0.25),
        "forgetting": forgotten if learned else len(epochs),
        "first_learned": learned[0] if learned else epochs[-1] + 1,
        "early_loss": losses[early],
        "el2n": errors[early],
        "final_loss": losses[-1],
    }


@given(seed=st.integers(0, 10_000), every=st.integers(1, 4), measured=st.integers(1, 12), n=st.integers(1, 9))
@settings(max_examples=50, derandomize=True)
def test_proxies_of_a_run_equal_a_loop_over_its_samples(seed: int, every: int, measured: int, n: int) -> None:
    random = np.random.default_rng(seed)
    epochs = every * np.arange(1, measured + 1)
    loss, right = random.exponential(1, (measured, n)).astype("<f2"), random.random((measured, n)) < 0.4
    error = random.random((measured, n)).astype("<f2")
    table = proxies_of_run(loss, right, error, epochs)
    assert tuple(table) == PROXIES
    for i, got in table.iterrows():
        losses, errors = (each[:, i].astype(float).tolist() for each in (loss, error))
        expected = by_hand(losses, right[:, i].tolist(), errors, epochs.tolist())
        assert got.to_dict() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_each_proxy_is_higher_for_a_sample_that_is_learned_late() -> None:
    epoch = np.arange(1, 21)
    late, soon = 3 / (1 + np.exp(epoch - 10.0)), 3 / (1 + np.exp(epoch - 2.0)) + 0.01 / epoch
    right = np.stack([epoch > 9, epoch > 1], axis=1)
    right[12] = False, True  # forgotten once
    loss = np.stack([late + 0.05, soon], axis=1)
    table = proxies_of_run(loss, right, -np.expm1(-loss), epoch)
    assert (table.iloc[0] > table.iloc[1]).all()


def test_the_early_loss_is_of_the_first_epoch_with_a_tenth_behind_it() -> None:
    values = np.arange(20.0)[:, None]
    table = proxies_of_run(values, values > 3, values, np.arange(1, 21))
    assert table.loc[0, ["early_loss", "el2n"]].tolist() == [1, 1]


# -- the stage


class Runs(World):
    """The world of subset models, and two runs of natural training on its data, of which each second epoch counts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, seed=16)
        random = np.random.default_rng(5)
        n = SIZES["train"]
        self.losses = [random.exponential(1, (3, n)).astype("<f2") for _ in range(2)]
        self.rights = [random.random((3, n)) < 0.5 for _ in range(2)]
        self.errors = [random.random((3, n)).astype("<f2") for _ in range(2)]
        for seed in range(2):
            self.record(f"natural-{seed}.parquet", seed, TRAIN | {"method": NATURAL, "seed": seed})

    def record(self, name: str, seed: int, spec: dict[str, Any]) -> None:
        rows = []
        for epoch in range(1, 7):
            row: dict[str, Any] = {"method": "natural", "seed": seed, "epoch": epoch}
            if epoch % 2 == 0:
                recorded = {"loss": self.losses, "correct": self.rights, "error": self.errors}
                row |= packed({f"train_clean_{name}": each[seed][epoch // 2 - 1] for name, each in recorded.items()})
            rows.append(row)
        table = pd.DataFrame(rows, columns=SCHEMAS["records"].names).convert_dtypes()
        write_table(self.folder / name, "records", table, provenance("records", spec=spec, data=self.data.digest()))


def flags(made: World, **changed: Any) -> dict[str, Any]:
    inputs = {"data": "data.safetensors", "memorization": "memorization.parquet", "shards": made.shards}
    outputs = {name: f"{name}.parquet" for name in ("proxies", "proxy_agreement")}
    return (
        {"spec": SPEC, "records": ["natural-0.parquet", "natural-1.parquet"], "log": "log"} | inputs | outputs | changed
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    world = Runs(tmp_path_factory.mktemp("proxies"))
    call("scores", world.folder, **scores(*world.shards, spec=SCORES | {"threshold": 0.2}))
    call("proxies", world.folder, **flags(world))
    return world


@pytest.fixture
def anew(made: Runs) -> None:
    """The tables anew, made by the test that reads them: a mutant is run by the tests that call what is changed."""
    direct(made, made.folder)


def read(made: World, name: str) -> pd.DataFrame:
    table, facts = read_table_with_facts(made.folder / f"{name}.parquet", name)
    assert (facts["kind"], facts["data"], facts["spec"]) == (name, made.data.digest(), SPEC)
    assert facts["models"] == MODELS
    return table


@pytest.mark.usefixtures("anew")
def test_proxies_are_means_over_the_runs(made: Runs) -> None:
    table = read(made, "proxies")
    assert table["train_index"].tolist() == made.index["train"].tolist()
    assert table["label"].tolist() == made.labels["train"].tolist()
    for i, got in table.iterrows():
        each = [
            by_hand(*(values[:, i].astype(float).tolist() for values in run), [2, 4, 6])
            for run in zip(made.losses, made.rights, made.errors, strict=True)
        ]
        for name in PROXIES:
            assert got[name] == pytest.approx(sum(one[name] for one in each) / 2)


def memorized(made: World, models: range, kind: str) -> list[float]:
    """Return the memorization of each training sample from some of the models."""
    values = []
    for i in range(SIZES["train"]):
        mask = made.mask[models, i]
        if kind == "hard":
            a, n, b, m = tally(mask, made.right["correct_train"][models, i])
            values.append(a / n - b / m)
        else:
            p = made.said["p_train"][models, i].astype(float)
            values.append(p[mask].mean() - p[~mask].mean())
    return values


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_agreement_is_that_of_each_proxy_and_of_the_halves_of_the_models(made: Runs, kind: str) -> None:
    table, found = read(made, "proxies"), read(made, "proxy_agreement").set_index(["score", "proxy", "metric"])
    every = memorized(made, range(MODELS), kind)
    pairs = {name: (table[name].tolist(), every) for name in PROXIES}
    pairs[HALF] = memorized(made, range(MODELS // 2), kind), memorized(made, range(MODELS // 2, MODELS), kind)
    assert found.index.get_level_values("proxy").unique().tolist() == [*PROXIES, HALF]
    for name, (value, reference) in pairs.items():
        atypical = [one > 0.2 + 1e-12 for one in reference]
        expected = {"spearman": spearmanr(value, reference).statistic, "auc": roc_auc_score(atypical, value)}
        for metric, one in expected.items():
            got = found.loc[kind, name, metric]
            assert got["value"] == pytest.approx(one, abs=1e-9)
            assert got["ci_low"] <= got["value"] <= got["ci_high"]
            assert (got["samples"], got["atypical"]) == (SIZES["train"], sum(atypical))
            assert (got["runs"], got["models"]) == (2, MODELS)


def test_samples_without_a_score_do_not_count_and_a_score_without_samples_has_no_row() -> None:
    value, reference = np.array([1.0, 2, 3, 4]), np.array([0.0, np.nan, 0.5, 0.1])
    options = {"threshold": 0.2, "confidence": 0.8, "bootstrap": 30, "seed": 0}
    rows = agreement_rows("csl", {"hard": (value, reference * np.nan), "soft": (value, reference)}, **options)
    found = {(row["score"], row["metric"]): row for row in rows}
    assert [*found] == [("soft", "spearman"), ("soft", "auc"), ("soft", "precision")]
    assert found["soft", "auc"]["value"] == 0.5
    assert found["soft", "precision"]["value"] == 0
    assert all((row["samples"], row["atypical"]) == (3, 1) for row in rows)


def test_intervals_of_agreement_are_of_the_level_the_resamples_and_the_seed_that_are_given() -> None:
    value, reference = np.random.default_rng(3).random((2, 40))
    reference[3] = 0.6
    atypical, options = reference > 0.6, {"confidence": 0.7, "seed": 5}
    rows = agreement_rows("csl", {"hard": (value, reference)}, threshold=0.6, bootstrap=40, **options)
    for row, metric, truth in zip(rows, (spearman, auc, precision), (reference, atypical, atypical), strict=True):
        expected = metric(value, truth, resamples=40, **options)
        assert (row["value"], row["ci_low"], row["ci_high"]) == (expected.value, expected.low, expected.high)
        assert row | {"proxy": "csl", "score": "hard", "samples": 40, "atypical": atypical.sum()} == row


def direct(made: Runs, folder: Path, **changed: Any) -> Any:
    """Call the stage without a command line, its tables into a folder; return the journal."""
    journal: Any = Lines()
    inputs: dict[str, Any] = {"memorization": made.folder / "memorization.parquet"}
    inputs |= {"records": [made.folder / f"natural-{seed}.parquet" for seed in range(2)]}
    inputs |= {"shards": [made.folder / name for name in made.shards], "data": made.folder / "data.safetensors"}
    outputs: Any = {name: folder / f"{name}.parquet" for name in ("proxies", "proxy_agreement")}
    stage(journal, spec=parse(ProxiesSpec, SPEC, ""), **inputs | outputs | changed)
    return journal


def test_what_each_proxy_finds_of_the_atypical_samples_is_told(made: Runs, tmp_path: Path) -> None:
    journal = direct(made, tmp_path)
    table = read(made, "proxy_agreement")
    found = table[(table["metric"] == "auc") & (table["score"] == "hard")].itertuples()
    expected = [f"{row.proxy}: AUC {row.value:.3f} for the {row.atypical} atypical training samples" for row in found]
    assert len(expected) == len(PROXIES) + 1
    assert journal.lines == expected
    assert (journal.bars, journal.worked) == ([(len(PROXIES), "proxies")], 1)


@pytest.mark.parametrize(
    ("kind", "change", "facts", "said"),
    [
        ("memorization", {}, {"data": "another"}, "data.safetensors and {path} are of different data"),
        ("records", {}, {"data": "another"}, "data.safetensors and {path} are of different data"),
        ("memorization", {"label": 7}, {}, "other.parquet: row 0 is sample"),
        ("memorization", {}, {"models": 59}, "other.parquet: of other subset models than"),
        ("records", {"train_clean_loss": bytes(2)}, {}, "other.parquet: train_clean_loss does not hold 14"),
        ("records", {"train_clean_error": bytes(2)}, {}, "other.parquet: train_clean_error does not hold 14"),
    ],
)
def test_proxies_are_of_the_scores_of_one_data_set(
    made: Runs, tmp_path: Path, kind: str, change: Any, facts: Any, said: str
) -> None:
    source, other = made.folder / f"{'natural-1' if kind == 'records' else kind}.parquet", tmp_path / "other.parquet"
    table, about = read_table_with_facts(source, kind)
    rewrite(source, kind, table.assign(**change), to=other, **{"spec": about["spec"]} | facts)
    given = [made.folder / "natural-0.parquet", other] if kind == "records" else other
    assert said.format(path=other) in refusal(lambda: direct(made, tmp_path, **{kind: given}))


def test_proxies_are_compared_with_models_of_the_same_data(made: Runs, tmp_path: Path) -> None:
    path, said = made.of_other_data(tmp_path)
    assert refusal(lambda: direct(made, tmp_path, shards=[path])) == said


def test_without_shards_there_is_no_half_to_compare(made: Runs) -> None:
    without = {name: value for name, value in flags(made, proxies="p.parquet").items() if name != "shards"}
    call("proxies", made.folder, **without | {"proxy_agreement": "a.parquet"})
    table = read_table_with_facts(made.folder / "a.parquet", "proxy_agreement")[0]
    whole = read(made, "proxy_agreement")
    assert table.equals(whole[whole["proxy"] != HALF].reset_index(drop=True))


@pytest.mark.parametrize(
    "changed", [{"method": BAT}, {"without": {"what": "atypical", "fraction": None, "random": False}}]
)
def test_records_of_other_training_are_refused(made: Runs, capsys: Any, changed: dict[str, Any]) -> None:
    spec = json.loads(json.dumps(TRAIN | {"method": NATURAL} | changed))
    made.record("other.parquet", 1, spec)
    asked = {name: value for name, value in flags(made).items() if name != "log"}
    line = fails(capsys, "proxies", made.folder, **asked | {"records": ["natural-0.parquet", "other.parquet"]})
    assert "other.parquet: of method" in line
    assert "give records of natural training on all samples" in line
