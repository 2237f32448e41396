"""A data set and what subset models say of it, drawn by chance, and the counts that scores are made of, in loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from stubs import named

from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.tables import pack, read_table_with_facts, write_table
from bat.scores.subsets import subset_masks

MODELS = 60
SIZES = {"train": 14, "validation": 6, "test": 9}


class World:
    """A data set of two classes in a folder, and what 60 models say of it, in two shards."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        random, other = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        self.folder = folder
        self.labels = {name: random.integers(2, size=n) for name, n in SIZES.items()}
        # sorted, as each split of a data set is, but apart
        self.index = {name: np.sort(random.permutation(300)[:n]) for name, n in SIZES.items()}
        pixels = {name: random.integers(256, size=(n, 1, 4, 4), dtype=np.uint8) for name, n in SIZES.items()}
        parts = [
            Part(*(torch.tensor(values[name]) for values in (pixels, self.labels, self.index)), pixel_max=255)
            for name in SIZES
        ]
        self.data = DataSet(*parts, classes=2)
        write_data(folder / "data.safetensors", self.data, provenance("data"))
        named(folder / "files.parquet", self.data)
        self.mask = subset_masks(SIZES["train"], 9, design="balanced", seed=seed, first=0, count=MODELS)
        self.right: dict[str, Any] = {}
        self.said: dict[str, Any] = {}
        for kind in ("correct", "robust"):
            # some training samples help themselves and others of their class
            source = random.integers(SIZES["train"], size=4)
            for name, n in SIZES.items():
                chance = 0.25 + 0.45 * self.mask[:, source[random.integers(4, size=n)]]
                if name == "train":
                    chance += np.where(random.random(n) < 0.7, 0.3 * self.mask, 0)
                self.right[f"{kind}_{name}"] = right = random.random((MODELS, n)) < chance
                prefix = "robust_" * (kind == "robust")
                noise = other.random((MODELS, n))
                self.said[f"{prefix}p_{name}"] = (0.5 * right + 0.5 * noise).astype("<f2")
                wrong = 1 - self.labels[name] + (noise < 0.1)  # now and then no class, which is class 2
                self.said[f"{prefix}class_{name}"] = np.where(right, self.labels[name], wrong).astype("u1")
        for first, last in ((0, 35), (35, MODELS)):
            rows = slice(first, last)
            table = pd.DataFrame({"model": np.arange(first, last), "seed": 0, "in_subset": pack(self.mask[rows])})
            said = {name: [row.tobytes() for row in values[rows]] for name, values in self.said.items()}
            table = table.assign(**{name: pack(bits[rows]) for name, bits in self.right.items()}, **said)
            spec = {"seed": 0, "subset_fraction": 9 / 14, "first_model": first, "models": last - first}
            about = provenance("subsets", spec=spec, data=self.data.digest())
            write_table(folder / f"shard-{first}.parquet", "subsets", table, about)
        # the later one first: the order of shards is nobody's business
        self.shards = ["shard-35.parquet", "shard-0.parquet"]

    def of_other_data(self, folder: Path) -> tuple[Path, str]:
        """Write a shard of models that were trained on other data; return it and what is said of it."""
        table, facts = read_table_with_facts(self.folder / "shard-0.parquet", "subsets")
        path = folder / "other_data.parquet"
        write_table(path, "subsets", table, provenance("subsets", spec=facts["spec"], data="another"))
        data = self.folder / "data.safetensors"
        return path, f"{path}: trained on other data than {data}: remove the shards and run stage subsets again"

    def read(self, name: str) -> pd.DataFrame:
        table, facts = read_table_with_facts(self.folder / f"{name}.parquet", name)
        assert (facts["kind"], facts["data"]) == (name, self.data.digest())
        assert facts["models"] == MODELS
        assert facts["spec"]["shards"] == {"spec.seed": 0, "spec.subset_fraction": 9 / 14, "data": self.data.digest()}
        self.spec = {key: value for key, value in facts["spec"].items() if key != "shards"}
        return table


def tally(mask: Any, right: Any, models: Any = None) -> tuple[int, int, int, int]:
    """Right with the sample, models with it, right without it, models without it. mask, right: (models,)."""
    counts = [0, 0, 0, 0]
    for k in range(len(mask)):
        if models is None or models[k]:
            counts[0 if mask[k] else 2] += int(right[k])
            counts[1 if mask[k] else 3] += 1
    return tuple(counts)  # type: ignore[return-value]
