"""Wall time, CPU time, memory, and the share of CPU time that is not training, attacking, scoring or drawing.

    python benchmarks/workflow_overhead.py --folder /tmp/run [--configfile config/config.yaml]

Runs the whole workflow once in an empty folder. CPU time is that of all its processes; work is what the stages count in
their logs; the rest is overhead: start-up, imports, files and scheduling. Memory is the largest single process.
"""

import argparse
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the workflow and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a folder that does not exist yet; it is kept")
    parser.add_argument("--configfile", default="config/config.yaml")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    shutil.copytree(ROOT / "config", options.folder / "config")
    arguments = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "all", "--configfile", options.configfile]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "snakemake", *arguments, "--quiet", "all"], cwd=options.folder, check=True)
    wall = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    pattern = re.compile(r"CPU time ([\d.]+) s, of which work ([\d.]+) s")
    logs = [match for path in options.folder.rglob("*.log") for match in pattern.findall(path.read_text())]
    stages, work = (sum(float(value) for value in column) for column in zip(*logs, strict=True))
    print(f"wall time       {wall:8.1f} s")
    print(f"CPU time        {cpu:8.1f} s in {len(logs)} jobs and the scheduler")
    print(f"  work          {work:8.1f} s")
    print(f"  jobs' rest    {stages - work:8.1f} s")
    print(f"  scheduler     {cpu - stages:8.1f} s")
    print(f"overhead        {(cpu - work) / cpu:8.1%} of CPU time")
    print(f"largest process {used.ru_maxrss / 1024:8.0f} MiB")


if __name__ == "__main__":
    main()
