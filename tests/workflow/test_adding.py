"""The table of CONTRIBUTING.md, done: one of each kind is added to a copy of the package, and planned."""

import re
import shutil

import pytest
from experiments import ROOT, SMOKE, counted, edit, new_experiment, snakemake

# kind: files of code, each with pairs of a text and what it becomes
KINDS = {
    "data set": {
        "bat/config/data.py": [
            ('Literal["mnist", ', 'Literal["mnist", "kmnist", '),
            ("SOURCES = {\n", 'SOURCES = {\n    "kmnist": Size(60_000, 10_000, (1, 28, 28), 10, "KMNIST"),\n'),
        ],
    },
    "method": {
        "bat/config/training.py": [
            (
                "KnownMethod = Natural ",
                "@dataclass(frozen=True, kw_only=True, config=STRICT)\n"
                "class Plain(_Adversarial):\n"
                '    """The cross-entropy."""\n\n'
                '    objective: Literal["plain"] = Field(default="plain", description="The cross-entropy.")\n\n\n'
                "KnownMethod = Natural | Plain ",
            )
        ],
        "bat/training/losses.py": [
            ("    Dpls,\n", "    Plain,\n    Dpls,\n"),
            (
                "        case Gairat():\n",
                "        case Plain():\n            return _mean_cross_entropy\n        case Gairat():\n",
            ),
        ],
    },
    "attack": {
        "bat/attacks/noise.py": [
            (
                "",
                'def noise(start):\n    """Return a random point of the ball."""\n    return start\n',
            )
        ],
        "bat/config/attacks.py": [
            (
                "Attack = Annotated[\n",
                "@dataclass(frozen=True, kw_only=True, config=STRICT)\n"
                "class Noise:\n"
                '    """Random points."""\n\n'
                '    name: Literal["noise"] = Field(description="Random points of the ball.")\n'
                "    restarts: Restarts = 1\n\n\n"
                "Attack = Annotated[\n",
            ),
            ("FabT | Square,", "FabT | Square | Noise,"),
        ],
        "bat/attacks/ensemble.py": [
            ("EvaluationPgd, FabT,", "EvaluationPgd, FabT, Noise,"),
            ("import fab\n", "import fab\nfrom bat.attacks.noise import noise\n"),
            (
                "        case OwnAttack():\n",
                "        case Noise():\n            return noise(start)\n        case OwnAttack():\n",
            ),
        ],
    },
    "figure": {
        "bat/report/figures/training.py": [
            (
                "def draw_curves(",
                "def empty() -> Figure:\n"
                '    """Draw nothing."""\n'
                "    return Figure()\n\n\n"
                "def draw_empty(given: Given) -> Figure:\n"
                '    """Draw ``empty``."""\n'
                "    return empty()\n\n\n"
                "def draw_curves(",
            )
        ],
        "bat/report/catalogue.py": [
            ("FIGURES = {\n", 'FIGURES = {\n    "empty": Entry("training", "How training went"),\n'),
        ],
    },
    "score source": {
        "bat/config/scores.py": [('"table"]', '"table", "lines"]')],
        "bat/scores/released.py": [('"npz": _npz}', '"npz": _npz, "lines": _npz}')],
    },
    "config key": {
        "bat/config/experiment.py": [
            (
                "    batch_size: BatchSize = Field(default=256",
                "    twice: bool = False\n    batch_size: BatchSize = Field(default=256",
            )
        ],
        "bat/config/specs.py": [("    pgd: EvaluationPgd\n", "    pgd: EvaluationPgd\n    twice: bool = False\n")],
        "bat/evaluation/stage.py": [("spec.batch_size)\n    ", "spec.batch_size * (1 + spec.twice))\n    ")],
    },
}
PLACES = {"data set": 1, "method": 2, "attack": 3, "figure": 2, "score source": 2, "config key": 3}


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """An experiment beside a copy of workflow and package that has one more of each kind."""
    folder = new_experiment(tmp_path_factory.mktemp("added"))
    for part in ("workflow", "bat"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "environment.yml", folder)
    for files in KINDS.values():
        for name, changes in files.items():
            path = folder / name
            text = path.read_text() if path.exists() else ""
            for before, after in changes:
                assert not text or before in text, f"{name}: {before}"
                text = text.replace(before, after, 1)
            path.write_text(text)
    return folder


def dry_run(folder):
    # a process of its own, which imports the copy
    return snakemake(folder, "--dry-run", "--printshellcmds", snakefile="workflow/Snakefile", warm=False)


def test_each_kind_takes_as_many_files_as_contributing_says():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| an? ([\w ]+?)(?: of torchvision)? \| (.*) \|$", text, re.MULTILINE))
    assert {kind: len(files) for kind, files in KINDS.items()} == PLACES
    for kind, files in KINDS.items():
        row = rows[f"published {kind}" if kind == "data set" else kind]
        for name in files if kind != "config key" else list(files)[1:2]:  # the function that does may be anywhere
            assert any(f"`{place}`" in row for place in (name, f"{name.rpartition('/')[0]}/")), (kind, name)


def test_one_more_of_each_kind_is_planned(added):
    def use(config):
        config["data"]["name"] = "kmnist"
        config["training"]["methods"] = ["pgd_at", "plain"]
        config["evaluation"] |= {"ensemble": [{"name": "noise"}], "twice": True}

    edit(added, use)
    done = dry_run(added)
    jobs = counted(done)
    assert (jobs["download"], jobs["train"], jobs["evaluate"], jobs["figures"]) == (1, 4, 4, 1)
    (spec,) = set(re.findall(r"python -m bat evaluate --spec '(.*?)' --", done.stdout))
    assert '"name": "noise"' in spec
    assert '"twice": true' in spec
    assert re.search(r"python -m bat download --spec '.*\"kmnist\"", done.stdout)
    assert re.search(r"python -m bat train --spec '.*\"objective\": \"plain\"", done.stdout)
    assert f"{SMOKE}/figures/empty.svg" in done.stdout


def test_one_more_source_of_scores_is_planned(added):
    (added / "scores.lines").touch()
    edit(added, lambda config: config.update(scores={"source": "file", "path": "scores.lines", "format": "lines"}))
    done = dry_run(added)
    assert counted(done)["import_scores"] == 1
    assert re.search(r"python -m bat import-scores --spec '.*\"lines\"", done.stdout)
