"""The workflow as a user runs it: real snakemake processes on the smoke experiment, each in a folder of its own."""

import base64
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from experiments import SMOKE, edit, kill_when, new_experiment, planned, run, snakemake, tables

from bat.config import load
from bat.io.schemas import SCHEMAS


@pytest.fixture
def copy(finished, tmp_path):
    """A finished experiment that a test may change. Times are kept, so that nothing reruns by itself."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_everything_is_there_and_opens(finished):
    results = finished / SMOKE
    for name in (
        "memorization",
        "influence",
        "train_influence",
        "test_groups",
        "validation_groups",
        "label_errors",
        "duplicates",
        "proxies",
    ):
        assert list(pd.read_parquet(results / "scores" / f"{name}.parquet")) == SCHEMAS[name].names
    assert (results / "evaluation" / "bat" / "seed-1" / "images.safetensors").exists()  # as the config asks
    summary = pd.read_parquet(results / "evaluation" / "summary.parquet")
    assert set(summary["method"]) == {"natural", "pgd_at", "bat"}
    assert (summary["seeds"] == 2).all()
    compared = pd.read_parquet(results / "evaluation" / "comparisons.parquet")
    assert set(zip(compared["method"], compared["baseline"], strict=True)) == {
        ("natural", "pgd_at"),
        ("bat", "pgd_at"),
    }
    assert len(pd.read_parquet(results / "scores" / "null_pairs.parquet")) == 1 + 20
    agreement = pd.read_parquet(results / "scores" / "proxy_agreement.parquet")
    # seven proxies and the halves of the models, by two scores and three metrics
    assert (len(agreement), agreement["runs"].unique().tolist()) == (8 * 2 * 3, [2])
    assert set(pd.read_parquet(results / "evaluation" / "per_sample.parquet")["method"]) == {"natural", "pgd_at", "bat"}
    assert "`bat` has a better trade-off than `pgd_at`" in (results / "results.md").read_text()
    drawn = ("differences", "tradeoff", "typical_atypical", "memorization", "gallery", "influence", "curves")
    for figure in (*drawn, "overfitting", "weights", "adversarial"):
        assert (results / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        svg = (results / "figures" / f"{figure}.svg").read_bytes()
        assert b"<svg" in svg
        assert base64.b64encode(svg).decode() in (results / "report.html").read_text()


def test_a_second_run_has_nothing_to_do(copy):
    assert planned(copy) == {}


def test_the_whole_configuration_is_kept_beside_the_results(copy):
    kept, files = copy / SMOKE / "config.yaml", ("config/config.yaml", "config/smoke.yaml")
    expected = load(*(str(copy / file) for file in files))
    assert load(str(kept)) == expected
    # the same experiment: also over another, and without it
    assert planned(copy, configfile=f"{SMOKE}/config.yaml") == {}
    assert planned(copy, "--replace-workflow-config", configfile=f"{SMOKE}/config.yaml") == {}


def test_one_stage_runs_alone(tmp_path):
    folder = new_experiment(tmp_path)
    assert planned(folder, f"{SMOKE}/scores/memorization.parquet") == {"data": 1, "subsets": 2, "scores": 1}


def test_scores_from_a_file_skip_the_subset_models(finished, tmp_path):
    folder = new_experiment(tmp_path)
    own = pd.read_parquet(finished / SMOKE / "scores" / "memorization.parquet")
    own[["train_index", "memorization", "label"]].to_csv(folder / "own.csv", index=False)
    edit(folder, lambda config: config.update(scores={"source": "file", "path": "own.csv", "format": "table"}))
    everything = planned(folder)
    assert "subsets" not in everything
    assert "scores" not in everything
    assert "null_pairs" not in everything
    assert (everything["import_scores"], everything["train"], everything["evaluate"]) == (1, 6, 6)
    assert everything["proxies"] == everything["duplicates"] == 1
    target, duplicates = f"{SMOKE}/scores/memorization.parquet", f"{SMOKE}/scores/duplicates.parquet"
    done = snakemake(folder, target, duplicates)
    assert done.returncode == 0, done.stderr
    assert pd.read_parquet(folder / duplicates)["max_influence"].isna().all()
    found = pd.read_parquet(folder / target)
    pd.testing.assert_series_equal(found["memorization"], own["memorization"])
    pd.testing.assert_series_equal(found["atypical"], own["atypical"])


def test_editing_one_method_reruns_that_method_and_what_follows(copy):
    def change(config):
        config["training"]["methods"] = ["natural", "pgd_at", {"name": "bat", "alpha": 2.0}]

    edit(copy, change)
    assert planned(copy) == {
        "train": 2,
        "evaluate": 2,
        "groups": 1,
        "summary": 1,
        "figures": 1,
        "results": 1,
        "page": 1,
        "explorer": 1,
    }


def test_another_threshold_trains_and_attacks_bat_alone(copy):
    edit(copy, lambda config: config["memorization"].update(threshold=0.25))
    again = {"scores": 1, "null_pairs": 1, "duplicates": 1, "proxies": 1, "train": 2, "evaluate": 2, "groups": 1}
    assert planned(copy) == again | {"summary": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}
    models, evaluations = copy / SMOKE / "models", copy / SMOKE / "evaluation"
    kept = {path: path.stat().st_mtime_ns for path in [*models.glob("*/*/*"), *evaluations.glob("*/*/*")]}
    before = {path: path.read_bytes() for path in models.glob("*/*/history.parquet")}
    done = snakemake(copy, f"{SMOKE}/evaluation/summary.parquet", f"{SMOKE}/models/pgd_at/seed-0/history.parquet")
    assert done.returncode == 0, done.stderr
    made = {path for path, moment in kept.items() if path.stat().st_mtime_ns != moment}
    assert all(path.parts[-3] == "bat" or path.name in ("history.parquet", "samples.parquet") for path in made)
    assert all(path in made and path.read_bytes() != bytes_ for path, bytes_ in before.items())
    atypical = pd.read_parquet(copy / SMOKE / "scores" / "memorization.parquet").query("memorization > 0.25")
    for path in models.glob("*/*/samples.parquet"):
        assert set(pd.read_parquet(path)["train_index"]) == set(atypical["train_index"])


def test_more_subset_models_train_only_the_new_ones(copy):
    before = (copy / SMOKE / "subsets" / "shard-001.parquet").read_bytes()
    edit(copy, lambda config: config["memorization"].update(subset_models=60))
    target = f"{SMOKE}/scores/memorization.parquet"
    assert planned(copy, target) == {"subsets": 1, "scores": 1}
    assert snakemake(copy, target).returncode == 0
    assert (copy / SMOKE / "subsets" / "shard-001.parquet").read_bytes() == before
    counts = pd.read_parquet(copy / target)
    assert (counts["n_in"] + counts["n_out"] == 60).all()


def test_shard_size_and_jobs_change_no_score(finished, tmp_path):
    folder = new_experiment(tmp_path)
    edit(folder, lambda config: config["memorization"].update(models_per_shard=10))
    targets = (f"{SMOKE}/scores/null_pairs.parquet", f"{SMOKE}/scores/duplicates.parquet")
    done = snakemake(folder, *targets, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    expected = tables(finished / SMOKE / "scores")
    # of natural training, which is not run here
    proxies = {path: expected.pop(path) for path in (Path("proxies.parquet"), Path("proxy_agreement.parquet"))}
    assert all(proxies.values())
    assert tables(folder / SMOKE / "scores") == expected


def test_merged_shards_of_another_machine_are_used_and_an_edit_of_their_keys_is_noticed(finished, tmp_path):
    folder, target = new_experiment(tmp_path), f"{SMOKE}/scores/label_errors.parquet"
    assert snakemake(folder, f"{SMOKE}/data/data.safetensors").returncode == 0
    merged = run(folder, "bat", "merge", "--configfile", "config/smoke.yaml", "--shards", finished / SMOKE / "subsets")
    assert merged.returncode == 0, merged.stderr
    assert snakemake(folder, "--touch", "--forcerun", "subsets", "--until", "subsets").returncode == 0
    assert planned(folder, target) == {"scores": 1}
    done = snakemake(folder, target)
    assert done.returncode == 0, done.stderr
    found = tables(folder / SMOKE)
    assert found.items() <= tables(finished / SMOKE).items()
    assert len(found) == 1 + 2 + 6
    edit(folder, lambda config: config["memorization"].update(seed=3))
    assert planned(folder, target) == {"subsets": 2, "scores": 1}


def test_a_killed_run_goes_on_and_ends_with_the_same_tables(finished, copy):
    trained = copy / SMOKE / "models"
    already = list(trained.glob("pgd_at/*/records.parquet"))
    for place in ("models/natural", "models/bat", "evaluation", "figures"):
        shutil.rmtree(copy / SMOKE / place)

    def more():
        return len(list(trained.glob("*/*/records.parquet"))) > len(already)

    # when some models are there and others are being trained
    kill_when(copy, "--until", "train", true=more, within=120)
    kept = tables(trained)
    assert snakemake(copy, "--unlock").returncode == 0
    done = snakemake(copy, "--until", "train")
    assert done.returncode == 0, done.stderr
    assert not list(copy.rglob("*.tmp"))
    made, expected = tables(trained), tables(finished / SMOKE / "models")
    assert kept.items() < made.items() <= expected.items()
    assert [path for path in expected if path.name == "records.parquet" and path not in made] == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda config: config["memorization"].update(subset_model=40), "memorization.subset_model: unknown key"),
        (lambda config: config["memorization"].update(subset_fraction=1.0), "memorization.subset_fraction"),
        (lambda config: config["memorization"].update(subset_models=2, models_per_shard=1), "take at least 4"),
        (lambda config: config["data"].update(name="letters"), "data.name: "),
        (lambda config: config["training"].update(seeds="0"), "training.seeds"),
        (lambda config: config["training"].update(methods=[{"name": "a", "objective": "b"}]), "training.methods.0"),
    ],
)
def test_bad_config_is_one_line_and_status_2(tmp_path, change, place):
    folder = new_experiment(tmp_path)
    edit(folder, change)
    done = snakemake(folder, "--quiet", "all")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("config/")]
    assert any(place in line for line in lines)
    assert "Traceback" not in done.stderr
    assert not (folder / "results").exists()


def test_a_failed_stage_leaves_no_output_and_tells_why(tmp_path):
    folder = new_experiment(tmp_path)
    wild = {"learning_rate": 100.0, "batch_size": 4, "schedule": {"name": "steps", "milestones": [], "factor": 0.1}}
    edit(folder, lambda config: config["memorization"]["recipe"].update(wild))
    done = snakemake(folder, f"{SMOKE}/scores/memorization.parquet")
    assert done.returncode == 1
    assert re.search(r"subset model \d+ \(seed \d+\): the loss is (nan|inf) in epoch", done.stderr)
    assert not list((folder / SMOKE).rglob("shard-*.parquet"))


def test_failed_figures_cost_no_table_and_what_the_page_warns_of_is_said_at_the_end(finished, copy):
    shutil.rmtree(copy / SMOKE / "figures")
    for file in [
        *(copy / SMOKE / "evaluation").glob("*.*"),
        *(copy / SMOKE).glob("*.md"),
        copy / SMOKE / "summary.tex",
    ]:
        file.unlink()
    # which figures alone read
    damaged = Path("models/bat/seed-0/samples.parquet")
    (copy / SMOKE / damaged).write_bytes(b"damaged")
    done = snakemake(copy, "--jobs", "1")
    assert done.returncode == 1
    assert "samples.parquet: damaged" in done.stderr
    assert not list((copy / SMOKE / "figures").glob("*"))
    assert tables(copy / SMOKE) == tables(finished / SMOKE) | {damaged: b"damaged"}
    page = (copy / SMOKE / "results.md").read_text()
    assert "| last epoch: `bat` has a better trade-off than `pgd_at`" in page
    assert (copy / SMOKE / "summary.tex").exists()
    (copy / SMOKE / "results.md").write_text(f"> The training failed.\n{page}> Another warning.\n")
    done = snakemake(copy, "--jobs", "1")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith(f"{SMOKE}/results.md: ")] == [
        f"{SMOKE}/results.md: {warning}" for warning in ("The training failed.", "Another warning.")
    ]


def test_report_is_one_file(copy):
    done = snakemake(copy, "--report", "workflow.html")
    assert done.returncode == 0, done.stderr
    assert "most memorized training samples" in (copy / "workflow.html").read_text()


def test_the_end_of_a_run_says_where_the_results_are_and_the_first_answer(finished):
    lines = (finished / "done").read_text().splitlines()
    start = lines.index(f"report: {SMOKE}/report.html")
    first, *_ = re.findall(
        r"^\| question.*\n\|.*\n\| (.*?) +\| (.*?) +\|", (finished / SMOKE / "results.md").read_text(), re.M
    )
    places = {"report": "report.html", "explorer": "explorer/index.html", "tables": "results.md"}
    assert lines[start : start + 4] == [*(f"{what}: {SMOKE}/{name}" for what, name in places.items()), ": ".join(first)]
