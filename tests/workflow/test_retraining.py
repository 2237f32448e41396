"""Retraining without some samples, and subset models under attack, as the workflow plans them."""

import re

import pytest
from experiments import SMOKE, counted, edit, new_experiment, planned, snakemake
from stages import BAT, NATURAL, PGD_AT

CASES = ["atypical", "top_0_05", "top_0_1", "harmful", "benign", "hardest_0_1"]
RUNS = [f"pgd_at_without_{random}{case}" for random in ("", "random_") for case in CASES]
EVERYTHING = {
    "data": 1,
    "subsets": 2,
    "scores": 1,
    "null_pairs": 1,
    "duplicates": 1,
    "robust_subsets": 1,
    "robust_scores": 1,
    "harmful": 1,
    "hardest": 1,
    "proxies": 1,
    # three methods and twelve runs without some samples
    "train": 15,
    "groups": 1,
    "evaluate": 15,
    "summary": 1,
    # all figures at once
    "figures": 1,
    "results": 1,
    "page": 1,
    "explorer": 1,
}
EFFECTS = f"{SMOKE}/scores/robust_effects.parquet"


def ask(config, robust=20):
    config["removal"] = {"method": "pgd_at", "hardest": [0.1]}
    config["training"]["seeds"] = [0]
    config["memorization"]["robust"] = {"subset_models": robust}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder in which Snakemake takes every output of the experiment for made: empty files and its own records."""
    folder = new_experiment(tmp_path_factory.mktemp("asked"))
    edit(folder, ask)
    assert planned(folder) == EVERYTHING
    lines = snakemake(folder, "--summary").stdout.splitlines()[1:]
    for name in (line.split("\t")[0] for line in lines):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    done = snakemake(folder, "--touch", "--forceall")
    assert done.returncode == 0, done.stderr
    assert planned(folder) == {}
    return folder


def changed(folder, change):
    """Return what a change of the config would do, and the runs that are to be trained; then undo the change."""
    path = folder / "config" / "smoke.yaml"
    before = path.read_text()
    edit(folder, change)
    try:
        done = snakemake(folder, "--dry-run")
        trained = set(re.findall(rf"output: {SMOKE}/models/(\w+)/seed-0/best", done.stdout + done.stderr))
        return counted(done), trained
    finally:
        path.write_text(before)


def test_another_harmful_threshold_retrains_the_runs_that_depend_on_it(asked):
    jobs, trained = changed(asked, lambda config: config["removal"].update(harmful_threshold=0.3))
    assert trained == {run for run in RUNS if run.endswith(("harmful", "benign"))}
    assert len(trained) == 4
    # all but memorization and gallery
    expected = {
        "harmful": 1,
        "train": 4,
        "evaluate": 4,
        "groups": 1,
        "summary": 1,
        "figures": 1,
        "results": 1,
        "page": 1,
        "explorer": 1,
    }
    assert jobs == expected


def test_another_fraction_trains_its_runs_alone(asked):
    jobs, trained = changed(asked, lambda config: config["removal"].update(fractions=[0.05, 0.1, 0.2]))
    assert trained == {"pgd_at_without_top_0_2", "pgd_at_without_random_top_0_2"}
    assert jobs == {
        "train": 2,
        "evaluate": 2,
        "groups": 1,
        "summary": 1,
        "figures": 1,
        "results": 1,
        "page": 1,
        "explorer": 1,
    }


def test_fewer_runs_train_nothing(asked):
    jobs, trained = changed(asked, lambda config: config["removal"].update(method=None))
    assert not trained
    assert jobs == {"groups": 1, "summary": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (lambda config: config["memorization"].update(threshold=0.2), {}),
        (lambda config: config["memorization"].update(subset_models=60), {"subsets": 1}),
    ],
    ids=["threshold", "more subset models"],
)
def test_other_scores_train_what_reads_them_and_what_follows_from_it(asked, change, more):
    jobs, trained = changed(asked, change)
    assert trained == {"bat", *RUNS}
    stages = {"scores": 1, "null_pairs": 1, "robust_scores": 1, "harmful": 1, "train": 13, "evaluate": 13}
    report = {"groups": 1, "summary": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}
    assert jobs == more | stages | report | {"hardest": 1, "proxies": 1, "duplicates": 1}


def test_only_methods_with_a_score_read_scores(tmp_path):
    folder = new_experiment(tmp_path)
    read = {score: ["memorization"] for score in ("memorization", "shuffled", "consistency")}
    read |= {"robust_memorization": ["robust_memorization"], "csl": ["memorization", "proxies"]}
    methods = [NATURAL, PGD_AT, *(BAT | {"name": f"bat_{score}", "score": score} for score in read)]
    edit(folder, lambda config: config["memorization"].update(robust={"subset_models": 20}))
    edit(folder, lambda config: config["training"].update(methods=methods, seeds=[0]))
    done = snakemake(folder, "--dry-run", "--printshellcmds")
    commands = re.findall(r"python -m bat train .*", done.stdout + done.stderr)
    assert len(commands) == 7
    for command in commands:
        name = re.search(rf"--best {SMOKE}/models/(\w+)/seed", command)[1]
        expected = read[name.removeprefix("bat_")] if name.startswith("bat_") else []
        assert re.findall(rf"{SMOKE}/scores/(\w+).parquet", command) == expected
    commands = re.findall(r"python -m bat evaluate .*", done.stdout + done.stderr)
    assert len(commands) == 7
    assert not any("/scores/" in command for command in commands)


def test_another_attack_on_subset_models_trains_these_alone(asked):
    attack = {"steps": 4, "step_size": 0.05}
    jobs, trained = changed(asked, lambda config: config["memorization"]["robust"].update(attack=attack))
    assert not trained
    # finding_b
    assert jobs == {"robust_subsets": 1, "robust_scores": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}


def test_another_network_of_stage_1_trains_the_subset_models_again(asked):
    jobs, _ = changed(asked, lambda config: config["memorization"].update(model={"name": "small_cnn", "width": 4}))
    assert (jobs["subsets"], jobs["robust_subsets"], jobs["scores"], jobs["train"]) == (2, 1, 1, 13)


def test_another_network_of_stage_2_leaves_subset_models_that_have_their_own(asked):
    def change(config):
        # the same network for stage 1 as before, now by its own name
        config["memorization"]["model"] = config["model"]
        config["model"] = "mlp:16"

    jobs, _ = changed(asked, change)
    assert not jobs.keys() & {"subsets", "robust_subsets", "scores", "null_pairs"}
    assert (jobs["train"], jobs["evaluate"]) == (15, 15)


def test_robust_subset_models_may_be_more_than_those_on_clean_images(asked):
    jobs, _ = changed(asked, lambda config: config["memorization"]["robust"].update(subset_models=80))
    # the first shard is there
    assert jobs == {"robust_subsets": 3, "robust_scores": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}


def test_the_tables_of_harmful_and_hardest_samples_go_to_the_runs_that_need_it(asked):
    done = snakemake(asked, "--dry-run", "--forceall", "--printshellcmds")
    commands = re.findall(r"python -m bat train .*", done.stdout + done.stderr)
    assert len(commands) == 15
    for command in commands:
        run = re.search(rf"--best {SMOKE}/models/(\w+)/seed", command)[1]
        given = f" --harmful {SMOKE}/scores/harmful.parquet " in command
        assert given == run.endswith(("harmful", "benign"))
        assert (f" --hardest {SMOKE}/scores/hardest.parquet " in command) == run.endswith("hardest_0_1")
        assert ('"without": null' in command) == (run not in RUNS)


def test_a_method_by_robust_memorization_waits_for_the_robust_subset_models(tmp_path):
    folder = new_experiment(tmp_path)
    edit(folder, ask)
    methods = [BAT, BAT | {"name": "bat_robust_scores", "score": "robust_memorization"}]
    edit(folder, lambda config: config["training"].update(methods=[PGD_AT, *methods]))
    scored = {"data": 1, "subsets": 2, "scores": 1}
    for name, needed in (("bat", {}), ("bat_robust_scores", {"robust_subsets": 1, "robust_scores": 1})):
        target = f"{SMOKE}/models/{name}/seed-0/best.safetensors"
        assert planned(folder, target) == scored | needed | {"train": 1}
        done = snakemake(folder, "--dry-run", "--printshellcmds", target)
        given = f" --robust-memorization {SMOKE}/scores/robust_memorization.parquet " in done.stdout + done.stderr
        assert given == bool(needed)


def test_by_default_nothing_of_it_is_planned(tmp_path):
    jobs = planned(new_experiment(tmp_path))
    assert (jobs["train"], jobs["evaluate"]) == (6, 6)
    assert jobs.keys() == EVERYTHING.keys() - {"harmful", "hardest", "robust_subsets", "robust_scores"}


def test_robust_scores_of_scores_from_a_file_need_no_clean_subset_model(tmp_path):
    folder = new_experiment(tmp_path)
    edit(folder, ask)
    (folder / "own.csv").write_text("train_index,memorization,label\n")
    edit(folder, lambda config: config.update(scores={"source": "file", "path": "own.csv", "format": "table"}))
    assert planned(folder, EFFECTS) == {"data": 1, "import_scores": 1, "robust_subsets": 1, "robust_scores": 1}
