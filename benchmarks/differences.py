"""Differences of accuracy between two runs, paired by seed and test sample, with 95 % intervals.

    python benchmarks/differences.py results/digits_full pgd_at_without_top_0_1:pgd_at bat:pgd_at [--checkpoint last]

Each argument after the folder is RUN:BASELINE. The interval is a bootstrap over seeds and test samples.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from bat.evaluation import METRICS
from bat.statistics import bootstrap_interval


def results(folder: Path, run: str, checkpoint: str) -> pd.DataFrame:
    """Return the per-sample results of all seeds of a run, in the order of seeds."""
    paths = sorted((folder / "evaluation" / run).glob("seed-*/per_sample.parquet"))
    table = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    return table[table["checkpoint"] == checkpoint]


def matrix(table: pd.DataFrame, atypical: bool, metric: str) -> np.ndarray:
    """Return (seeds, samples) of a group of test samples."""
    rows = table[table["atypical"] == atypical]
    return rows.pivot(index="seed", columns="test_index", values=metric).to_numpy(float)


def main() -> None:
    """Print the differences of each pair in points of accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--checkpoint", default="last", choices=["best", "last"])
    options = parser.parse_args()
    for pair in options.pairs:
        first, second = (results(options.folder, run, options.checkpoint) for run in pair.split(":"))
        for atypical in (False, True):
            for metric in METRICS.values():
                difference = matrix(first, atypical, metric) - matrix(second, atypical, metric)
                low, high = bootstrap_interval(difference, confidence=0.95, resamples=4000, seed=0)
                group = "atypical" if atypical else "typical"
                print(
                    f"{pair:60} {group:9} {metric:15} {100 * difference.mean():+5.1f} "
                    f"[{100 * low:+.1f}, {100 * high:+.1f}]"
                )


if __name__ == "__main__":
    main()
