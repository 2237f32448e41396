"""Shards of subset models from several machines, as one experiment's own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bat.config import load
from bat.config.specs import SubsetsSpec, as_json
from bat.data.saved import load_data
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.tables import rows_with, table_facts, table_rows, write_table
from bat.scores.shards import differing, flat_facts, shard_facts


def merge(
    journal: Journal,
    *,
    shards: list[Path],
    base: str = "config/config.yaml",
    configfile: list[str] | None = None,
    config: list[str] | None = None,
) -> None:
    """Join shards of subset models from several machines to those of an experiment, which then trains only the others.

    shards: files, or folders of shard-NNN.parquet, with any number of models in a file
    base: a complete configuration
    configfile: files that change it, as for snakemake
    config: further changes, KEY=VALUE, as for snakemake

    Example:
        bat merge --configfile config/smoke.yaml --shards machine_1/subsets machine_2/subsets
    """
    experiment, files = load(base, *(configfile or ()), settings=config or ()), _files(shards)
    plan, results = experiment.memorization, Path(f"results/{experiment.experiment}")
    size, robust = plan.models_per_shard, table_facts(files[0], "subsets")["spec"].get("adversary") is not None
    folder = results / ("robust_subsets" if robust else "subsets")
    _, digest = load_data(results / "data/data.safetensors", "cpu")

    def spec(first: int) -> dict[str, Any]:
        of_shard: dict[str, Any] = json.loads(as_json(SubsetsSpec.of(experiment, first_model=first, robust=robust)))
        return of_shard

    expected, models, present = flat_facts(spec(0), digest), dict[int, list[Path]](), set[Path]()
    own = sorted(folder.glob("shard-*.parquet"))
    for path in {each.resolve(): each for each in [*files, *own]}.values():
        if (found := shard_facts(path)) != expected:
            raise BatError(
                f"{path} is not of the configuration and data of experiment {experiment.experiment} "
                f"({differing(expected, found)}): leave it out, or move it out of {folder}"
            )
        numbers = [model for rows in table_rows(path, ["model"], 10_000) for model in rows["model"]]
        for model in numbers:
            models.setdefault(model, []).append(path)
        if path.parent.resolve() == folder.resolve():
            place = _place(folder, numbers[0], size)
            if place.name != path.name or numbers != [*range(numbers[0], numbers[0] + size)]:
                raise BatError(
                    f"{path} has {len(numbers)} models from {numbers[0]} on, and memorization.models_per_shard is "
                    f"{size}: move it out of {folder} and name it in --shards"
                )
            present.add(place)
    whole = [first for first in range(0, max(models) + 1, size) if all(first + row in models for row in range(size))]
    with journal.work():
        for first in journal.bar(whole, len(whole), "shards"):
            rows, path = _rows(range(first, first + size), models), _place(folder, first, size)
            if path not in present:
                write_table(path, "subsets", rows, provenance("subsets", spec=spec(first), data=digest))
    joined, wanted = len(whole) * size, (plan.robust if robust else plan).subset_models
    journal.line(f"{folder}: {joined} models in {len(whole)} shards; the experiment has {wanted}")
    if len(models) > joined:
        journal.line(f"models left out: {len(models) - joined}, since no shard of {size} has all of its models")


def _files(shards: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and those of the folders.

    Raises:
        BatError: a folder has no shard.
    """
    found: list[Path] = []
    for path in shards:
        files = sorted(path.glob("shard-*.parquet")) if path.is_dir() else [path]
        if not files:
            raise BatError(f"--shards {path}: a folder without any shard-NNN.parquet: give another")
        found += files
    return found


def _place(folder: Path, first: int, size: int) -> Path:
    """Return where the workflow has the shard that begins with a model."""
    return folder / f"shard-{first // size:03d}.parquet"


def _rows(numbers: Sequence[int], models: dict[int, list[Path]]) -> pd.DataFrame:
    """Return the rows of some models, in order. models: by number, the files that have it.

    Raises:
        BatError: two files say different things of a model.
    """
    paths = dict.fromkeys(path for number in numbers for path in models[number])
    # not whole files: one with the models of many shards is read for each of them
    rows = pd.concat([rows_with(path, "model", numbers) for path in paths])
    rows = rows.drop_duplicates().sort_values("model")
    for number in rows.loc[rows["model"].duplicated(), "model"]:
        one, other = (row for _, row in rows[rows["model"] == number].head(2).iterrows())
        (column, *_) = [name for name in rows if one[name] != other[name]]
        raise BatError(
            f"{' and '.join(map(str, models[number]))} have model {number} with another {column} each, as types of CPU "
            "can: give one of them"
        )
    return rows
