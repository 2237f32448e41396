"""Which jobs there are: as many as ``bat plan`` says, and again only those that an edit of the package concerns."""

import shutil

import pytest
from experiments import ROOT, new_experiment, planned

from bat.config import FileScores, ImageFolder, load
from bat.planning.jobs import jobs_of
from bat.planning.resources import needs

CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))
SUMMARY_ON = {"summary": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}
EDITS = {
    "a figure": (["report/figures/style.py"], {"figures": 1, "results": 1, "page": 1, "explorer": 1}),
    "which figures there are": (["report/catalogue.py"], {"figures": 1, "results": 1, "page": 1, "explorer": 1}),
    "a caption": (["../workflow/report/tradeoff.rst"], {"page": 1}),
    "a template": (["report/templates/explorer.js"], {"figures": 1, "results": 1, "page": 1, "explorer": 1}),
    "the page": (["report/page.py"], {"figures": 1, "results": 1, "page": 1, "explorer": 1}),
    "a stage of the report": (["report/stage.py"], {"figures": 1, "results": 1, "page": 1, "explorer": 1}),
    "the summary": (["evaluation/summary.py"], SUMMARY_ON),
    "the comparisons": (["evaluation/comparison.py"], SUMMARY_ON),
    "what a comparison rests on": (["evaluation/grounds.py"], SUMMARY_ON),
    "intervals": (["statistics.py"], SUMMARY_ON),
    "what training recorded": (["training/records.py"], {"groups": 1} | SUMMARY_ON),
    "how files are read": (["io/tables.py"], {"groups": 1} | SUMMARY_ON),
    "what no model would do": (["scores/precision.py"], {"results": 1, "page": 1}),
    # what trains, attacks or estimates is never done again for an edit
    "all else": (
        [
            "training/losses.py",
            "scores/estimators.py",
            "attacks/apgd.py",
            "evaluation/stage.py",
            "evaluation/flags.py",
            "models/network.py",
            "data/dataset.py",
            "planning/resources.py",
            "config/experiment.py",
            "cli.py",
        ],
        {},
    ),
}


# a default that the smoke experiment leaves as it is: file, before, after
DEFAULTS = {
    "of the evaluation": (
        "experiment.py",
        'default=0.95, description="Level of the confidence intervals of accuracies',
        'default=0.9, description="Level of the confidence intervals of accuracies',
        {"proxies": 1} | SUMMARY_ON,
    ),
    "of a method": (
        "training.py",
        'beta: Factor = Field(default=0.2, description="Factor of the discrimination',
        'beta: Factor = Field(default=0.3, description="Factor of the discrimination',
        {"train": 2, "evaluate": 2, "groups": 1} | SUMMARY_ON,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_there_are_as_many_jobs_as_the_plan_says(name, tmp_path):
    new_experiment(tmp_path)
    base = ROOT / "config" / "config.yaml"
    config = load(str(base), str(ROOT / "config" / name))
    # what a user brings
    if isinstance(config.data, ImageFolder):
        (tmp_path / config.data.path).mkdir(parents=True)
    if isinstance(config.scores, FileScores):
        scores = tmp_path / config.scores.path
        scores.parent.mkdir(exist_ok=True)
        scores.touch()
    assert planned(tmp_path, configfile=f"config/{name}") == jobs_of(config)
    asked = needs(config)
    assert jobs_of(config).keys() <= asked.keys()
    assert all(1 <= each["runtime"] <= 7 * 24 * 60 and each["mem_mb"] >= 900 for each in asked.values())


@pytest.fixture(scope="module")
def own_copy(finished, tmp_path_factory):
    """The finished experiment beside a copy of workflow and package, that may be edited."""
    folder = tmp_path_factory.mktemp("edited") / "copy"
    shutil.copytree(finished, folder)
    for part in ("workflow", "bat"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", folder)
    return folder


def test_nothing_is_to_be_done_again_without_an_edit(own_copy):
    assert planned(own_copy, snakefile="workflow/Snakefile") == {}


def edited(folder, changes, **where):
    """Change files of the package, by path their new text; return what a run would do, and undo it."""
    before = {folder / "bat" / file: (folder / "bat" / file).read_text() for file in changes}
    try:
        for file, text in changes.items():
            (folder / "bat" / file).write_text(text)
        return planned(folder, snakefile="workflow/Snakefile", **where)
    finally:
        for path, text in before.items():
            path.write_text(text)


@pytest.mark.parametrize(("file", "before", "after", "expected"), DEFAULTS.values(), ids=DEFAULTS)
def test_another_default_does_again_what_reads_it(file, before, after, expected, own_copy):
    text = (own_copy / "bat/config" / file).read_text()
    assert before in text
    # not warm: the process imports the copy
    assert edited(own_copy, {f"config/{file}": text.replace(before, after)}, warm=False) == expected


@pytest.mark.parametrize(("files", "expected"), EDITS.values(), ids=EDITS)
def test_an_edit_of_the_package_does_again_what_it_concerns(files, expected, own_copy):
    changes = {file: (own_copy / "bat" / file).read_text() + "\n# edited\n" for file in files}
    assert edited(own_copy, changes) == expected
