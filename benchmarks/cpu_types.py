"""Run one experiment as on three CPU types and say how far their tables differ.

python benchmarks/cpu_types.py [--configfile config/smoke.yaml] [--cores 2] [--capabilities default avx2 avx512]

Vector units round sums in another order, so float32 results differ in their last bits, and training makes much of
little. The variables below choose the vector unit of torch and of oneDNN's convolutions on one machine. Each run is an
experiment of its own, results/{experiment}_{capability}/; a run that is there is not made again. Printed: atypical
training and test samples, how many change group against the last capability, and by how many points mean accuracies
over seeds move (all test samples, last epoch).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from bat.config import load

ISA = {"default": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE"}
"""By ATEN_CPU_CAPABILITY, what ONEDNN_MAX_CPU_ISA calls the same."""


def main() -> None:
    """Run the experiment under each capability and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", nargs="*", default=[])
    parser.add_argument("--cores", default="all")
    parser.add_argument("--capabilities", nargs="+", choices=ISA, default=list(ISA))
    options = parser.parse_args()
    name = load("config/config.yaml", *options.configfile).experiment
    files = ["--configfile", *options.configfile] if options.configfile else []
    folders = {}
    for capability in options.capabilities:
        experiment = f"{name}_{capability}"
        command = [sys.executable, "-m", "snakemake", "--cores", options.cores, "--quiet", "all", *files]
        units = {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": ISA[capability]}
        subprocess.run([*command, "--config", f"experiment={experiment}"], env=os.environ | units, check=True)
        folders[capability] = Path("results") / experiment
    groups = {capability: _groups(folder) for capability, folder in folders.items()}
    accuracies = {capability: _accuracies(folder) for capability, folder in folders.items()}
    reference = options.capabilities[-1]
    for capability in options.capabilities:
        for split, atypical in groups[capability].items():
            moved = int((atypical != groups[reference][split]).sum())
            print(
                f"{capability}: {int(atypical.sum())} of {len(atypical)} {split} samples are atypical; {moved} are in "
                f"another group under {reference}"
            )
    table = pd.DataFrame(accuracies)
    for capability in options.capabilities[:-1]:
        table[f"{capability} - {reference}"] = table[capability] - table[reference]
    print((100 * table).round(2).to_string())


def _groups(folder: Path) -> dict[str, pd.Series]:
    files = {"training": "memorization", "test": "test_groups"}
    return {split: pd.read_parquet(folder / "scores" / f"{file}.parquet")["atypical"] for split, file in files.items()}


def _accuracies(folder: Path) -> pd.Series:
    summary = pd.read_parquet(folder / "evaluation" / "summary.parquet")
    rows = summary[(summary["group"] == "all") & (summary["checkpoint"] == "last")]
    return rows.set_index(["method", "metric"])["accuracy"]


if __name__ == "__main__":
    main()
