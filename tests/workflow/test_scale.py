"""A large experiment is planned by Snakemake in seconds: 4,000 subset models, ten methods, five seeds."""

import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, end="")
sys.exit(code)
"""


def test_dry_run_of_4000_models_takes_little_time_and_memory(tmp_path):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["memorization"] |= {"subset_models": 4000, "models_per_shard": 50}
    bat = config["training"]["methods"][2]
    config["training"]["methods"] = [bat | {"name": f"bat_{number}"} for number in range(10)]
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "-n"]
    # through a small process: a child counts the memory of the process that it was forked from, too
    small = [sys.executable, "-c", MEASURE, *command]
    start = time.monotonic()
    run = subprocess.run(small, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    text, _, memory = run.stdout.rpartition("\n")
    jobs = dict(line.split() for line in text.splitlines() if line.startswith(("subsets ", "train ", "evaluate ")))
    assert jobs == {"subsets": "80", "train": "50", "evaluate": "50"}
    assert time.monotonic() - start < 15
    assert int(memory) < 1024**2  # KiB
