"""What the documentation tells users to type: each command, and each block of code, on a small experiment."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from documented import GENERATED, PAGES, all_commands, blocks
from experiments import ENVIRONMENT, ROOT, SMOKE, new_experiment
from PIL import Image

import bat.config
from bat.cli import main

CLUSTER = "needs a cluster, and a plugin that is not installed here; untested, as the page says"
COSTLY = {
    "make run": "installs, and runs 6 minutes: .ci/run does",
    "make report": "follows make run",
    "make test": "runs this test: .ci/run does",
    "make test-faults": "10 minutes",
    "make test-mutants MODULE=training.losses": "minutes, and installs mutmut",
    "make test-slurm": "installs SLURM, as root",
    "make results": "55 minutes",
    ".venv/bin/pip install --constraint requirements.lock --editable .": "installs",
    "pip install '.[slurm]'": "installs",
    "pip install 'mlxtend>=0.23,<1'": "installs",
    "pip install mlxtend": "installs",
    "pip install snakemake-executor-plugin-kubernetes snakemake-storage-plugin-s3": CLUSTER,
    "pip install snakemake-executor-plugin-googlebatch snakemake-storage-plugin-gcs": CLUSTER,
    "pip install snakemake-executor-plugin-aws-batch snakemake-storage-plugin-s3": CLUSTER,
    "snakemake --workflow-profile workflow/profiles/slurm --configfile config/smoke.yaml": "make test-slurm runs it",
    "bat plan --configfile config/cifar100.yaml": "4 minutes",
    "python benchmarks/subset_training.py": "minutes",
    "python benchmarks/workflow_overhead.py --folder /tmp/run": "the default run, 4 to 6 minutes",
    "python benchmarks/autoattack.py": "minutes, and needs the authors' code",
    "python benchmarks/autoattack.py --data mnist5k --width 4 --epochs 10": "minutes, and needs the authors' code",
    "python benchmarks/autoattack.py --data mnist5k --width 4 --epochs 10 --methods natural "
    "--attacks apgd_ce apgd_t --seeds 20": "an hour, and needs the authors' code",
    "python benchmarks/cpu_types.py": "18 minutes",
    "python benchmarks/recipes.py cache": "minutes, and needs downloads",
    "python benchmarks/scores_at_scale.py --folder /tmp/scale": "minutes, and writes gigabytes",
}
FOR_CLUSTERS = re.compile(r"snakemake --executor (kubernetes|googlebatch|aws-batch) ")
OWN = "snakemake --cores all --configfile config/own.yaml"  # test_own_parts runs it, and the blocks of its page
NAMES = re.compile(r"bat \w+(-\w+)?")  # bat plan: a name, no command

COMMANDS = [command for command in all_commands() if command not in COSTLY and command != OWN]
COMMANDS = [command for command in COMMANDS if not FOR_CLUSTERS.match(command)]
MODEL = "import torch\n\n\ndef load():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))\n"


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A folder with all that the commands name: small experiments, images, a model, and the files of the pages."""
    folder = new_experiment(tmp_path_factory.mktemp("documented"))
    for name in (SMOKE, "results/digits"):
        shutil.copytree(finished / SMOKE, folder / name)
    (folder / "my_package").mkdir()
    (folder / "my_package/models.py").write_text(MODEL)
    random = np.random.default_rng(0)
    np.savez(folder / "images.npz", x=random.random((6, 1, 4, 4), dtype=np.float32), y=np.arange(6) % 3)
    for kind in ("ant", "bee"):
        (folder / "images/train" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images/train" / kind / f"{number}.png")
    (trial,) = [text for language, text in blocks("docs/clusters.md") if language == "yaml"]
    (folder / "trial.yaml").write_text(trial)
    return folder


def run(folder, words):
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs(folder, command):
    tool, *words = shlex.split(command.replace("FILE", "config/smoke.yaml").replace("docs/config.md", "config.md"))
    if NAMES.fullmatch(command) and words != ["plan"]:
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--help"])
        assert stopped.value.code == 0
        return
    assert tool in ("snakemake", "bat"), "run it here, or say in COSTLY why not"
    if tool == "snakemake":
        words += [] if {"-n", "--unlock"} & {*words} else ["--dry-run"]
        words += ["--snakefile", str(ROOT / "workflow/Snakefile")]
    done = run(folder, [sys.executable, "-m", tool, *words])
    assert done.returncode == 0, done.stderr


def test_what_is_costly_is_in_the_documentation():
    assert [command for command in COSTLY if command not in all_commands()] == []
    assert OWN in all_commands()


PYTHON = [page for page in PAGES if page != "docs/own_parts.md" and "python" in dict(blocks(page))]


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_each_page_runs(folder, page):
    code = "\n".join(text for language, text in blocks(page) if language == "python")
    done = run(folder, [sys.executable, "-W", "error", "-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_python_of_the_pages_is_found():
    assert set(PYTHON) == {"README.md", "docs/evaluation.md", "docs/tables.md"}


YAML = [(page, text) for page in PAGES for language, text in blocks(page) if language == "yaml"]


@pytest.mark.parametrize(("page", "text"), [each for each in YAML if each[0] != "docs/own_parts.md"])
def test_each_config_of_the_pages_is_read(tmp_path, page, text):
    (tmp_path / "block.yaml").write_text(text)
    bat.config.load(str(ROOT / "config/config.yaml"), str(tmp_path / "block.yaml"))


def test_generated_pages_have_no_code():
    assert [page for page in GENERATED if blocks(page)] == []
