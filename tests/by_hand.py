"""A whole experiment as tables made by hand: the stages summary, results and figure on numbers that are known.

Every accuracy is another one, so that no two can be exchanged unseen. Of each group of test samples the first ones are
right; seeds 0, 1 and 2 have one less, as many and one more than ``RIGHT`` says, so that means are what it says.
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from stages import BAT, EVALUATE, NATURAL, PGD_AT, RESULTS, SCORES, SUMMARY, TRAIN, call, planned_run

from bat.config import Run, parse
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.evaluation.summary import run_table
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table

SEEDS = (0, 1, 2)
TYPICAL, ATYPICAL = 60, 30
"""Numbers of test samples; their indices are 1000 ... 1089, the atypical ones last."""
METRICS = ("clean", "pgd", "robust")
# right of typical and of atypical test samples: clean, PGD, robust
RIGHT = {
    "natural": {"last": ((58, 6, 3), (28, 3, 2)), "best": ((57, 8, 4), (29, 5, 3))},
    "pgd_at": {"last": ((55, 40, 30), (27, 6, 3)), "best": ((50, 45, 35), (20, 18, 15))},
    "bat": {"last": ((56, 52, 51), (26, 9, 5)), "best": ((30, 24, 14), (16, 13, 11))},
    "pgd_at_without_atypical": {"last": ((53, 39, 29), (5, 4, 2)), "best": ((49, 44, 34), (14, 12, 10))},
    "pgd_at_without_random_atypical": {"last": ((54, 41, 32), (25, 7, 4)), "best": ((48, 43, 33), (19, 17, 13))},
    "pgd_at_without_top_0_1": {"last": ((52, 38, 28), (15, 5, 3)), "best": ((47, 42, 31), (13, 11, 9))},
    "pgd_at_without_random_top_0_1": {"last": ((57, 42, 33), (24, 8, 6)), "best": ((46, 41, 30), (18, 16, 12))},
    "pgd_at_without_harmful": {"last": ((59, 53, 48), (22, 10, 8)), "best": ((45, 40, 29), (17, 15, 14))},
    "pgd_at_without_random_harmful": {"last": ((51, 43, 27), (23, 12, 9)), "best": ((44, 39, 28), (12, 10, 8))},
    "pgd_at_without_benign": {"last": ((49, 37, 26), (21, 11, 7)), "best": ((43, 38, 27), (11, 9, 7))},
    "pgd_at_without_random_benign": {"last": ((48, 36, 25), (19, 13, 10)), "best": ((42, 37, 26), (10, 8, 6))},
}
MAIN = ("natural", "pgd_at", "bat")
TRAINING = 100
LEFT_OUT = dict.fromkeys(RIGHT, 0) | {
    f"pgd_at_without_{random}{case}": count
    for random in ("", "random_")
    for case, count in {"atypical": 12, "top_0_1": 10, "harmful": 5, "benign": 7}.items()
}
PAIRS = {
    "methods": [("natural", "pgd_at"), ("bat", "pgd_at")],
    "pairs": [("bat", "natural")],
    "removal": [
        pair
        for case in ("atypical", "top_0_1", "harmful", "benign")
        for pair in (
            (f"pgd_at_without_{case}", "pgd_at"),
            (f"pgd_at_without_{case}", f"pgd_at_without_random_{case}"),
            (f"pgd_at_without_random_{case}", "pgd_at"),
        )
    ],
}
THREAT = {"norm": "l2", "eps": 0.3}
EPOCHS = 6
RARE = (3, 14, 25, 36, 47, 58, 60, 61, 62, 63, 64, 65)
"""The atypical training samples, of 0 ... 99; their labels are what the index leaves over by 3."""
HARMFUL = RARE[:5]


def accuracy(run: str, checkpoint: str, group: str, metric: str) -> float:
    typical, atypical = (RIGHT[run][checkpoint][place][METRICS.index(metric)] for place in (0, 1))
    return {
        "typical": typical / TYPICAL,
        "atypical": atypical / ATYPICAL,
        "all": (typical + atypical) / (TYPICAL + ATYPICAL),
    }[group]


def write(folder: Path, kind: str, frame: pd.DataFrame, name: str | None = None, **facts: Any) -> str:
    """Write a table of the kind, with something in each column that ``frame`` lacks; return its name."""
    empty = {
        field.name: pd.Series([None] * len(frame), dtype=object)
        if pa.types.is_string(field.type)
        else {pa.float64(): 0.5, pa.int64(): 0, pa.bool_(): False}[field.type]
        for field in SCHEMAS[kind]
        if field.name not in frame
    }
    name = name or f"{kind}.parquet"
    about = provenance(kind, **{"data": data().digest()} | facts)
    write_table(folder / name, kind, frame.reset_index(drop=True).assign(**empty), about)
    return name


def per_sample(run: str, seed: int, atypical: int = ATYPICAL) -> pd.DataFrame:
    tables = []
    for checkpoint, right in RIGHT[run].items():
        place = np.concatenate([np.arange(TYPICAL), np.arange(ATYPICAL)])
        group = np.repeat([0, 1], [TYPICAL, ATYPICAL])
        columns = {
            f"{metric}_correct": place < np.array([right[0][number], right[1][number]])[group] + seed - 1
            for number, metric in enumerate(METRICS)
        }
        index = 1000 + np.arange(TYPICAL + ATYPICAL)
        table = pd.DataFrame({"test_index": index, "label": index % 3} | columns)
        rare = table.index >= TYPICAL + ATYPICAL - atypical
        influence = np.where(rare, 0.2, -0.1)
        tables.append(table.assign(checkpoint=checkpoint, atypical=rare, max_influence=influence, tier="fast"))
    return pd.concat(tables, ignore_index=True).assign(method=run, seed=seed)


def history(run: str, seed: int) -> pd.DataFrame:
    """Accuracies at even epochs alone; epoch 4 is the best. Split, group, metric, run and epoch all count."""
    rows = []
    for epoch in range(1, EPOCHS + 1):
        measured = epoch % 2 == 0
        row: dict[str, Any] = {"epoch": epoch, "best": epoch == 4, "trained_samples": TRAINING - LEFT_OUT[run]}
        for column in range(12):
            split, group, metric = np.unravel_index(column, (2, 3, 2))
            name = f"{('train', 'test')[split]}_{('all', 'typical', 'atypical')[group]}_{('clean', 'pgd')[metric]}"
            row[f"{name}_accuracy"] = learned(run, seed, epoch, column) if measured else np.nan
        row["validation_all_pgd_accuracy"] = learned(run, seed, epoch, 12) if measured else np.nan
        rows.append(row)
    return pd.DataFrame(rows).assign(method=run, seed=seed)


def learned(run: str, seed: int, epoch: int, column: int) -> float:
    return 0.5 + list(RIGHT).index(run) / 1000 + (seed - 1) / 500 + epoch / 100 + column / 40


def data() -> DataSet:
    """Grey images, each of a brightness of its own: twice the index, in 255ths."""

    def part(index: torch.Tensor) -> Part:
        pixels = (2 * index % 256)[:, None, None, None].expand(-1, 1, 2, 2).to(torch.uint8)
        return Part(pixels.clone(), index % 3, index, pixel_max=255)

    return DataSet(part(torch.arange(TRAINING)), part(torch.arange(500, 504)), part(1000 + torch.arange(90)), classes=3)


def memorization() -> pd.DataFrame:
    index = np.arange(TRAINING)
    rare = np.isin(index, RARE)
    value = np.where(rare, 0.2 + index / 200, index / 1000)
    table = pd.DataFrame({"train_index": index, "label": index % 3, "memorization": value, "atypical": rare})
    # 6 samples are wrong in most models trained on them
    p_in = np.where(index < 6, 0.4, 0.9)
    return table.assign(ci_low=value - 0.11, ci_high=value + 0.07, p_in=p_in, p_out=0.6)


def groups(atypical: int = ATYPICAL) -> pd.DataFrame:
    index = 1000 + np.arange(TYPICAL + ATYPICAL)
    rare = index >= 1090 - atypical
    influence = np.where(rare, 0.2, -0.1)
    return pd.DataFrame({"test_index": index, "label": index % 3, "atypical": rare, "max_influence": influence})


def harmful() -> pd.DataFrame:
    index = np.array(RARE)
    table = pd.DataFrame({"train_index": index, "label": index % 3, "memorization": 0.2 + index / 200})
    return table.assign(wrong_probability=1 - index / 100, harmful=np.isin(index, HARMFUL))


def train_influence() -> pd.DataFrame:
    """What influences the two most memorized samples, 65 and 64, in no order; the others are influenced by nothing."""
    pairs = {(5, 65): 0.2, (8, 65): 0.6, (11, 65): 0.4, (2, 65): 0.17, (17, 65): 0.16, (7, 64): 0.3}
    index = pd.DataFrame(list(pairs), columns=["train_index", "influenced_index"])
    found = index.assign(influence=list(pairs.values()), standard_error=[0.05, 0.03, 0.04, 0.06, 0.07, np.nan])
    return found.assign(significant=[False, True, True, False, False, True])


def training_samples(run: str, seed: int) -> pd.DataFrame:
    """Weights of the atypical samples over four epochs: all but the first two of ``HARMFUL`` weigh 1."""
    table = pd.DataFrame([(epoch, index) for epoch in range(1, 5) for index in RARE], columns=["epoch", "train_index"])
    lighter = table["train_index"].isin(HARMFUL[:2])
    weight = np.where(lighter, 0.9 - 0.1 * table["epoch"] - 0.05 * seed - 0.01 * len(run), 1.0)
    return table.assign(weight=weight, wrong_probability=0.5, method=run, seed=seed)


def robust_effects() -> pd.DataFrame:
    effect = np.array([-0.05, -0.04, -0.03, -0.02, -0.01, 0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    significant = np.array([True, True, True, False, False, False, False, False, False, False, False, True])
    order = np.random.default_rng(0).permutation(len(RARE))
    table = pd.DataFrame({"train_index": RARE, "label": np.array(RARE) % 3, "models": 80})
    table["robust_effect"], table["robust_significant"] = effect[order], significant[order]
    # of clean accuracy all is the other way round
    return table.assign(
        robust_standard_error=0.004,
        clean_effect=-table["robust_effect"],
        clean_significant=~table["robust_significant"],
    )


def proxy_agreement() -> pd.DataFrame:
    """Two proxies against both scores, and the halves of the models: no value is like another."""
    rows = [
        {"proxy": proxy, "score": score, "metric": metric}
        for proxy in ("csl", "lt_iqr", "half of the subset models")
        for score in ("hard", "soft")
        for metric in ("spearman", "auc", "precision")
    ]
    table = pd.DataFrame(rows)
    table["value"] = 0.1 + table.index / 25
    table["atypical"] = np.where(table["score"] == "hard", len(RARE), len(RARE) - 3)
    return table.assign(ci_low=table["value"] - 0.2, ci_high=table["value"] + 0.11, runs=4, models=200)


def make(folder: Path, *, atypical: int = ATYPICAL, runs: Iterable[str] = RIGHT) -> dict[str, list[str]]:
    """Write all tables that the stages read; return the names of those that there is one of a run and seed."""
    made, names = _made(atypical, tuple(runs))
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return {kind: list(files) for kind, files in names.items()}


@cache
def _made(atypical: int, runs: tuple[str, ...]) -> tuple[Path, dict[str, list[str]]]:
    """Make the tables once in this process, in a folder that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="by_hand"))
    atexit.register(shutil.rmtree, folder)
    shards = {"shards": {"spec.subset_fraction": 0.7}}
    scored = {"spec": SCORES | shards, "models": 200}
    write_data(folder / "data.safetensors", data(), provenance("data"))
    split = np.repeat(["train", "validation", "test"], [TRAINING, 4, 90])
    # of 100 training samples 34 are of class 0; validation and test samples must not count
    label = np.concatenate([np.arange(TRAINING) % 3, np.zeros(94, dtype=int)])
    write(folder, "files", pd.DataFrame({"split": split, "label": label, "class_name": "a"}))
    write(folder, "memorization", memorization(), **scored)
    write(folder, "proxy_agreement", proxy_agreement())
    write(folder, "test_groups", groups(atypical), **scored)
    write(folder, "train_influence", train_influence(), **scored)
    write(folder, "harmful", harmful())
    write(folder, "robust_effects", robust_effects())
    found = {"shuffle": [0, 1, 2], "pairs": 360, "significant": 50, "over_threshold": [70, 30, 50]}
    write(folder, "null_pairs", pd.DataFrame(found | {"found": [40, 1, 2], "targets": 9}))
    evaluated = {"spec": EVALUATE | {"threat": THREAT, "ensemble": "fast"}}
    names: dict[str, list[str]] = {"attacked": [], "flags": [], "histories": []}
    for run in runs:
        objective = {"natural": NATURAL, "bat": BAT}.get(run, PGD_AT)
        for seed in SEEDS:
            facts = {"spec": TRAIN | {"method": objective | {"name": run}, "threat": THREAT, "seed": seed}}
            table = history(run, seed)
            names["histories"].append(write(folder, "history", table, f"{run}-{seed}.history", **facts))
            table = per_sample(run, seed, atypical)
            names["attacked"].append(write(folder, "attacked", table, f"{run}-{seed}.parquet", **evaluated))
            signs = {"method": [run], "seed": seed, "checkpoint": "last", "flag": "masked", "meaning": "x"}
            table = pd.DataFrame(signs | {"raised": run == "bat" and seed in SEEDS[:2]})
            names["flags"].append(write(folder, "flags", table, f"{run}-{seed}.flags", **evaluated))
    return folder, names


def planned(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the runs as the config would have them."""
    runs = []
    for name in names:
        method = {"natural": NATURAL, "bat": BAT}.get(name, PGD_AT) | {"name": name}
        base, _, case = name.partition("_without_")
        if not case:
            runs.append(planned_run(method))
            continue
        random, what = case.startswith("random_"), case.removeprefix("random_")
        fraction = float(what.removeprefix("top_").replace("_", ".")) if what.startswith("top") else None
        without = {"what": what.split("_")[0], "fraction": fraction, "random": random}
        runs.append(planned_run(method, without, base=base, role="random" if random else "removal"))
    return runs


def runs_table(*names: str) -> pd.DataFrame:
    """Return the table of runs of some names."""
    return run_table([parse(Run, run, name) for name, run in zip(names, planned(names), strict=True)], {})


def summarize(folder: Path, names: dict[str, list[str]], *, questions: Any = None) -> None:
    outputs = {name: f"{name}.parquet" for name in ("per_sample", "by_seed", "summary", "comparisons", "runs")}
    outputs |= {"all_flags": "all_flags.parquet", "raised": "flags.csv"}
    spec = SUMMARY | {"bootstrap": 100, "questions": PAIRS if questions is None else questions}
    spec |= {"runs": planned(dict.fromkeys(name.rpartition("-")[0] for name in names["attacked"]))}
    call(
        "summary",
        folder,
        spec=spec,
        files="files.parquet",
        test_groups="test_groups.parquet",
        **names,
        **outputs,
        log="summary.log",
    )


def page(folder: Path, names: dict[str, list[str]], *, without: Any = (), **changed: Any) -> str:
    """Run stage results; without: names of tables that are not there. Return the page."""
    spec = RESULTS | {"experiment": "by_hand"} | changed
    tables = [
        "summary",
        "comparisons",
        "runs",
        "memorization",
        "test_groups",
        "null_pairs",
        "harmful",
        "robust_effects",
        "proxy_agreement",
    ]
    inputs: dict[str, Any] = {name: f"{name}.parquet" for name in tables if name not in without}
    inputs |= {"flags": "all_flags.parquet", "benchmarks": "benchmarks", "histories": names["histories"]}
    call("results", folder, spec=spec, **inputs, markdown="summary.md", latex="summary.tex", page="results.md")
    return (folder / "results.md").read_text(encoding="utf-8")
