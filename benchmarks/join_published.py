"""Join published memorization and influence of CIFAR-100 into one file that an experiment can import.

    python benchmarks/join_published.py --npz memorization.npz --pairs pairs.csv --cache cache --out joined.npz

Feldman and Zhang (2020) list pairs of a training and a test sample with an influence over 0.15, for training samples
with a memorization over 0.25. Their memorization of the other samples is not in that list: it is taken from an npz of
all 50,000 (layout ``npz``, docs/scores.md). Influence of a pair that is not listed is taken to be 0. The file has the
layout ``feldman_zhang``.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from torchvision.datasets import CIFAR100


def main() -> None:
    """Write the file, and say how many pairs and test samples it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="CSV: train_index, test_index, influence")
    parser.add_argument("--cache", type=Path, required=True, help="the folder with torchvision's cifar-100-python")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    labels, test_labels = (np.array(CIFAR100(options.cache, train=train).targets) for train in (True, False))
    with np.load(options.npz, allow_pickle=False) as file:
        memorization = file["memorization"]
        if not np.array_equal(file["labels"], labels):
            raise SystemExit(f"{options.npz}: its labels are not those of CIFAR-100's training file")
    pairs = pd.read_csv(options.pairs)
    train, test = pairs["train_index"].to_numpy(), pairs["test_index"].to_numpy()
    if not np.array_equal(labels[train], test_labels[test]):
        raise SystemExit(f"{options.pairs}: pairs of two classes: are these indices of CIFAR-100's files?")
    arrays = {"tr_mem": memorization, "tr_labels": labels, "tt_labels": test_labels}
    for label in range(100):
        rows, columns = np.flatnonzero(labels == label), np.flatnonzero(test_labels == label)
        influence = np.zeros((len(rows), len(columns)), dtype=np.float32)
        own = labels[train] == label
        influence[np.searchsorted(rows, train[own]), np.searchsorted(columns, test[own])] = pairs["influence"][own]
        arrays |= {
            f"tr_classidx_{label}": rows,
            f"tt_classidx_{label}": columns,
            f"infl_matrix_class{label}": influence,
        }
    np.savez_compressed(options.out, **arrays)
    print(f"{options.out}: {len(pairs)} pairs with {len(np.unique(test))} test samples")


if __name__ == "__main__":
    main()
