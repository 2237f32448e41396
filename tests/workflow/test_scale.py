"""Large experiments and their trials are planned by Snakemake in seconds: 4,000 subset models, 20 runs, 3 seeds."""

import json
import re
import subprocess
import sys
import time

import pytest
from experiments import ROOT, run

MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, end="")
sys.exit(code)
"""


def dry_run(folder, name, *arguments):
    """Plan a shipped experiment in an empty folder; return what Snakemake says, seconds, and memory in KiB."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "workflow/Snakefile", "--dry-run"]
    files = ["--configfile", *(ROOT / f"config/{each}.yaml" for each in ("config", name))]
    # through a small process: a child counts the memory of the process that it was forked from, too
    small = [sys.executable, "-c", MEASURE, *map(str, [*command, *files, *arguments])]
    start = time.monotonic()
    done = subprocess.run(small, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text, _, memory = done.stdout.rpartition("\n")
    return text, time.monotonic() - start, int(memory)


def jobs(text):
    found = dict(re.findall(r"^(download|subsets|robust_subsets|train|evaluate) +(\d+)$", text, re.MULTILINE))
    return {rule: int(count) for rule, count in found.items()}


def test_dry_run_of_4000_models_takes_little_time_and_memory(tmp_path):
    text, seconds, memory = dry_run(tmp_path, "cifar100")
    assert jobs(text) == {"download": 1, "subsets": 80, "train": 60, "evaluate": 60}
    assert seconds < 90  # about 3 on a quiet core; hours where every pair of files is looked at
    assert memory < 1024**2


def test_cifar100_with_released_scores_is_planned_without_its_data(tmp_path):
    (tmp_path / "cifar100-cscores-orig-order.npz").touch()
    text, _, _ = dry_run(tmp_path, "cifar100_gpu")
    assert jobs(text) == {"download": 1, "train": 3, "evaluate": 3}
    assert re.search(r"^import_scores +1$", text, re.MULTILINE)


# shards; runs, those of removal and sweeps included, times seeds; networks of stage 1 and 2
SHIPPED = {
    "mnist": (20, 21 * 3, "small_cnn", "small_cnn"),
    "cifar10": (20, 21 * 3, "resnet9", "preact_resnet18"),
    "cifar100": (80, 20 * 3, "preact_resnet18", "preact_resnet18"),
    "tiny_imagenet": (100, 19 * 2, "preact_resnet18", "preact_resnet18"),
}


@pytest.mark.parametrize("config", [[], ["subsample=0.02", "experiment=trial"]], ids=["whole", "trial"])
@pytest.mark.parametrize("name", SHIPPED)
def test_large_experiments_and_their_trials_can_be_planned_without_their_data(tmp_path, name, config):
    shards, runs, first, second = SHIPPED[name]
    options = ["--config", *config] if config else []
    files = ["--configfile", *(ROOT / f"config/{each}.yaml" for each in ("config", name))]
    done = run(tmp_path, "snakemake", "-n", "-p", "-s", ROOT / "workflow/Snakefile", *options, *files)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert jobs(text) == {"download": 1, "subsets": shards, "train": runs, "evaluate": runs}
    assert f"results/{'trial' if config else name}/subsets/" in text
    specs = {
        stage: [json.loads(found) for found in re.findall(rf"python -m bat {stage} --spec '(.*?)' --", text)]
        for stage in ("data", "subsets", "train", "evaluate")
    }
    assert [spec["subsample"] for spec in specs["data"]] == [0.02 if config else 1.0]
    for stage, network in (("subsets", first), ("train", second), ("evaluate", second)):
        assert {spec["model"]["name"] for spec in specs[stage]} == {network}
