"""Experiments as a user runs them: snakemake on a copy of ``config`` in a folder of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from warm import shims

ROOT = Path(__file__).parents[1]
SMOKE = "results/smoke"
# the environment's own python and snakemake first, also where it is not activated
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def command(*arguments, snakefile=ROOT / "workflow" / "Snakefile", configfile="config/smoke.yaml"):
    options = ["--snakefile", snakefile, "--configfile", configfile, "--cores", "2"]
    return ["snakemake", *map(str, arguments), *map(str, options)]


def run(folder, *words, warm=True):
    """Run ``snakemake ...`` or ``bat ...`` in a folder; warm: as forks of a process that has imported all."""
    python, environment = sys.executable, ENVIRONMENT
    if warm:
        python = str(shims() / "python")
        environment = environment | {"PATH": f"{shims()}{os.pathsep}{environment['PATH']}"}
    called = [python, "-m", *map(str, words)]
    return subprocess.run(called, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def snakemake(folder, *arguments, warm=True, **where):
    return run(folder, *command(*arguments, **where), warm=warm)


def kill_when(folder, *arguments, true, within):
    """Start snakemake with true processes, and kill all of them as soon as something is true, in so many seconds."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    called = [sys.executable, "-m", *command(*arguments)]
    running = subprocess.Popen(called, cwd=folder, env=ENVIRONMENT, process_group=0, **silent)
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def new_experiment(folder):
    shutil.copytree(ROOT / "config", folder / "config")
    return folder


def edit(folder, change):
    """Change the smoke config by ``change``, a function of its dict."""
    path = folder / "config" / "smoke.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def planned(folder, *arguments, **where):
    """Return how many jobs of each rule a run would do."""
    return counted(snakemake(folder, *arguments, "--dry-run", **where))


def counted(done):
    """Return how many jobs of each rule a dry run tells of."""
    assert done.returncode == 0, done.stderr
    statistics = re.search(r"^-+ +-+\n(.*?)\n\n", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
    jobs = dict(line.split() for line in statistics[1].splitlines()) if statistics else {}
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


def tables(folder):
    # a killed job's unfinished ones, which the next run removes, are in a folder of their own
    found = [path for path in folder.rglob("*.parquet") if path.parent.suffix != ".tmp"]
    return {path.relative_to(folder): path.read_bytes() for path in found}
