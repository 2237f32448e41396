"""A large experiment is planned by Snakemake in seconds: 4,000 subset models, ten methods, five seeds."""

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_dry_run_of_4000_models_takes_little_time_and_memory(tmp_path):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["memorization"] |= {"subset_models": 4000, "models_per_shard": 50}
    bat = config["training"]["methods"][2]
    config["training"]["methods"] = [bat | {"name": f"bat_{number}"} for number in range(10)]
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "-n"]
    with (tmp_path / "output").open("w") as output:
        start = time.monotonic()
        run = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(run.pid, 0)
    text = (tmp_path / "output").read_text()
    run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0, text
    jobs = dict(line.split() for line in text.splitlines() if line.startswith(("subsets ", "train ", "evaluate ")))
    assert jobs == {"subsets": "80", "train": "50", "evaluate": "50"}
    assert time.monotonic() - start < 15
    assert usage.ru_maxrss < 1024**2  # KiB
