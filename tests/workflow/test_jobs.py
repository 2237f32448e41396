"""Which jobs there are: as many as ``bat plan`` says, and again only those that an edit of the package concerns."""

import shutil

import pytest
from experiments import ROOT, new_experiment, planned, snakemake

from bat.config import load
from bat.planning.jobs import jobs_of
from bat.planning.resources import needs

CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))
SUMMARY_ON = {"summary": 1, "figures": 1, "results": 1}
EDITS = {
    "report/figures/style.py": {"figures": 1, "results": 1},
    "report/page.py": {"figures": 1, "results": 1},
    "report/stage.py": {"figures": 1, "results": 1},
    "evaluation/summary.py": SUMMARY_ON,
    "evaluation/comparison.py": SUMMARY_ON,
    "statistics.py": SUMMARY_ON,
    "training/records.py": {"groups": 1} | SUMMARY_ON,
    "io/tables.py": {"groups": 1} | SUMMARY_ON,
    "scores/precision.py": {"results": 1},
    # what trains, attacks or estimates is never done again for an edit
    "training/losses.py": {},
    "scores/estimators.py": {},
    "attacks/apgd.py": {},
    "cli.py": {},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_there_are_as_many_jobs_as_the_plan_says(name, tmp_path):
    new_experiment(tmp_path)
    base = ROOT / "config" / "config.yaml"
    config = load(str(base), str(ROOT / "config" / name))
    assert planned(tmp_path, configfile=f"config/{name}") == jobs_of(config)
    asked = needs(config)
    assert jobs_of(config).keys() <= asked.keys()
    assert all(1 <= each["runtime"] <= 7 * 24 * 60 and each["mem_mb"] >= 900 for each in asked.values())


@pytest.fixture(scope="module")
def own_copy(tmp_path_factory):
    """A finished experiment of a copy of workflow and package, whose rules are done again for edits of the copy."""
    folder = new_experiment(tmp_path_factory.mktemp("edited"))
    for part in ("workflow", "bat"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", folder)
    done = snakemake(folder, snakefile="workflow/Snakefile")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("file", EDITS)
def test_an_edit_of_the_package_does_again_what_it_concerns(file, own_copy):
    path = own_copy / "bat" / file
    before = path.read_text()
    try:
        path.write_text(before + "\n# edited\n")
        assert planned(own_copy, snakefile="workflow/Snakefile") == EDITS[file]
    finally:
        path.write_text(before)
