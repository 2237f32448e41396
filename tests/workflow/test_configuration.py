"""What snakemake and bat plan make of the same files and settings: the same, or the same line and status 2."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from experiments import ENVIRONMENT, ROOT, SMOKE, edit, new_experiment, planned, run

SNAKEMAKE = ["snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]


def dry(folder, *arguments):
    return run(folder, *SNAKEMAKE, "--dry-run", "--printshellcmds", *arguments)


def plan(folder, *arguments):
    return run(folder, "bat", "plan", *arguments)


def seeds_and_share(done):
    """Return the seeds and the subsample that a dry run's commands name."""
    assert done.returncode == 0, done.stderr
    specs = [json.loads(each) for each in re.findall(r"python -m bat (?:train|data) --spec '(.*?)' --", done.stdout)]
    return sorted({each["seed"] for each in specs if "seed" in each}), {each.get("subsample", 1) for each in specs}


@pytest.fixture
def folder(tmp_path):
    folder = new_experiment(tmp_path)
    (folder / "twice.yaml").write_text("training: {seeds: [0]}\ntraining: {early_stop: 3}\n")
    (folder / "date.yaml").write_text("experiment: 2026-11-25\n")
    (folder / "broken.yaml").write_text('"a\\nb": 1\n')
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--configfile", "twice.yaml"], "twice.yaml: training is there twice, in line 1 also: keep one (line 2)"),
        (["--configfile", "date.yaml"], "date.yaml: experiment: 2026-11-25 is a date in YAML: write"),
        (["--configfile", "broken.yaml"], r"broken.yaml: a\nb: unknown key"),
        (["--config", "subsample=010"], "--config subsample=010: 010 is read in several ways"),
        (["--config", "memorization={subset_model: 80}"], "memorization.subset_model: unknown key"),
        (["--config", "experiment=no"], "--config experiment=no: no is false in YAML 1.1"),
        (["--config", "training={seeds: [0, 0]}"], "training.seeds: 0 is there twice: keep one"),
        (["--config", "training=" + "[" * 1000 + "]" * 1000], "is nested more than 30 levels deep"),
        (
            ["--config", "memorization={subset_models: 1000000000000}"],
            "subset_models: 1000000000000 is over 1,000,000, the most",
        ),
        (["--config", "evaluation={pairs: [[bat]]}"], "evaluation.pairs.0.1: missing entry: add it"),
        (["--config", "data={name: cifar10, cache: '{a}'}"], "data.cache: no path that the workflow can use"),
        (["--config", "scores={source: file, path: '{a}', format: npz}"], "scores.path: no path that"),
        (
            ["--config", "scores={source: file, path: ~nosuchuser/a, format: npz}"],
            "scores.path: ~nosuchuser/a: no such",
        ),
        (["--config", "scores={source: file, path: none.npz, format: npz}"], "scores.path: none.npz: No such file"),
        (["--config", "scores={source: file, path: config, format: npz}"], "scores.path: config: a folder"),
    ],
    ids=range(15),
)
def test_what_is_wrong_is_one_line_for_snakemake_and_for_bat_plan(folder, arguments, message):
    before = sorted(folder.rglob("*"))
    done, said = dry(folder, *arguments), plan(folder, *arguments)
    assert done.returncode == said.returncode == 2
    # the first is Snakemake's own, on its profile
    _, line = done.stderr.splitlines()
    assert message in line
    assert not done.stdout
    (other,) = said.stderr.splitlines()
    assert other.endswith(line)
    assert [path for path in sorted(folder.rglob("*")) if ".snakemake" not in path.parts] == before


@pytest.mark.parametrize(
    ("content", "arguments", "last", "line"),
    [
        (b"experiment: caf\xe9", [], "UnicodeDecodeError: 'utf-8'", "since it is no UTF-8 text: save it as UTF-8"),
        (b"a: " + b"[" * 1000 + b"]" * 1000, [], "RecursionError: ", "is nested more than 30 levels deep"),
        (b"a: [1", [], "Config file is not valid JSON or YAML.", "cannot be read as YAML ("),
        (b"{}", ["some/target"], "FileNotFoundError: ", "some/target: cannot be read (No such file or directory)"),
    ],
    ids=["no UTF-8", "nested deep", "no YAML", "a target behind"],
)
def test_what_snakemake_reads_first_it_refuses_as_the_readme_says(folder, content, arguments, last, line):
    (folder / "given.yaml").write_bytes(content)
    done = run(folder, *SNAKEMAKE, "--cores", "1", "--configfile", "given.yaml", *arguments)
    assert done.returncode == 1
    assert [text for text in done.stderr.splitlines() if text][-1].startswith(last)
    assert not (folder / "results").exists()
    said = plan(folder, "--configfile", "given.yaml", *arguments)
    assert said.returncode == 2
    assert line in said.stderr
    assert len(said.stderr.splitlines()) == 1


def test_a_config_from_others_is_code_for_snakemake_and_not_for_bat_plan(folder):
    code = '__import__("pathlib").Path("ran").touch()'
    (folder / "code.yaml").write_text(f"__use_yte__: true\n__definitions__:\n  - {code}\n")
    said = plan(folder, "--configfile", "code.yaml")
    assert said.returncode == 2
    assert "code.yaml: __use_yte__: unknown key" in said.stderr
    assert not (folder / "ran").exists()
    done = dry(folder, "--configfile", "code.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2].startswith("code.yaml: __use_yte__: unknown key")
    assert done.stderr.splitlines()[-1].startswith("code.yaml: __definitions__: unknown key")
    # as config/README.md warns: should this fail one day, mend the warning
    assert (folder / "ran").exists()


def test_a_named_pipe_is_waited_for_by_snakemake_and_refused_by_bat_plan(folder):
    os.mkfifo(folder / "pipe")
    said = plan(folder, "--configfile", "pipe")
    assert said.returncode == 2
    assert "pipe: cannot be read (a named pipe, not a file)" in said.stderr
    run_ = subprocess.Popen(
        [sys.executable, "-m", *SNAKEMAKE, "--dry-run", "--configfile", "pipe"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # it has opened the pipe for reading, and reads what is written
    (folder / "pipe").write_text("experiment: piped\n")
    assert run_.wait(timeout=120) == 1  # a pipe cannot be read twice


def test_settings_mean_what_they_mean_in_a_file(folder):
    settings = ["training={seeds: [0, 3]}", "subsample=5e-1"]
    (folder / "same.yaml").write_text("training: {seeds: [0, 3]}\nsubsample: 0.5\n")
    assert seeds_and_share(dry(folder, "--config", *settings)) == ([0, 3], {0.5, 1})
    assert seeds_and_share(dry(folder, "--configfile", "same.yaml")) == ([0, 3], {0.5, 1})
    done = dry(folder, "--configfile", "same.yaml", "--config", "training={seeds: [1]}")
    assert seeds_and_share(done) == ([1], {0.5, 1})


def test_the_base_is_that_of_the_working_directory_or_else_of_the_workflow(tmp_path, folder):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "results/digits/" in dry(elsewhere).stdout
    assert "results/digits/" in dry(tmp_path, "--directory", str(elsewhere)).stdout
    base = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    (elsewhere / "config").mkdir()
    (elsewhere / "config/config.yaml").write_text(yaml.safe_dump(base | {"experiment": "own"}))
    assert "results/own/" in dry(tmp_path, "--directory", str(elsewhere)).stdout
    # a file that is named is found from where snakemake was called
    (tmp_path / "more.yaml").write_text("experiment: more\n")
    assert "results/more/" in dry(tmp_path, "--directory", str(elsewhere), "--configfile", "more.yaml").stdout
    (elsewhere / "config/config.yaml").write_text("training: {}\ntraining: {}\n")
    done = dry(elsewhere)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("config/config.yaml: training is there twice")


def test_a_whole_configuration_may_replace_the_base(folder):
    base = yaml.safe_load((folder / "config/config.yaml").read_text())
    (folder / "whole.yaml").write_text(yaml.safe_dump(base | {"experiment": "whole"}))
    (folder / "config/config.yaml").write_text("nonsense: 1\n")
    assert "results/whole/" in dry(folder, "--replace-workflow-config", "--configfile", "whole.yaml").stdout


def test_another_workflow_has_this_one_as_a_module(folder):
    module = f'module bat:\n    snakefile: "{ROOT}/workflow/Snakefile"\n    config: config\n'
    (folder / "Snakefile").write_text(f'configfile: "config/config.yaml"\n{module}use rule * from bat as bat_*\n')
    done = run(folder, "snakemake", "--dry-run", "bat_all")
    assert done.returncode == 0, done.stderr
    assert "bat_evaluate" in done.stdout


def test_scores_in_the_home_folder_are_found(folder, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "HOME", str(folder))
    (folder / "own.csv").touch()
    edit(folder, lambda config: config.update(scores={"source": "file", "path": "~/own.csv", "format": "table"}))
    assert planned(folder)["import_scores"] == 1
    assert plan(folder, "--configfile", "config/smoke.yaml").returncode == 0


def test_an_experiment_does_not_take_its_own_scores(folder):
    (folder / f"{SMOKE}/scores").mkdir(parents=True)
    (folder / f"{SMOKE}/scores/memorization.parquet").touch()
    path = f"{SMOKE}/scores/memorization.parquet"
    edit(folder, lambda config: config.update(scores={"source": "file", "path": path, "format": "table"}))
    done = dry(folder, "--configfile", "config/smoke.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"scores.path: {path} is written by this experiment itself")


def test_other_ways_to_write_the_same_rerun_nothing(folder):
    target = f"{SMOKE}/data/data.safetensors"
    command = [*SNAKEMAKE, target, "--cores", "1", "--configfile", "config/smoke.yaml"]
    assert run(folder, *command).returncode == 0
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    turned = {key: config[key] for key in reversed(config)} | {
        "subsample": 1,
        "data": dict(reversed(config["data"].items())) | {"split_seed": 0, "classes": None},
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(turned, sort_keys=False))
    done = run(folder, *command, "--dry-run")
    assert "Nothing to be done" in done.stdout + done.stderr
