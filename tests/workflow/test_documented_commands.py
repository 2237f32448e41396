"""What the documentation tells users to type: each command, and each block of code, on a small experiment."""

import re
import shlex
import shutil

import numpy as np
import pytest
from documented import GENERATED, PAGES, all_commands, blocks
from experiments import ROOT, SMOKE, new_experiment, run
from PIL import Image

import bat.config
from bat.cli import main
from bat.planning import timing

CLUSTER = "needs a cluster, and a plugin that is not installed here; untested, as the page says"
COSTLY = {
    "make run": "installs, and runs 6 minutes: .ci/run does",
    "make report": "follows make run",
    "make test": "runs this test: .ci/run does",
    "make docs": "installs: .ci/run does",
    "make test-faults": "10 minutes",
    "make test-mutants MODULE=training.losses": "minutes, and installs mutmut",
    "make test-slurm": "installs SLURM, as root",
    "make results": "55 minutes",
    ".venv/bin/pip install --constraint requirements.lock --editable .": "installs",
    "pip install '.[slurm]'": "installs",
    "pip install 'mlxtend>=0.23,<1'": "installs",
    "pip install mlxtend": "installs",
    "snakemake --cores all --configfile config/tiny_imagenet_10.yaml": "needs its images",
    "pip install pre-commit && pre-commit install": "installs",
    "pip install snakemake-executor-plugin-kubernetes snakemake-storage-plugin-s3": CLUSTER,
    "pip install snakemake-executor-plugin-googlebatch snakemake-storage-plugin-gcs": CLUSTER,
    "pip install snakemake-executor-plugin-aws-batch snakemake-storage-plugin-s3": CLUSTER,
    "snakemake --workflow-profile workflow/profiles/slurm --configfile config/smoke.yaml": "make test-slurm runs it",
    "bat plan": "a minute; with a value changed it is run here",
    "bat plan --configfile config/cifar100.yaml": "4 minutes",
    "bat merge --configfile config/smoke.yaml --shards machine_1/subsets machine_2/subsets": "needs their shards: "
    "test_workflow merges those of one",
    "python benchmarks/subset_training.py": "minutes",
    "python benchmarks/subset_training.py --model mlp:128": "minutes",
    "python benchmarks/subset_training.py --model mlp:128 --data mnist5k": "minutes",
    "python benchmarks/convolutions.py --cache cache": "minutes, and needs downloads",
    "python benchmarks/published_scores.py results/cifar100_animals --npz PUBLISHED.npz "
    "--cscores cifar100-cscores-orig-order.npz --figure disagreements.png": "needs the experiment above",
    "python benchmarks/join_published.py --npz PUBLISHED.npz --pairs PAIRS.csv --cache cache "
    "--out cache/cifar100-published.npz": "needs downloads",
    "snakemake --cores all --configfile config/cifar100_animals_published.yaml": "needs downloads",
    "snakemake --cores all --config experiment=cifar100_animals_fitted "
    "'scores={source: file, path: cache/cifar100-published.npz, format: feldman_zhang}' "
    "--configfile config/cifar100_animals.yaml": "two hours, and needs downloads",
    "snakemake --cores all --config experiment=cifar100_animals_rivals "
    "'scores={source: file, path: cache/cifar100-published.npz, format: feldman_zhang}' "
    "'training={methods: [pgd_at, mail, dpls, bat_trades]}' 'removal={method: null}' 'evaluation={pairs: []}' "
    "--configfile config/cifar100_animals.yaml": "half an hour, and needs downloads",
    "snakemake --cores all --config experiment=cifar100_animals_own "
    "'scores={source: file, path: docs/results/cifar100_animals.parquet, format: table}' "
    "'training={methods: [pgd_at, bat]}' 'removal={method: null}' 'evaluation={pairs: []}' "
    "--configfile config/cifar100_animals.yaml": "half an hour, and needs downloads",
    "snakemake --cores all --config experiment=cifar100_animals_seeds "
    "'scores={source: file, path: cache/cifar100-published.npz, format: feldman_zhang}' "
    "'training={methods: [pgd_at, bat, trades, bat_trades], seeds: [3, 4, 5, 6]}' 'removal={method: null}' "
    "--configfile config/cifar100_animals.yaml": "an hour, and needs downloads",
    "snakemake --cores all --config experiment=cifar100_animals_128 "
    "'scores={source: file, path: cache/cifar100-published.npz, format: feldman_zhang}' "
    "'training={methods: [pgd_at, bat], recipe: {epochs: 128}}' 'removal={method: null}' "
    "'evaluation={ensemble: fast, pairs: []}' --configfile config/cifar100_animals.yaml": "75 minutes, needs downloads",
    "snakemake --cores all --config experiment=cifar100_animals_long "
    "'scores={source: file, path: cache/cifar100-published.npz, format: feldman_zhang}' "
    "'training={methods: [pgd_at, bat], recipe: {epochs: 64}}' 'removal={method: null}' "
    "'evaluation={ensemble: fast, pairs: []}' --configfile config/cifar100_animals.yaml": "an hour, needs downloads",
    "python benchmarks/explorer.py": "two minutes, and needs Chromium",
    "python benchmarks/gpu.py": "needs a GPU",
    "python benchmarks/gpu.py --device cpu --quick": "two minutes",
    "python benchmarks/workflow_overhead.py --folder /tmp/run": "the default run, 4 to 6 minutes",
    "python benchmarks/autoattack.py": "minutes, and needs the authors' code",
    "python benchmarks/autoattack.py --data mnist5k --width 4 --epochs 10": "minutes, and needs the authors' code",
    "python benchmarks/autoattack.py --data mnist5k --width 4 --epochs 10 --methods natural "
    "--attacks apgd_ce apgd_t --seeds 20": "an hour, and needs the authors' code",
    "snakemake results/tiny_imagenet_10/models/pgd_at/seed-0/last.safetensors --cores 1 "
    "--configfile config/tiny_imagenet_10.yaml": "needs downloads",
    "python benchmarks/autoattack.py --trained results/cifar100_animals/models/pgd_at/seed-0/last.safetensors "
    "--images 200 --attacks apgd_ce apgd_t": "needs the model above, and the authors' code",
    "python benchmarks/cpu_types.py": "18 minutes",
    "python benchmarks/recipes.py cache": "minutes, and needs downloads",
    "python benchmarks/influence.py": "six minutes",
    "pip install -e '.[benchmark]'": "downloads JAX",
    "python benchmarks/time_to_precision.py --folder /tmp/time_to_precision --models 60 --rounds 3": "minutes, and "
    "needs JAX",
    "python benchmarks/precision.py --folder /tmp/precision --models 1600 --reference 800 --independent 400": "an hour",
    "python benchmarks/precision.py --folder /tmp/precision5k --data mnist5k --models 400 --reference 400 "
    "--independent 100": "an hour",
    "python benchmarks/label_errors.py": "minutes",
    "python benchmarks/label_errors.py --config memorization.recipe.epochs=4": "a minute",
    "python benchmarks/label_errors.py --data mnist --cache cache --train 1000 --models 40": "needs MNIST",
    "python benchmarks/label_errors.py --data mnist --cache cache --train 1000 --models 40 "
    "--config memorization.recipe.epochs=5": "needs MNIST",
    "python benchmarks/label_errors.py --data cifar100 --cache cache --train 3000 --models 16 --seeds 0 1 "
    "--config model=resnet9:8 compute.channels_last=true "
    "memorization.recipe='{epochs: 15, batch_size: 48, schedule: {name: one_cycle, warmup: 0.3}, "
    "crop_padding: 4, flip: true}' "
    "--classes apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle": "needs CIFAR-100",
    "python benchmarks/duplicates.py --cache cache": "minutes, and needs downloads",
    "python benchmarks/scores_at_scale.py --folder /tmp/scale": "minutes, and writes gigabytes",
}
FOR_CLUSTERS = re.compile(r"snakemake --executor (kubernetes|googlebatch|aws-batch) ")
OWN = "snakemake --cores all --configfile config/own.yaml"  # test_own_parts runs it, and the blocks of its page
NAMES = re.compile(r"bat \w+(-\w+)?")  # bat verify: a name, no command

COMMANDS = [command for command in all_commands() if command not in COSTLY and command != OWN]
COMMANDS = [command for command in COMMANDS if not FOR_CLUSTERS.match(command)]
MODEL = "import torch\n\n\ndef load():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))\n"


def new_folder(folder):
    """Fill a folder with what the commands name: images, a model, and the files of the pages."""
    new_experiment(folder)
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


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """Such a folder with finished experiments."""
    folder = new_folder(tmp_path_factory.mktemp("documented"))
    for name in (SMOKE, "results/digits"):
        shutil.copytree(finished / SMOKE, folder / name)
    return folder


def words_of(command):
    return shlex.split(command.replace("FILE", "config/smoke.yaml").replace("docs/config.md", "config.md"))


def test_each_snakemake_command_plans_its_run(tmp_path):
    folder = new_folder(tmp_path)
    chosen = [command for command in COMMANDS if command.startswith("snakemake ")]
    assert len(chosen) > 10
    planned = set()
    for command in chosen:
        words = words_of(command)
        dry = [] if {"-n", "--unlock"} & {*words} else ["--dry-run"]
        done = run(folder, *words, *dry, "--snakefile", ROOT / "workflow/Snakefile")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if re.search(r"^total +[1-9]", done.stdout + done.stderr, re.MULTILINE):
            planned.add(command)
    assert {*chosen} - planned == {"snakemake --unlock"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("snakemake ")])
def test_each_command_of_the_package_runs(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(timing, "BUDGET", 0.02)  # seconds: bat plan need not be right here
    tool, *words = words_of(command)
    assert tool == "bat", "run it here, or say in COSTLY why not"
    if NAMES.fullmatch(command) or words == ["--help"]:
        with pytest.raises(SystemExit) as stopped:
            main([words[0], "--help"])
        assert stopped.value.code == 0
    else:
        main(words)


def test_what_is_costly_is_in_the_documentation():
    assert [command for command in COSTLY if command not in all_commands()] == []
    assert OWN in all_commands()


PYTHON = [page for page in PAGES if page != "docs/own_parts.md" and "python" in dict(blocks(page))]


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_each_page_runs(folder, monkeypatch, capsys, page):
    monkeypatch.chdir(folder)
    exec("\n".join(text for language, text in blocks(page) if language == "python"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def test_the_python_of_the_pages_is_found():
    assert set(PYTHON) == {"README.md", "docs/evaluation.md", "docs/scores.md", "docs/tables.md"}


YAML = [(page, text) for page in PAGES for language, text in blocks(page) if language == "yaml"]


@pytest.mark.parametrize(("page", "text"), [each for each in YAML if each[0] != "docs/own_parts.md"])
def test_each_config_of_the_pages_is_read(tmp_path, page, text):
    (tmp_path / "block.yaml").write_text(text)
    bat.config.load(str(ROOT / "config/config.yaml"), str(tmp_path / "block.yaml"))


def test_generated_pages_have_no_code():
    assert [page for page in GENERATED if blocks(page)] == []
