"""memorization.until: subset models in rounds, the same as a fixed number of them gives."""

import json

from experiments import ROOT, SMOKE, edit, kill_when, new_experiment, planned, snakemake, tables

from bat.config import load
from bat.planning.jobs import jobs_of

TARGETS = [f"{SMOKE}/scores/memorization.parquet", f"{SMOKE}/scores/null_pairs.parquet"]
PLAN = {"subset_models": 20, "models_per_shard": 20, "until": {"standard_error": 0.16, "at_most": 80}}


def change(config):
    config["memorization"].update(PLAN)


def test_rounds_end_with_the_scores_of_as_many_models_also_after_a_kill(finished, tmp_path):
    folder = new_experiment(tmp_path)
    edit(folder, change)
    # what comes after the first round nobody knows before
    assert planned(folder, *TARGETS) == {"data": 1, "subsets": 1, "enough": 1, "scores": 1, "null_pairs": 1}
    first, second = (folder / SMOKE / f"scores/rounds/{models}.json" for models in (20, 40))
    kill_when(folder, *TARGETS, true=first.exists, within=300)
    assert snakemake(folder, *TARGETS, "--unlock").returncode == 0
    done = snakemake(folder, *TARGETS)
    assert done.returncode == 0, done.stderr
    assert [json.loads(path.read_text())["enough"] for path in (first, second)] == [False, True]
    # the experiment of 40 models in two shards
    for kind in ("subsets", "scores"):
        found, expected = tables(folder / SMOKE / kind), tables(finished / SMOKE / kind)
        assert found.items() <= expected.items()
        assert len(found) == (2 if kind == "subsets" else 7)
    assert planned(folder, *TARGETS) == {}
    edit(folder, lambda config: config["memorization"]["until"].update(standard_error=0.14))
    assert planned(folder, *TARGETS)["enough"] == 1


def test_the_plan_counts_all_rounds(tmp_path):
    folder = new_experiment(tmp_path)
    edit(folder, change)
    config = load(str(ROOT / "config/config.yaml"), str(folder / "config/smoke.yaml"))
    assert (jobs_of(config)["subsets"], jobs_of(config)["enough"]) == (4, 3)
    first = planned(folder)
    assert first == jobs_of(config) | {"subsets": 1, "enough": 1}
