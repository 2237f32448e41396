"""Time and memory of stage scores on shards of made-up models, by default in the numbers of CIFAR-100.

python benchmarks/scores_at_scale.py --folder /tmp/scale [--models 4000] [--train 49000] [--test 10000] [--classes 100]

Each class has --atypical of its training samples memorized, and its test samples are helped by one of these each. One
thread. Printed: CPU time and largest memory of the stage's process, and of one that only imports torch and pandas.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import pack, write_table
from bat.scores.subsets import subset_masks

_SHARD = 50


def main() -> None:
    """Write the shards, run the stage and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    for name, default in (
        ("models", 4000),
        ("train", 49_000),
        ("validation", 1000),
        ("test", 10_000),
        ("classes", 100),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--atypical", type=float, default=0.35)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    shards = _write(given)
    spec = '{"score": "hard", "threshold": 0.15, "false_discovery_rate": 0.05, "confidence": 0.95}'
    names = ("memorization", "influence", "train_influence", "test_groups", "validation_groups", "label_errors")
    outputs = [
        part for name in names for part in (f"--{name.replace('_', '-')}", str(given.folder / f"{name}.parquet"))
    ]
    log = given.folder / "scores.log"
    outputs += ["--top", str(given.folder / "top.csv")]
    inputs = ["--data", str(given.folder / "data.safetensors"), "--files", str(given.folder / "files.parquet")]
    command = [sys.executable, "-m", "bat", "scores", "--spec", spec, *inputs]
    subprocess.run([*command, "--shards", *shards, *outputs, "--log", str(log), "--threads", "1"], check=True)
    print(re.search(r"CPU time.*", log.read_text())[0])
    peak = "import torch, pandas, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6)"
    print("torch and pandas alone:", subprocess.check_output([sys.executable, "-c", peak], text=True).strip(), "MB")
    for name in names:
        print(f"{name}: {len(pd.read_parquet(given.folder / f'{name}.parquet'))} rows")


def _write(given: argparse.Namespace) -> list[str]:
    random = np.random.default_rng(0)
    sizes = {"train": given.train, "validation": given.validation, "test": given.test}
    labels = {name: np.arange(size) % given.classes for name, size in sizes.items()}
    parts = [
        Part(
            torch.zeros(size, 1, 1, 1, dtype=torch.uint8),
            torch.from_numpy(labels[name]),
            torch.arange(size),
            pixel_max=255,
        )
        for name, size in sizes.items()
    ]
    data = DataSet(*parts, classes=given.classes)
    path = given.folder / "data.safetensors"
    write_data(path, data, provenance("data"))
    files = [
        pd.DataFrame({"split": name, "index": np.arange(size), "label": labels[name]}) for name, size in sizes.items()
    ]
    table = pd.concat(files).assign(class_name=lambda rows: rows["label"].astype(str), file=None)
    write_table(given.folder / "files.parquet", "files", table, provenance("files", data=data.digest()))
    rate = {name: random.uniform(0.2, 1, size) for name, size in sizes.items()}
    memorized = random.random(given.train) < given.atypical
    # a helper of each sample's class
    helper = {name: random.integers(given.train // given.classes, size=size) for name, size in sizes.items()}
    helper = {name: helper[name] * given.classes + labels[name] for name in sizes}
    shards = []
    for first in range(0, given.models, _SHARD):
        mask = subset_masks(
            given.train, round(0.7 * given.train), design="independent", seed=0, first=first, count=_SHARD
        )
        columns = {"in_subset": mask}
        for name, size in sizes.items():
            chance = rate[name] * (0.75 + 0.25 * mask[:, helper[name]])
            if name == "train":
                chance = np.where(memorized, np.where(mask, 0.95, 0.3 * chance), np.where(mask, 0.98, chance))
            right = random.random((_SHARD, size), dtype=np.float32) < chance
            noise = random.random((_SHARD, size), dtype=np.float32)
            other = (labels[name] + 1 + (noise * (given.classes - 1)).astype(int)) % given.classes
            kind = np.uint8 if given.classes < 2**8 else np.uint16
            columns[f"correct_{name}"] = right
            columns[f"p_{name}"] = np.where(right, 0.5 + noise / 2, noise / 2).astype(np.float16)
            columns[f"class_{name}"] = np.where(right, labels[name], other).astype(kind)
        numbers = {"model": np.arange(first, first + _SHARD), "seed": 0}
        bytes_ = {name: pack(values) for name, values in columns.items()}
        shard = given.folder / f"shard-{first // _SHARD:03d}.parquet"
        about = {"spec": {"seed": 0, "subset_fraction": 0.7, "first_model": first, "models": _SHARD}}
        table = pd.DataFrame(dict.fromkeys(SCHEMAS["subsets"].names) | numbers | bytes_)
        write_table(shard, "subsets", table, provenance("subsets", **about, data=data.digest()))
        shards.append(str(shard))
    return shards


if __name__ == "__main__":
    main()
