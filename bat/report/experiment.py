"""A finished experiment, read back: its tables, its data set and its scores."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bat.config import OPTIONAL_TABLES, load, tables_of
from bat.data.dataset import DataSet
from bat.data.saved import read_data
from bat.errors import BatError
from bat.io.given import located
from bat.io.tables import by_chosen_score, check_one_data_set, check_one_run, read_table, read_table_with_facts
from bat.io.tensors import read_tensors
from bat.statistics import Floats

_TABLES = {
    "files": "data/files.parquet",
    "memorization": "scores/memorization.parquet",
    "influence": "scores/influence.parquet",
    "train_influence": "scores/train_influence.parquet",
    "test_groups": "scores/test_groups.parquet",
    "validation_groups": "scores/validation_groups.parquet",
    "per_sample": "evaluation/per_sample.parquet",
    "by_seed": "evaluation/by_seed.parquet",
    "summary": "evaluation/summary.parquet",
    "comparisons": "evaluation/comparisons.parquet",
    "runs": "evaluation/runs.parquet",
    "flags": "evaluation/flags.parquet",
}


@dataclass(frozen=True)
class Experiment:
    """What an experiment found. Each table is a DataFrame, with the columns that docs/tables.md describes.

    data: the splits ``train``, ``validation`` and ``test``: ``data.train.images()`` (n, c, h, w) float32 in [0, 1],
    ``data.train.labels``, ``data.train.index`` (n,), the places in the source, and ``data.class_names``.
    scores: memorization, hard or soft as the config chose, by place in the source's training part, (samples of it,)
    float64, NaN for those without one.
    history: of all runs and seeds. Tables that the config did not ask for are None.
    """

    folder: Path
    data: DataSet = field(repr=False)
    scores: Floats = field(repr=False)
    files: pd.DataFrame = field(repr=False)
    memorization: pd.DataFrame = field(repr=False)
    influence: pd.DataFrame = field(repr=False)
    train_influence: pd.DataFrame = field(repr=False)
    test_groups: pd.DataFrame = field(repr=False)
    validation_groups: pd.DataFrame = field(repr=False)
    per_sample: pd.DataFrame = field(repr=False)
    by_seed: pd.DataFrame = field(repr=False)
    summary: pd.DataFrame = field(repr=False)
    comparisons: pd.DataFrame = field(repr=False)
    runs: pd.DataFrame = field(repr=False)
    flags: pd.DataFrame = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    label_errors: pd.DataFrame | None = field(repr=False)
    duplicates: pd.DataFrame | None = field(repr=False)
    null_pairs: pd.DataFrame | None = field(repr=False)
    proxies: pd.DataFrame | None = field(repr=False)
    proxy_agreement: pd.DataFrame | None = field(repr=False)
    harmful: pd.DataFrame | None = field(repr=False)
    robust_memorization: pd.DataFrame | None = field(repr=False)
    robust_influence: pd.DataFrame | None = field(repr=False)
    robust_effects: pd.DataFrame | None = field(repr=False)


def load_experiment(folder: str | Path) -> Experiment:
    """Read a finished experiment, a folder such as ``results/digits``.

    >>> import bat
    >>> experiment = bat.load("results/smoke")
    >>> experiment.summary["method"].unique().tolist()
    ['natural', 'pgd_at', 'bat']
    >>> most = experiment.memorization.nlargest(3, "memorization")["train_index"].to_numpy()
    >>> bool((experiment.scores[most] > 0.5).all())
    True
    >>> tuple(experiment.data.train.images().shape)
    (200, 1, 8, 8)

    Raises:
        BatError: there is no such folder; or the experiment is not finished, or a file is damaged, of another version,
            of other data, or of another run of its stage than those beside it.
    """
    if not isinstance(folder, str | os.PathLike):
        raise BatError(f"{folder!r}: give the folder of an experiment, as in results/digits")
    root = located(folder)
    if not root.is_dir():
        raise BatError(f"{folder}: no such folder: give that of an experiment, as in results/digits")
    data_file = root / "data/data.safetensors"
    places = {name: root / place for name, place in _TABLES.items()}
    missing = next((path for path in (data_file, *places.values()) if not path.exists()), None)
    if missing:
        raise BatError(f"{folder}: not finished: it has no {missing.relative_to(root)}: run snakemake to its end")
    # others may be there from a config before
    config = root / "config.yaml"
    wanted = tables_of(load(str(config))) if config.exists() else OPTIONAL_TABLES
    places |= {name: path for name in wanted if (path := root / f"scores/{name}.parquet").exists()}
    data = read_data(data_file)
    check_one_data_set(*places.values(), data=(data_file, data.digest()))
    check_one_run(*(path for name, path in places.items() if _TABLES.get(name, "").startswith("scores/")))
    check_one_run(*(places[name] for name in ("summary", "by_seed", "comparisons", "runs")))
    scored, facts = read_table_with_facts(places.pop("memorization"), "memorization")
    tables = {"memorization": scored} | {name: read_table(path, name) for name, path in places.items()}
    groups = tables["test_groups"].set_index("test_index")["atypical"]
    if not tables["per_sample"]["atypical"].eq(groups.reindex(tables["per_sample"]["test_index"]).array).all():
        raise BatError(f"{folder}: not finished: evaluation/ is of other scores than scores/: run snakemake to its end")
    models = tables["by_seed"][["method", "seed"]].drop_duplicates()
    ran = {run: models.loc[models["method"] == run, "seed"] for run in tables["runs"]["method"]}
    histories = [root / f"models/{run}/seed-{seed}/history.parquet" for run, seeds in ran.items() for seed in seeds]
    scores = np.full(read_tensors(data_file, "data")[1]["source"]["train"], np.nan)
    scores[scored["train_index"]] = by_chosen_score(scored, facts)["memorization"]
    return Experiment(
        folder=root,
        data=data,
        scores=scores,
        history=pd.concat([read_table(path, "history") for path in histories], ignore_index=True),
        **dict.fromkeys(OPTIONAL_TABLES) | tables,  # type: ignore[arg-type]  # tables by name
    )
