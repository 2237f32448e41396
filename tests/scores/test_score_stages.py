"""Stages subsets, scores, null-pairs, harmful and robust-scores: each value of their tables against loops.

The loops know nothing of the package but the layout of a shard: which subset, labels, split and threshold belong to
which number is written down twice.
"""

import json
import math
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from influences import whole
from refusals import refusal
from scipy.stats import ttest_ind
from stages import COMPUTE, RECIPE, SUBSETS, call, rewrite, scores
from stubs import Lines
from worlds import MODELS, SIZES, World, tally

from bat.config import Natural, PgdAt, Recipe, SizedModel, parse
from bat.config.specs import NullPairsSpec, ScoresSpec, SubsetsSpec
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import read_table, read_table_with_facts, unpack, write_table
from bat.io.tensors import read_tensors
from bat.models import build
from bat.scores import stage
from bat.scores.estimators import fit_text
from bat.scores.precision import none_atypical
from bat.scores.robust import robust_scores
from bat.scores.shards import said_columns
from bat.scores.subsets import ANSWERS_FORMAT, recorded, subset_masks, subset_of
from bat.seeds import derive_seed
from bat.training.loop import fit
from bat.training.losses import objective
from bat.training.measure import judged, judged_under_attack
from bat.training.untrained import failed_subsets

torch.set_num_threads(1)

SPEC = {"score": "hard", "threshold": 0.2, "false_discovery_rate": 0.1, "confidence": 0.8}
TABLES = ["memorization", "influence", "train_influence", "test_groups", "validation_groups", "label_errors"]
ROBUST = ("robust_memorization", "robust_influence", "robust_effects")
NULL = {"threshold": 0.2, "false_discovery_rate": 0.3, "shuffles": 3, "seed": 11}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"), seed=16)
    call("scores", made.folder, **scores(*made.shards, spec=SPEC))
    call(
        "null-pairs",
        made.folder,
        spec=NULL,
        data="data.safetensors",
        shards=made.shards,
        memorization="memorization.parquet",
        null_pairs="null_pairs.parquet",
        log="null.log",
    )
    return made


@pytest.fixture
def told(world: World) -> list[str]:
    """What the scores tell, made anew by the test that reads them: a mutant is run by the tests that call it."""
    return direct(world, world.folder)


# -- the loops


def plain(a: int, n: int, b: int, m: int) -> dict[str, float]:
    """Difference, its plug-in standard error, and the one-sided p-value by the pooled z-test."""
    if not n or not m:
        return {"difference": math.nan, "standard_error": math.nan, "p_value": math.nan}
    p, q, pooled = a / n, b / m, (a + b) / (n + m)
    value = 1.0
    if 0 < pooled < 1:
        value = NormalDist().cdf(-(p - q) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)))
    return {
        "difference": float(Fraction(a, n) - Fraction(b, m)),
        "standard_error": math.sqrt(p * (1 - p) / n + q * (1 - q) / m),
        "p_value": value,
    }


def interval(a: int, n: int, b: int, m: int, confidence: float) -> tuple[float, float]:
    """Newcombe's hybrid interval of two Wilson intervals."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    ends = []
    for successes, trials in ((a, n), (b, m)):
        p = successes / trials
        half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
        ends.append([p, *((p + z**2 / (2 * trials) + s * half) / (1 + z**2 / trials) for s in (-1, 1))])
    (p, low_1, high_1), (q, low_2, high_2) = ends
    return p - q - math.hypot(p - low_1, high_2 - q), p - q + math.hypot(high_1 - p, q - low_2)


def discovered(p_values: list[float], level: float) -> list[bool]:
    """Benjamini and Hochberg's step-up procedure over all p-values that there are."""
    known = sorted(p for p in p_values if not math.isnan(p))
    limit = max((p for k, p in enumerate(known, 1) if p <= k / len(known) * level), default=-1.0)
    return [p <= limit for p in p_values]


def atypical_rows(world: World, kind: str = "correct", threshold: str = "0.2") -> list[int]:
    rows = []
    for i in range(SIZES["train"]):
        a, n, b, m = tally(world.mask[:, i], world.right[f"{kind}_train"][:, i])
        if n and m and Fraction(a, n) - Fraction(b, m) > Fraction(threshold):
            rows.append(i)
    return rows


def all_pairs(
    world: World, sources: list[int], column: str, split: str, targets: list[int], own: bool, rate: float, order: Any
) -> list[dict[str, Any]]:
    """Each pair of one class as a row, with what is significant among them all."""
    rows = []
    for i in sources:
        for j in targets:
            if world.labels["train"][i] != world.labels[split][j] or (own and i == j):
                continue
            models = [not world.mask[k, j] for k in range(MODELS)] if own else None
            counts = tally(world.mask[:, i], world.right[column][order, j], models)
            names = {"train_index": world.index["train"][i], "target": world.index[split][j]}
            rows.append(names | {"label": world.labels["train"][i]} | plain(*counts))
    found = discovered([row["p_value"] for row in rows], rate)
    return [row | {"significant": passed} for row, passed in zip(rows, found, strict=True)]


def compare_pairs(table: pd.DataFrame, rows: list[dict[str, Any]], target: str, threshold: float) -> None:
    """The table has each row over the threshold, and no other."""
    strong = {(row["train_index"], row["target"]): row for row in rows if row["difference"] > threshold}
    assert len(strong) == len(table)
    for got in table.itertuples():
        row = strong[got.train_index, getattr(got, target)]
        assert got.label == row["label"]
        assert got.influence == row["difference"]
        assert got.standard_error == pytest.approx(row["standard_error"], rel=1e-9)
        assert got.p_value == pytest.approx(row["p_value"], rel=1e-9)
        assert got.significant == row["significant"]


def compare_memorization(world: World, table: pd.DataFrame, kind: str) -> None:
    assert table["train_index"].tolist() == world.index["train"].tolist()
    assert table["label"].tolist() == world.labels["train"].tolist()
    for i, got in enumerate(table.itertuples()):
        a, n, b, m = counts = tally(world.mask[:, i], world.right[f"{kind}_train"][:, i])
        assert (got.n_in, got.n_out) == (n, m)
        assert (got.p_in, got.p_out) == (a / n, b / m)
        assert got.memorization == plain(*counts)["difference"]
        assert got.standard_error == pytest.approx(plain(*counts)["standard_error"], rel=1e-9)
        assert (got.ci_low, got.ci_high) == pytest.approx(interval(*counts, SPEC["confidence"]), rel=1e-9)
    assert table.index[table["atypical"]].tolist() == atypical_rows(world, kind)


EVERY = np.arange(MODELS)


# -- scores


@pytest.mark.usefixtures("told")
def test_the_world_has_cases_of_each_kind(world: World) -> None:
    rare = atypical_rows(world)
    assert 3 < len(rare) < SIZES["train"] - 1
    assert rare != atypical_rows(world, "robust")
    assert {int(world.labels["train"][i]) for i in rare} == {0, 1}
    for name in ("influence", "train_influence"):
        table = world.read(name)
        assert 0 < table["significant"].sum() < len(table)
    assert world.spec == SPEC
    for name in ("test_groups", "validation_groups"):
        assert 0 < world.read(name)["atypical"].sum() < len(world.read(name))


def test_memorization_equals_loops_over_the_shards(world: World, told: list[str]) -> None:
    compare_memorization(world, world.read("memorization"), "correct")
    rare = atypical_rows(world)
    assert told[0] == (
        f"60 models; {len(rare)} of 14 training samples are atypical (hard memorization over 0.2); 0 have no score"
    )
    assert told[1] == fit_text(world.read("memorization"))


@pytest.mark.usefixtures("told")
def test_soft_memorization_and_what_samples_are_taken_for_equal_loops_over_the_shards(world: World) -> None:
    table = world.read("memorization")
    for i, got in enumerate(table.itertuples()):
        inside, outside = (world.said["p_train"][world.mask[:, i] == has, i].astype(float) for has in (True, False))
        assert got.soft_memorization == pytest.approx(inside.mean() - outside.mean(), abs=1e-12)
        error = math.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
        assert got.soft_standard_error == pytest.approx(error, abs=1e-12)
        said = world.said["class_train"][~world.mask[:, i], i].tolist()
        assert got.taken_for == max((0, 1), key=said.count)
        assert got.taken_for_share == said.count(got.taken_for) / len(said)
    for split in ("test", "validation"):
        for j, got in enumerate(world.read(f"{split}_groups").itertuples()):
            assert got.soft_accuracy == pytest.approx(world.said[f"p_{split}"][:, j].astype(float).mean(), abs=1e-12)
            said = world.said[f"class_{split}"][:, j].tolist()
            assert got.taken_for_share == max(said.count(0), said.count(1)) / MODELS


def test_label_errors_equal_loops_over_the_shards(world: World, told: list[str]) -> None:
    expected = []
    for i in range(SIZES["train"]):
        without = ~world.mask[:, i]
        said, label = world.said["class_train"][without, i].tolist(), int(world.labels["train"][i])
        if said.count(1 - label) > len(said) / 2:
            probabilities = world.said["p_train"][without, i].astype(float).tolist()
            score = 1 - sum(probabilities) / len(probabilities)
            expected.append((-score, int(world.index["train"][i]), label))
    table = world.read("label_errors")
    assert 1 < len(table) < SIZES["train"]
    for (score, index, label), got in zip(sorted(expected), table.itertuples(), strict=True):
        assert (got.train_index, got.label, got.taken_for) == (index, label, 1 - label)
        assert (got.class_name, got.file) == (f"class {label}", f"train/{index}.png")
        assert got.taken_for_name == str(1 - label)
        assert got.score == pytest.approx(-score)
    assert f"{len(table)} training samples are taken for one other class by most models without them" in told


@pytest.mark.usefixtures("told")
def test_soft_influence_equals_welchs_test_over_the_shards(world: World) -> None:
    rows = []
    for i in atypical_rows(world):
        for j in np.flatnonzero(world.labels["test"] == world.labels["train"][i]):
            sides = [world.said["p_test"][world.mask[:, i] == has, j].astype(float) for has in (True, False)]
            test = ttest_ind(*sides, equal_var=False, alternative="greater")
            pair = (world.index["train"][i], world.index["test"][j])
            rows.append((pair, sides[0].mean() - sides[1].mean(), float(test.pvalue)))
    found = dict(zip([pair for pair, _, _ in rows], discovered([p for _, _, p in rows], 0.1), strict=True))
    known = {pair: (influence, p) for pair, influence, p in rows}
    table = world.read("influence")
    for got in table.itertuples():
        pair = (got.train_index, got.test_index)
        assert (got.soft_influence, got.soft_p_value) == pytest.approx(known[pair], abs=1e-12)
        assert got.soft_significant == found[pair]
    assert 0 < table["soft_significant"].sum() < len(table)
    assert (table["soft_p_value"] != table["p_value"]).all()
    groups = world.read("test_groups")
    softly = set(table.loc[table["soft_significant"], "test_index"])
    assert set(groups.loc[groups["soft_atypical"], "test_index"]) == softly
    assert groups["atypical"].tolist() == groups["hard_atypical"].tolist()


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("kind", "split"), [("memorization", "train"), ("test_groups", "test"), ("validation_groups", "validation")]
)
def test_each_sample_has_the_name_of_its_class_and_its_file(world: World, kind: str, split: str) -> None:
    table = world.read(kind)
    assert table["class_name"].tolist() == [f"class {label}" for label in world.labels[split]]
    assert table["file"].tolist() == [f"{split}/{index}.png" for index in world.index[split]]


@pytest.mark.usefixtures("told")
def test_the_most_memorized_samples_are_also_there_for_spreadsheets(world: World) -> None:
    assert (world.folder / "top.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # so that they take it for UTF-8
    top, table = pd.read_csv(world.folder / "top.csv"), world.read("memorization").set_index("train_index")
    assert top["memorization"].tolist() == pytest.approx(sorted(table["memorization"], reverse=True), abs=5e-5)
    of_top = table.loc[top["train_index"]]
    assert top["file"].tolist() == of_top["file"].tolist()
    assert top["p_out"].tolist() == pytest.approx(of_top["p_out"].tolist(), abs=5e-5)


def test_the_score_that_is_chosen_makes_the_groups(world: World, tmp_path: Path) -> None:
    made = World(tmp_path, seed=16)
    call("scores", tmp_path, **scores(*made.shards, spec=SPEC | {"score": "soft"}, log="log"))
    hard, soft = world.read("memorization"), made.read("memorization")
    pd.testing.assert_frame_equal(soft.drop(columns="atypical"), hard.drop(columns="atypical"))
    assert soft["atypical"].tolist() == (soft["soft_memorization"] > 0.2).tolist() != hard["atypical"].tolist()
    groups = made.read("test_groups")
    assert groups["atypical"].tolist() == groups["soft_atypical"].tolist()
    assert "(soft memorization over 0.2)" in (tmp_path / "log").read_text()
    most = soft.sort_values("soft_memorization", ascending=False)["train_index"]
    assert pd.read_csv(tmp_path / "top.csv")["train_index"].tolist() == most.tolist()


@pytest.mark.parametrize("split", ["test", "validation"])
def test_groups_equal_loops_over_the_shards(world: World, told: list[str], split: str) -> None:
    every = list(range(SIZES[split]))
    rows = all_pairs(world, atypical_rows(world), f"correct_{split}", split, every, False, 0.1, EVERY)
    memorization = dict(zip(world.index["train"], world.read("memorization")["memorization"], strict=True))
    table = world.read(f"{split}_groups")
    assert table[f"{split}_index"].tolist() == world.index[split].tolist()
    assert table["label"].tolist() == world.labels[split].tolist()
    assert (table["models"] == MODELS).all()
    for j, got in enumerate(table.itertuples()):
        assert got.accuracy == sum(world.right[f"correct_{split}"][:, j]) / MODELS
        mine = [row for row in rows if row["target"] == world.index[split][j]]
        best = min(mine, key=lambda row: (-row["difference"], row["train_index"]))
        assert got.max_influence == best["difference"]
        assert got.max_influence_train_index == best["train_index"]
        assert got.memorization == memorization[best["train_index"]]
        assert got.atypical == any(row["significant"] and row["difference"] > 0.2 for row in mine)
    found = int(table["atypical"].sum())
    assert f"{found} of {len(table)} {split} samples are atypical, from {len(rows)} pairs" in told
    assert not any(line.startswith(f"no {split} sample is atypical") for line in told)


@pytest.mark.usefixtures("told")
def test_influence_equals_loops_over_the_shards(world: World) -> None:
    every = list(range(SIZES["test"]))
    rows = all_pairs(world, atypical_rows(world), "correct_test", "test", every, False, 0.1, EVERY)
    compare_pairs(world.read("influence"), rows, "test_index", 0.2)


@pytest.mark.usefixtures("told")
def test_train_influence_equals_loops_over_models_that_left_the_influenced_sample_out(world: World) -> None:
    rare, every = atypical_rows(world), list(range(SIZES["train"]))
    rows = all_pairs(world, every, "correct_train", "train", rare, True, 0.1, EVERY)
    compare_pairs(world.read("train_influence"), rows, "influenced_index", 0.2)
    # by all models it would be another table
    by_all = [
        tally(world.mask[:, i], world.right["correct_train"][:, j])
        for i in every
        for j in rare
        if i != j and world.labels["train"][i] == world.labels["train"][j]
    ]
    assert [row["difference"] for row in rows] != [plain(*counts)["difference"] for counts in by_all]


def test_without_any_atypical_sample_the_log_says_what_to_do(tmp_path: Path) -> None:
    made = World(tmp_path, seed=16)
    call("scores", tmp_path, **scores(*made.shards, spec=SPEC | {"threshold": 0.99}, log="log"))
    log = (tmp_path / "log").read_text()
    for split in ("test", "validation"):
        found = (
            f"no {split} sample is atypical, so no rate of that group can be reported: there is no atypical training"
        )
        assert f"{found} sample of the same class to influence it: lower memorization.threshold (0.99)" in log
        assert not made.read(f"{split}_groups")["atypical"].any()
        assert made.read(f"{split}_groups")["max_influence"].isna().all()
    assert all(made.read(name).empty for name in ("influence", "train_influence"))
    assert "0 of 14 training samples are atypical (hard memorization over 0.99)" in log


def direct(world: World, folder: Path, shards: list[str] | None = None, **changed: Any) -> list[str]:
    """Call stage scores without a command line, its tables into a folder; return what it tells."""
    outputs = {name: folder / f"{name}.parquet" for name in TABLES} | {"top": folder / "top.csv"}
    files = changed.pop("files", world.folder / "files.parquet")
    inputs = {"data": world.folder / "data.safetensors", "files": files}
    paths = [world.folder / name for name in shards or world.shards]
    journal: Any = Lines()
    stage.scores(journal, spec=parse(ScoresSpec, SPEC | changed, ""), shards=paths, **inputs, **outputs)
    assert (journal.bars, journal.worked) == ([(2, "classes")], 1)
    return journal.lines  # type: ignore[no-any-return]


def test_where_no_pair_is_significant_the_number_of_models_that_it_takes_is_told(world: World, tmp_path: Path) -> None:
    lines = direct(world, tmp_path, false_discovery_rate=1e-6)
    table = world.read("memorization")
    for name in ("test", "validation"):
        groups = pd.read_parquet(tmp_path / f"{name}_groups.parquet")
        facts: Any = {"models": 60, "fraction": 9 / 14, "threshold": 0.2, "false_discovery_rate": 1e-6}
        reason = none_atypical(table, groups, **facts)
        assert "that is significant with 60 models: raise memorization.subset_models to" in reason
        assert f"no {name} sample is atypical, so no rate of that group can be reported: {reason}" in lines


def test_scores_are_of_models_and_names_of_the_same_data(world: World, tmp_path: Path) -> None:
    path, said = world.of_other_data(tmp_path)
    assert refusal(direct, world, tmp_path, [str(path)]) == said
    other, data = World(tmp_path, seed=2), world.folder / "data.safetensors"
    files = other.folder / "files.parquet"
    assert refusal(lambda: direct(world, tmp_path, files=files)) == (
        f"{data} and {files} are of different data: remove the one that is out of date, and run its stage again"
    )


def untrained(world: World) -> str:
    """Write a shard in which one model is never right on training samples, and return what is to be said of it."""
    table, facts = read_table_with_facts(world.folder / "shard-0.parquet", "subsets")
    table.at[4, "correct_train"] = bytes(2)
    rewrite(world.folder / "shard-0.parquet", "subsets", table, to=world.folder / "bad.parquet", spec=facts["spec"])
    own = (world.mask & world.right["correct_train"]).sum(1) / 9
    own[4] = 0
    found = failed_subsets(own, world.labels["train"], recipe="memorization.recipe")
    assert found
    return found


def test_models_that_did_not_train_are_told(world: World, tmp_path: Path) -> None:
    assert untrained(world) in direct(world, tmp_path, ["bad.parquet", "shard-35.parquet"])


# -- null-pairs


def null(world: World, memorization: Path, out: Path, shards: list[str] | None = None) -> Any:
    journal: Any = Lines()
    inputs = {"data": world.folder / "data.safetensors", "memorization": memorization}
    paths = [world.folder / name for name in shards or world.shards]
    stage.null_pairs(journal, spec=parse(NullPairsSpec, NULL, ""), shards=paths, **inputs, null_pairs=out)
    return journal


def test_pairs_by_each_score_are_told(world: World, tmp_path: Path) -> None:
    journal = null(world, world.folder / "memorization.parquet", tmp_path / "null_pairs.parquet")
    assert (journal.bars, journal.worked) == ([(2, "classes")], 1)
    table = world.read("null_pairs")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "null_pairs.parquet"), table)
    assert journal.lines == [
        f"{name}: {column[0]} pairs found; {sum(column[1:]) / 3:.2f} by chance, the mean of 3 shuffles"
        for name, column in (("hard", table["found"].tolist()), ("soft", table["soft_found"].tolist()))
    ]


def other_scores(world: World, folder: Path) -> dict[str, Path]:
    """Write scores of other data, of other samples and of other models; return the files by what is said of them."""
    table, facts = read_table_with_facts(world.folder / "memorization.parquet", "memorization")
    other = table.assign(label=1 - table["label"])
    names = {
        f"{world.folder / 'data.safetensors'} and {folder / 'a.parquet'} are of different data": "a",
        "row 0 is sample": "b",
        "of other subset models than": "c",
    }
    paths = {said: folder / f"{name}.parquet" for said, name in names.items()}
    for path, content, changed in zip(
        paths.values(), (table, other, table), ({"data": "another"}, {}, {"models": 59}), strict=True
    ):
        given = {"spec": facts["spec"]} | changed
        rewrite(world.folder / "memorization.parquet", "memorization", content, to=path, **given)
    return paths


def test_pairs_by_chance_are_of_the_scores_of_these_models(world: World, tmp_path: Path) -> None:
    for said, path in other_scores(world, tmp_path).items():
        line = refusal(null, world, path, tmp_path / "null_pairs.parquet")
        assert said in line
        assert str(path) in line
    assert not (tmp_path / "null_pairs.parquet").exists()


def test_pairs_by_chance_are_of_models_of_the_same_data(world: World, tmp_path: Path) -> None:
    path, said = world.of_other_data(tmp_path)
    assert refusal(null, world, world.folder / "memorization.parquet", tmp_path / "out.parquet", [str(path)]) == said


def test_null_pairs_equal_loops_over_shuffled_models(world: World) -> None:
    null(world, world.folder / "memorization.parquet", world.folder / "null_pairs.parquet")
    table = world.read("null_pairs")
    assert world.spec == NULL
    assert table["shuffle"].tolist() == [0, 1, 2, 3]
    every = list(range(SIZES["test"]))
    found_at = []
    for shuffle, got in enumerate(table.itertuples()):
        order = EVERY
        if shuffle:
            order = np.random.default_rng(derive_seed(NULL["seed"], "null", shuffle)).permutation(MODELS)
        rows = all_pairs(world, atypical_rows(world), "correct_test", "test", every, False, 0.3, order)
        strong = [row for row in rows if row["difference"] > 0.2]
        both = [row for row in strong if row["significant"]]
        assert got.pairs == len(rows)
        assert got.significant == sum(row["significant"] for row in rows)
        assert got.over_threshold == len(strong)
        assert got.found == len(both)
        assert got.targets == len({row["target"] for row in both})
        found_at.append(len(both))
    assert found_at[0] > max(found_at[1:])
    assert sum(found_at[1:])
    for one, other in zip(("targets", "found", "significant"), ("found", "over_threshold", "pairs"), strict=True):
        assert (table[one] < table[other]).any()
    log = (world.folder / "null.log").read_text()
    assert f"{found_at[0]} pairs found; {sum(found_at[1:]) / 3:.2f} by chance, the mean of 3 shuffles" in log


# -- robust-scores


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Scores and groups here are of other models than the shards, and say something else."""
    made = World(tmp_path_factory.mktemp("robust"), seed=29)
    random = np.random.default_rng(9)
    made.rare, made.odd = np.arange(14) % 3 == 0, np.arange(9) % 4 == 1  # type: ignore[attr-defined]
    made.scored = random.random(14)  # type: ignore[attr-defined]
    known = dict.fromkeys(("standard_error", "ci_low", "ci_high", "p_in", "p_out"), 0.5) | {"n_in": 2, "n_out": 2}
    table = pd.DataFrame({"train_index": made.index["train"], "label": made.labels["train"]})
    table = table.assign(memorization=made.scored, atypical=made.rare, **known)  # type: ignore[attr-defined]
    write_table(
        made.folder / "memorization.parquet",
        "memorization",
        whole(table, "memorization"),
        provenance("memorization", data=made.data.digest()),
    )
    table = pd.DataFrame({"test_index": made.index["test"], "label": made.labels["test"], "atypical": made.odd})  # type: ignore[attr-defined]
    table = table.assign(accuracy=0.5, models=4, max_influence=0.5, max_influence_train_index=1, memorization=0.9)
    write_table(
        made.folder / "test_groups.parquet",
        "test_groups",
        whole(table, "test_groups"),
        provenance("test_groups", data=made.data.digest()),
    )
    call(
        "robust-scores",
        made.folder,
        spec=SPEC,
        data="data.safetensors",
        shards=made.shards,
        memorization="memorization.parquet",
        test_groups="test_groups.parquet",
        **{name: f"{name}.parquet" for name in ROBUST},
        log="log",
    )
    return made


@pytest.fixture
def robust_anew(robust: World) -> Any:
    """The tables anew, made by the test that reads them: a mutant is run by the tests that call what is changed."""
    return robustly(robust, robust.folder)


@pytest.mark.usefixtures("robust_anew")
def test_robust_memorization_equals_loops_over_the_shards(robust: World) -> None:
    compare_memorization(robust, robust.read("robust_memorization"), "robust")
    assert robust.spec == SPEC


@pytest.mark.usefixtures("robust_anew")
def test_robust_influence_equals_loops_over_the_shards(robust: World) -> None:
    rare = np.flatnonzero(robust.rare).tolist()  # type: ignore[attr-defined]
    rows = all_pairs(robust, rare, "robust_test", "test", list(range(9)), False, 0.1, EVERY)
    table = robust.read("robust_influence")
    compare_pairs(table, rows, "test_index", 0.2)
    assert 0 < table["significant"].sum() < len(table)


def test_robust_effects_equal_welchs_test_on_typical_test_samples(robust: World, robust_anew: Any) -> None:
    table = robust.read("robust_effects")
    rare = np.flatnonzero(robust.rare)  # type: ignore[attr-defined]
    assert table["train_index"].tolist() == robust.index["train"][rare].tolist()
    assert table["label"].tolist() == robust.labels["train"][rare].tolist()
    assert table["memorization"].tolist() == robust.scored[rare].tolist()  # type: ignore[attr-defined]
    assert (table["models"] == MODELS).all()
    lowered = 0
    for name, column in (("clean", "correct_test"), ("robust", "robust_test")):
        accuracy = robust.right[column][:, ~robust.odd].mean(1)  # type: ignore[attr-defined]
        p_values = []
        for i, got in zip(rare, table.itertuples(), strict=True):
            inside, outside = accuracy[robust.mask[:, i]], accuracy[~robust.mask[:, i]]
            assert (got.n_in, got.n_out) == (len(inside), len(outside))
            assert getattr(got, f"{name}_effect") == pytest.approx(inside.mean() - outside.mean(), abs=1e-12)
            error = math.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside))
            assert getattr(got, f"{name}_standard_error") == pytest.approx(error)
            p_values.append(float(ttest_ind(inside, outside, equal_var=False).pvalue))
            assert getattr(got, f"{name}_p_value") == pytest.approx(p_values[-1])
        found = discovered(p_values, 0.1)
        assert table[f"{name}_significant"].tolist() == found
        lowered = sum(hit and effect < 0 for hit, effect in zip(found, table[f"{name}_effect"], strict=True))
    assert 0 < lowered < sum(found) < len(found)
    over = len(atypical_rows(robust, "robust"))
    assert (
        f"60 models; {over} training samples have robust memorization over 0.2; {lowered} of {len(rare)} atypical "
        "samples lower the robust accuracy of typical ones"
    ) in robust_anew.lines


def robustly(world: World, folder: Path, shards: Any = None, score: str = "hard", **inputs: Path) -> Any:
    journal: Any = Lines()
    files = {name: world.folder / f"{name}.parquet" for name in ("memorization", "test_groups")} | inputs
    outputs: Any = {name: folder / f"{name}.parquet" for name in ROBUST}
    paths = [world.folder / name for name in shards or world.shards]
    data = world.folder / "data.safetensors"
    spec = parse(ScoresSpec, SPEC | {"score": score}, "")
    robust_scores(journal, spec=spec, data=data, shards=paths, **files, **outputs)
    return journal


def test_models_that_did_not_train_are_told_of_robust_scores_too(robust: World, tmp_path: Path) -> None:
    problem = untrained(robust)
    journal = robustly(robust, tmp_path, ["bad.parquet", "shard-35.parquet"])
    assert (journal.bars, journal.worked) == ([(2, "classes")], 1)
    assert problem in journal.lines


def test_robust_memorization_is_over_the_threshold_by_the_score_that_is_chosen(robust: World, tmp_path: Path) -> None:
    robustly(robust, tmp_path, score="soft")
    table = pd.read_parquet(tmp_path / "robust_memorization.parquet")
    soft, hard = (table[name] > 0.2 for name in ("soft_memorization", "memorization"))
    assert table["atypical"].tolist() == soft.tolist() != hard.tolist()


def test_robust_scores_are_of_models_of_the_same_data(robust: World, tmp_path: Path) -> None:
    path, said = robust.of_other_data(tmp_path)
    assert refusal(robustly, robust, tmp_path, [str(path)]) == said


@pytest.mark.usefixtures("robust_anew")
def test_robust_memorization_has_the_names_and_predictions_of_its_samples(robust: World) -> None:
    table, scored = robust.read("robust_memorization"), pd.read_parquet(robust.folder / "memorization.parquet")
    pd.testing.assert_frame_equal(table[["class_name", "file"]], scored[["class_name", "file"]])
    for i, got in enumerate(table.itertuples()):
        said = robust.said["robust_class_train"][~robust.mask[:, i], i].tolist()
        assert got.taken_for == max((0, 1), key=said.count)
        assert got.taken_for_share == said.count(got.taken_for) / len(said)


@pytest.mark.parametrize(
    ("name", "change", "facts", "said"),
    [
        ("memorization", {}, {"data": "another"}, "data.safetensors and {path} are of different data"),
        ("test_groups", {}, {"data": "another"}, "data.safetensors and {path} are of different data"),
        ("memorization", {"label": 7}, {}, "memorization.parquet: row 0 is sample"),
        ("test_groups", {"label": 7}, {}, "test_groups.parquet: row 0 is sample"),
        (
            "test_groups",
            {},
            {"spec": "another"},
            "memorization.parquet and {path} are not of one run of their stage: run it again",
        ),
        (
            "test_groups",
            {"atypical": True},
            {},
            "test_groups.parquet: no test sample is typical, so no effect on these: raise memorization.threshold",
        ),
    ],
)
def test_robust_scores_are_of_one_data_set_and_one_run(
    robust: World, tmp_path: Path, name: str, change: Any, facts: Any, said: str
) -> None:
    table = read_table(robust.folder / f"{name}.parquet", name).assign(**change)
    path = tmp_path / f"{name}.parquet"
    rewrite(robust.folder / f"{name}.parquet", name, table, to=path, **facts)
    assert said.format(path=path) in refusal(lambda: robustly(robust, tmp_path, **{name: path}))


# -- harmful


@given(seed=st.integers(0, 10_000), epochs=st.lists(st.integers(1, 6), min_size=1, max_size=3))
@settings(max_examples=15, derandomize=True)
def test_harmful_equals_loops_over_the_records(tmp_path_factory: Any, seed: int, epochs: list[int]) -> None:
    folder, random = tmp_path_factory.mktemp("harmful"), np.random.default_rng(seed)
    index, labels, scored = np.array([3, 8, 20, 21]), np.array([1, 0, 0, 1]), np.array([0.5, 0.3, 0.9, 0.3])
    values: dict[int, list[float]] = {i: [] for i in range(4)}
    for run, last in enumerate(epochs):
        parts = []
        for epoch in range(1, last + 1):
            wrong = np.where(random.random(4) < 0.5, random.uniform(0.3, 1, 4), 0.0)
            packed = {"wrong_probability": wrong.astype("<f4").tobytes(), "weight": np.ones(4, "<f4").tobytes()}
            parts.append({"method": "a", "seed": run, "epoch": epoch} | packed)
            for i in range(4):
                if 2 * epoch > last:
                    values[i].append(wrong[i])
        table = pd.DataFrame(parts, columns=SCHEMAS["records"].names).convert_dtypes()
        about = provenance("records", spec={"method": "a", "seed": run}, data="digest")
        write_table(folder / f"{run}.parquet", "records", table, about)
    known = dict.fromkeys(("standard_error", "ci_low", "ci_high", "p_in", "p_out"), 0.5) | {"n_in": 2, "n_out": 2}
    table = pd.DataFrame({"train_index": index, "label": labels, "memorization": scored, "atypical": True} | known)
    write_table(
        folder / "memorization.parquet",
        "memorization",
        whole(table, "memorization"),
        provenance("memorization", data="digest"),
    )
    spec = {"threshold": 0.35}
    records = [f"{run}.parquet" for run in range(len(epochs))]
    call(
        "harmful",
        folder,
        spec=spec,
        memorization="memorization.parquet",
        records=records,
        harmful="harmful.parquet",
        log="log",
    )
    table, facts = read_table_with_facts(folder / "harmful.parquet", "harmful")
    assert facts["spec"] == spec
    assert table["train_index"].tolist() == index.tolist()
    assert table["label"].tolist() == labels.tolist()
    assert table["memorization"].tolist() == scored.tolist()
    means = [sum(values[i]) / len(values[i]) for i in range(4)]
    assert table["wrong_probability"].tolist() == pytest.approx(means)
    assert table["wrong_share"].tolist() == [sum(q > 0 for q in values[i]) / len(values[i]) for i in range(4)]
    assert table["harmful"].tolist() == [mean > 0.35 for mean in means]
    number = sum(mean > 0.35 for mean in means)
    assert f"{number} of 4 atypical training samples are harmful" in (folder / "log").read_text()


# -- subsets


@pytest.mark.parametrize("design", ["balanced", "independent"])
def test_a_shard_has_each_model_of_its_numbers_trained_on_its_subset(tmp_path: Path, design: str) -> None:
    made = World(tmp_path, seed=2)
    recipe = RECIPE | {"epochs": 20, "batch_size": 4}
    fraction = 0.6
    spec = SUBSETS | {
        "model": {"name": "mlp", "width": 8},
        "subset_fraction": fraction,
        "design": design,
        "seed": 7,
        "recipe": recipe,
        "first_model": 4,
        "models": 3,
    }
    call("subsets", tmp_path, spec=spec, data="data.safetensors", shard="out.parquet")
    table, facts = read_table_with_facts(tmp_path / "out.parquet", "subsets")
    assert (facts["kind"], facts["spec"]) == ("subsets", json.loads(json.dumps(spec)))
    assert facts["data"] == made.data.digest()
    assert table["model"].tolist() == [4, 5, 6]
    assert table["seed"].tolist() == [derive_seed(7, "model", number) for number in (4, 5, 6)]
    masks = subset_masks(14, 8, design=design, seed=7, first=0, count=7)[4:]
    assert np.array_equal(unpack(table["in_subset"], 14, ""), masks)
    assert table[["robust_train", "robust_validation", "robust_test"]].isna().all(axis=None)
    assert not (tmp_path / "out.parquet.parts").exists()
    found = {name: unpack(table[f"correct_{name}"], n, "") for name, n in SIZES.items()}
    said = {
        kind: {name: np.stack([np.frombuffer(row, kind_) for row in table[f"{kind}_{name}"]]) for name in SIZES}
        for kind, kind_ in (("p", "<f2"), ("class", "u1"))
    }
    for row, mask in enumerate(masks):
        seed = derive_seed(7, "model", 4 + row)
        subset = made.data.train.take(torch.tensor(np.flatnonzero(mask)))
        model = build(SizedModel(name="mlp", width=8), subset, classes=2, seed=seed)
        goal = objective(Natural(name="natural", objective="natural"))
        list(fit(model, subset, objective=goal, recipe=parse(Recipe, recipe, ""), seed=seed, what=""))
        model.eval()
        for name, part in made.data.parts().items():
            with torch.no_grad():
                logits = [model(part.images(slice(i, i + 1)))[0] for i in range(len(part))]
            classes = [int(values.argmax()) for values in logits]
            labels = part.labels.tolist()
            assert said["class"][name][row].tolist() == classes
            assert found[name][row].tolist() == [one == label for one, label in zip(classes, labels, strict=True)]
            p = [float(values.double().softmax(0)[label]) for values, label in zip(logits, labels, strict=True)]
            assert said["p"][name][row].astype(float).tolist() == pytest.approx(p, abs=1e-3)
    assert 0 < found["train"].mean() < 1
    assert not np.array_equal(found["train"][0], found["train"][1])


def train_shard(world: World, **given: Any) -> Any:
    journal: Any = Lines()
    spec = parse(SubsetsSpec, SUBSETS | {"first_model": 4, "models": 3} | given.pop("spec", {}), "")
    data, shard = world.folder / "data.safetensors", world.folder / "out.parquet"
    stage.subsets(journal, spec=spec, data=data, shard=shard, **given)
    return journal


@pytest.mark.parametrize(("stacks", "number"), [(True, 7), (False, 7), (False, 1)])
def test_a_shard_is_what_its_models_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stacks: bool, number: int
) -> None:
    """Each model answers by its seed alone, stacked or not; of the second stack one fails, and is trained by itself."""
    world, asked, at_once = World(tmp_path), list[Any](), 3
    monkeypatch.setattr(stage, "MODELS", at_once)
    given = {"first_model": 4, "models": number, "subset_fraction": 0.55, "seed": 7, "design": "independent"}
    spec = parse(SubsetsSpec, SUBSETS | given, "")
    masks = subset_masks(14, 8, design="independent", seed=7, first=4, count=number)
    seeds = [derive_seed(7, "model", 4 + row) for row in range(number)]
    failed = derive_seed(7, "model", 4 + at_once + 2)

    def keep(what: str, samples: Any, of: Any, its_spec: Any, more: Any) -> None:
        assert (samples.digest(), its_spec) == (world.data.digest(), spec)
        asked.append((what, np.asarray(of).tolist(), more))

    def stackable(samples: Any, masks: Any, spec: Any, *, seeds: list[int]) -> bool:
        keep("stackable", samples, masks, spec, seeds)
        return stacks

    def train_stacked(samples: Any, masks: Any, spec: Any, *, seeds: list[int]) -> list[str | None]:
        keep("stacked", samples, masks, spec, seeds)
        return [f"model {seed}" if seed != failed else None for seed in seeds]

    def said(seed: int) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(seed % 2**32)
        return {
            name: values
            for split, n in SIZES.items()
            for name, values in said_columns(
                split,
                torch.rand(n, generator=random) < 0.5,
                torch.rand(n, generator=random),
                torch.randint(-1, 2, (n,), generator=random),
                2,
            ).items()
        }

    def answers(model: str, samples: Any, spec: Any, *, seed: int) -> dict[str, torch.Tensor]:
        keep("answers", samples, [], spec, model)
        assert model == f"model {seed}"
        return said(seed)

    def recorded(samples: Any, subset: Any, spec: Any, *, seed: int, what: str) -> dict[str, torch.Tensor]:
        keep("recorded", samples, subset.index, spec, (seed, what))
        return said(seed)

    def failed_subsets(shares: Any, labels: Any, *, recipe: str) -> None:
        own.append((shares.tolist(), labels.tolist(), recipe))

    own = list[Any]()
    for function in (stackable, train_stacked, answers, recorded, failed_subsets):
        monkeypatch.setattr(stage, function.__name__, function)
    damaged = tmp_path / "out.parquet.parts/4.safetensors"
    damaged.parent.mkdir()
    damaged.touch()
    journal = train_shard(world, spec=given, device="cpu", all_models=7)
    assert journal.lines == [f"{damaged}: damaged, or of another version: made anew"]
    assert (journal.bars, journal.worked) == ([(number, "models")], 1)
    expected: list[Any] = [("stackable", masks[:at_once].tolist(), seeds[:at_once])]
    for row, (mask, seed) in enumerate(zip(masks, seeds, strict=True)):
        alone = ("recorded", world.index["train"][mask].tolist(), (seed, f"subset model {4 + row} (seed 7)"))
        if stacks and row % at_once == 0:
            some = slice(row, row + at_once)
            expected.append(("stacked", masks[some].tolist(), seeds[some]))
        expected.append(("answers", [], f"model {seed}") if stacks and seed != failed else alone)
    assert asked == expected
    table, facts = read_table_with_facts(tmp_path / "out.parquet", "subsets")
    assert (facts["spec"], facts["data"]) == (json.loads(json.dumps(asdict(spec))), world.data.digest())
    assert (table["model"].tolist(), table["seed"].tolist()) == (list(range(4, 4 + number)), seeds)
    assert np.array_equal(unpack(table["in_subset"], 14, ""), masks)
    for row, seed in enumerate(seeds):
        for name, values in said(seed).items():
            kept = np.packbits(values) if values.dtype == torch.bool else values.numpy()
            assert table[name][row] == kept.tobytes()
    assert table.drop(columns=["model", "seed", "in_subset", *said(0)]).isna().all(axis=None)
    right = [said(seed)["correct_train"].numpy()[mask] for mask, seed in zip(masks, seeds, strict=True)]
    labels = world.labels["train"].tolist()
    assert own == [([values.mean() for values in right], labels, "memorization.recipe")]
    assert not (tmp_path / "out.parquet.parts").exists()


def test_what_is_kept_of_an_unfinished_shard_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(stage, "shutil", SimpleNamespace(rmtree=lambda folder: None))
        journal = train_shard(world)
    assert (journal.bars, journal.worked) == ([(3, "models")], 1)
    spec = json.loads(json.dumps(SUBSETS | {"first_model": 4, "models": 3}))
    about = {"kind": "part", "spec": spec, "data": world.data.digest(), "format": ANSWERS_FORMAT}
    for number in (4, 5, 6):
        facts = read_tensors(tmp_path / f"out.parquet.parts/{number}.safetensors", "part")[1]
        assert about | {"model": number} == {name: value for name, value in facts.items() if name != "version"}
    before = (tmp_path / "out.parquet").read_bytes()
    (tmp_path / "out.parquet").unlink()
    monkeypatch.setattr(stage, "stackable", lambda *_, **__: pytest.fail("trained again"))
    assert train_shard(world).lines == journal.lines
    assert (tmp_path / "out.parquet").read_bytes() == before
    assert not (tmp_path / "out.parquet.parts").exists()


def test_subset_models_that_did_not_train_are_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    journal = train_shard(world, spec={"recipe": RECIPE | {"learning_rate": 1e-6}})
    table = pd.read_parquet(tmp_path / "out.parquet")
    mask, right = unpack(table["in_subset"], 14, ""), unpack(table["correct_train"], 14, "")
    own = np.array([right[row][mask[row]].mean() for row in range(3)])
    problem = failed_subsets(own, world.labels["train"], recipe="memorization.recipe")
    assert problem
    assert journal.lines == [problem]


def test_so_few_models_that_a_sample_would_have_no_score_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    line = refusal(lambda: train_shard(world, all_models=3))
    assert line == (
        "memorization.subset_models is 3, too small for subsets of 10 of 14: some sample would never be left out, or "
        "never in; take at least 4"
    )
    train_shard(world, all_models=4)


ADVERSARY = {
    "threat": {"norm": "linf", "eps": 0.2},
    "attack": {"steps": 2, "step_size": 0.1},
    "attack_bn": "eval",
}


@pytest.mark.parametrize("adversary", [None, ADVERSARY], ids=["natural", "robust"])
def test_a_model_is_trained_on_its_subset_and_asked_of_all_samples(tmp_path: Path, adversary: Any) -> None:
    world = World(tmp_path)
    recipe = RECIPE | {"epochs": 2, "batch_size": 4}
    given = {"first_model": 0, "recipe": recipe, "adversary": adversary, "compute": COMPUTE | {"precision": "bfloat16"}}
    spec, subset = parse(SubsetsSpec, SUBSETS | given, ""), subset_of(world.data, world.mask[0])
    assert subset.index.tolist() == world.index["train"][world.mask[0]].tolist()
    found = recorded(world.data, subset, spec, seed=3, what="")
    assert spec.model is not None
    model = build(spec.model, subset, classes=2, seed=3)
    goal = Natural(name="natural", objective="natural")
    if adversary:
        goal = PgdAt(name="pgd_at", objective="pgd_at", eps_factor=1.0, awp=0.0)  # type: ignore[assignment]
    options: Any = {"adversary": spec.adversary, "compute": spec.compute}
    list(fit(model, subset, objective=objective(goal), recipe=spec.recipe, seed=3, what="", **options))
    expected = {}
    for name, part in world.data.parts().items():
        if spec.adversary is None:
            expected |= said_columns(name, *judged(model, part), 2)
            continue
        attack: Any = {"threat": spec.adversary.threat, "attack": spec.adversary.attack, "seed": 3}
        clean, attacked = judged_under_attack(model, part, **attack)
        expected |= said_columns(name, *clean, 2) | said_columns(name, *attacked, 2, under_attack=True)
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in expected.items()
    }
    assert len(found) == (18 if adversary else 9)


def test_a_subset_model_that_nothing_trains_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    spec = parse(SubsetsSpec, SUBSETS | {"first_model": 0}, "")
    line = refusal(lambda: recorded(world.data, world.data.train, replace(spec, model=None), seed=3, what=""))
    assert line == "spec: model is null, and so is trainer: give one"


def test_a_subset_model_that_diverges_is_named_by_its_number(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    World(tmp_path)
    monkeypatch.setattr("bat.training.loop.learning_rate_factor", lambda *_: 1e31)
    spec = SUBSETS | {"recipe": RECIPE, "first_model": 5, "models": 2, "seed": 3}
    with pytest.raises(SystemExit):
        call("subsets", tmp_path, spec=spec, data="data.safetensors", shard="out.parquet")
    assert "subset model 5 (seed 3): the loss is" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
