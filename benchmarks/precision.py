"""How precise scores are for the number of models: hard and soft, balanced and independent subsets.

python benchmarks/precision.py --folder /tmp/precision [--data digits] [--models 1600] [--reference 800]

Trains --models subset models and as many as --reference others, which give the values that estimates from K of the
former are compared with, each score with its own. Printed by K, over all groups of K models that do not overlap:

- the root mean square error on atypical training samples (hard memorization over 0.15 in the reference), without what
  the reference's own standard errors add;
- the share of 95 % intervals that hold the reference's value, of atypical and of all training samples; each interval is
  widened by the reference's own (its distances to both ends and 1.96 of the reference's standard errors in quadrature);
- pairs of atypical training and test samples that are significant at a false discovery rate of 0.05, and how many with
  the models' results shuffled among them.

Then the models that the soft score needs for the error of the hard one: the squared ratio of their errors, with an
interval by resampling the samples. Shards are kept in the folder, so that a killed run goes on. One process.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bat.config import load
from bat.config.specs import SubsetsSpec, as_json
from bat.data.dataset import DataSet
from bat.data.saved import load_data
from bat.scores.estimators import InfluenceFinder, memorization_table
from bat.scores.shards import Shards, class_by_class, open_shards
from bat.statistics import Bools, Floats

_SHARD = 100
_DATA = {
    "digits": ["data={name: digits, train_samples: 600, validation_samples: 200}"],
    "mnist5k": ["data={name: mnist5k, train_samples: 2500, validation_samples: 500}"],
}


def main() -> None:
    """Train the models and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=_DATA, default="digits")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--models", type=int, default=1600)
    parser.add_argument("--reference", type=int, default=800)
    parser.add_argument("--independent", type=int, default=400)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    config = load(
        "config/config.yaml",
        settings=[*_DATA[given.data], f"model=mlp:{given.width}", f"memorization.models_per_shard={_SHARD}"],
    )
    data = given.folder / "data.safetensors"
    if not data.exists():
        spec = json.dumps({"data": json.loads(json.dumps(config.data, default=vars)), "subsample": 1.0})
        _bat("data", spec=spec, data=data, files=given.folder / "files.parquet")
    samples, digest = load_data(data, "cpu")
    said = {}
    for name, seed, design, count in (
        ("balanced", 0, "balanced", given.models),
        ("reference", 1, "balanced", given.reference),
        ("independent", 2, "independent", given.independent),
    ):
        paths = []
        for first in range(0, count, _SHARD):
            path = given.folder / f"{name}-{first:05d}.parquet"
            if not path.exists():
                settings = {"seed": seed, "design": design}
                spec = json.loads(as_json(SubsetsSpec.of(config, first_model=first))) | settings
                _bat("subsets", spec=json.dumps(spec), data=data, shard=path, threads=1)
            paths.append(path)
        said[name] = _Said(open_shards(paths, data, samples, digest), samples)
    whole = said["reference"].table(slice(None))
    atypical = (whole["memorization"] > 0.15).to_numpy()
    print(f"{given.data}, MLP of width {given.width}: {int(atypical.sum())} of {len(atypical)} samples are atypical")
    correlation = np.corrcoef(whole["memorization"], whole["soft_memorization"])[0, 1]
    print(f"correlation of the hard and the soft score, {given.reference} models: {correlation:.3f}")
    rows, squares = [], {}
    for name, count in (("balanced", given.models), ("independent", given.independent)):
        for models in (50, 100, 200, 400, 800, 1600):
            groups = [slice(first, first + models) for first in range(0, count - models + 1, models)]
            if not groups:
                continue
            tables = [said[name].table(group) for group in groups]
            row: dict[str, Any] = {"design": name, "models": models, "groups": len(groups)}
            for kind in ("", "soft_"):
                errors = np.stack([(table[f"{kind}memorization"] - whole[f"{kind}memorization"]) for table in tables])
                noise = whole[f"{kind}standard_error"].to_numpy() ** 2
                square = (errors**2).mean(0)[atypical] - noise[atypical]
                squares[name, models, kind] = square
                row[f"{kind}rmse"] = np.sqrt(max(square.mean(), 0))
                inside = np.stack([_covers(table, whole, kind) for table in tables])
                row |= {f"{kind}coverage": inside[:, atypical].mean(), f"{kind}coverage_all": inside.mean()}
            pairs = np.array([said[name].pairs(group, atypical) for group in groups])
            shuffled = np.array([said[name].pairs(group, atypical, shuffle=seed) for seed, group in enumerate(groups)])
            row |= {"pairs": pairs[:, 0].mean(), "soft_pairs": pairs[:, 1].mean()}
            row |= {"shuffled": shuffled[:, 0].mean(), "soft_shuffled": shuffled[:, 1].mean()}
            rows.append(row)
    print(pd.DataFrame(rows).round(4).to_string(index=False))
    random = np.random.default_rng(0)
    for (name, models, kind), hard in squares.items():
        if kind or models > given.reference // 4:
            continue
        soft = squares[name, models, "soft_"]
        drawn = random.integers(len(hard), size=(2000, len(hard)))
        low, high = np.quantile(soft[drawn].mean(1) / hard[drawn].mean(1), [0.025, 0.975])
        share = f"{soft.mean() / hard.mean():.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name}, K = {models}: the soft score needs {share} of the models for the same error")


def _covers(table: pd.DataFrame, reference: pd.DataFrame, kind: str) -> Bools:
    noise = 1.96 * reference[f"{kind}standard_error"]
    distance = reference[f"{kind}memorization"] - table[f"{kind}memorization"]
    above = np.hypot(table[f"{kind}ci_high"] - table[f"{kind}memorization"], noise)
    below = np.hypot(table[f"{kind}memorization"] - table[f"{kind}ci_low"], noise)
    inside: Bools = ((-below <= distance) & (distance <= above)).to_numpy()
    return inside


class _Said:
    """What models say of all training and test samples, in memory."""

    def __init__(self, shards: Shards, samples: DataSet) -> None:
        self.classes = list(class_by_class(shards, samples, ("correct", "p")))
        self.order = np.argsort(np.concatenate([one.index["train"] for one in self.classes]))

    def table(self, group: slice) -> pd.DataFrame:
        """Return the scores of training samples from some models, in the order of indices."""
        tables = [
            memorization_table(
                *(one.columns[name][group] for name in ("in_subset", "correct_train", "p_train")), confidence=0.95
            )
            for one in self.classes
        ]
        return pd.concat(tables, ignore_index=True).iloc[self.order].reset_index(drop=True)

    def pairs(self, group: slice, atypical: Bools, *, shuffle: int | None = None) -> tuple[int, int]:
        """Return how many pairs of atypical training and test samples are significant by the hard and the soft test."""
        finder = InfluenceFinder(false_discovery_rate=0.05, over=0.15)
        chosen = np.empty(len(atypical), dtype=bool)
        chosen[self.order] = atypical
        first = 0
        for one in self.classes:
            mine = chosen[first : first + len(one.index["train"])]
            first += len(mine)
            mask: Bools = one.columns["in_subset"][group]
            order = np.arange(len(mask))
            if shuffle is not None:
                order = np.random.default_rng(shuffle).permutation(order)
            probability: Floats = one.columns["p_test"][group]
            finder.add(
                mask[:, mine],
                one.columns["correct_test"][group][order],
                probability[order],
                label=one.label,
                train_index=one.index["train"][mine],
                target_index=one.index["test"],
            )
        return finder.result().significant


def _bat(stage: str, **flags: object) -> None:
    options = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    subprocess.run([sys.executable, "-m", "bat", stage, *options], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    main()
