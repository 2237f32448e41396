"""The shards of subset models, read a few samples at a time: all of them can be larger than memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.io.tables import table_facts, table_rows, unpack
from bat.statistics import Counts

_ROWS = 8
"""Models that are read at once."""


def said_columns(
    split: str, correct: Tensor, probability: Tensor, predicted: Tensor, classes: int, *, under_attack: bool = False
) -> dict[str, Tensor]:
    """Return what a model says of the samples of a split, each (n,), as the columns of a shard have it.

    A probability has 16 bits, a class the least that is enough; a predicted class of -1, no class, is ``classes``.
    """
    kind, prefix = ("robust", "robust_") if under_attack else ("correct", "")
    places = torch.where(predicted < 0, classes, predicted)
    return {
        f"{kind}_{split}": correct.cpu(),
        f"{prefix}p_{split}": probability.half().cpu(),
        f"{prefix}class_{split}": places.to(torch.uint8 if classes < 2**8 else torch.uint16).cpu(),
    }


@dataclass(frozen=True)
class Shards:
    """What subset models say of the samples of a data set.

    paths: of the shards; models: K of all; facts: their common provenance, flat; sizes: samples of each split;
    classes: of the data set.
    """

    paths: tuple[Path, ...]
    models: int
    facts: dict[str, Any]
    sizes: dict[str, int]
    classes: int

    def read(self, wanted: Mapping[str, Counts]) -> dict[str, NDArray[Any]]:
        """Return columns for some samples, each (models, samples) with the models in order.

        wanted: by name of a column, as in ``answers``, or in_subset, the places of samples in its split. Bits come as
        bool, probabilities as float16, classes as unsigned integers.

        Raises:
            BatError: a row does not hold the samples of the data set, or a column is missing; names the file.
        """
        found: dict[str, NDArray[Any]] = {}
        for path in self.paths:
            for rows in table_rows(path, ["model", *wanted], _ROWS):
                models = np.array(rows["model"])
                for name, places in wanted.items():
                    values = self._unpacked(path, name, rows[name])[:, places]
                    if name not in found:
                        found[name] = np.empty((self.models, len(places)), dtype=values.dtype)
                    found[name][models] = values
        return found

    def check_scores(self, memorization: Path, facts: Mapping[str, Any]) -> None:
        """Check that a table of memorization, of these facts, was estimated from these models.

        Raises:
            BatError: it was not; names it.
        """
        if facts["spec"].get("shards") != self.facts or facts["models"] != self.models:
            raise BatError(f"{memorization}: of other subset models than {self.paths[0]}: run stage scores again")

    def _unpacked(self, path: Path, name: str, rows: Sequence[bytes | None]) -> NDArray[Any]:
        if None in rows:
            raise BatError(f"{path}: models trained on clean images: give the shards trained adversarially")
        what, _, split = name.rpartition("_")
        kinds = {"p": np.dtype("<f2"), "class": np.dtype("u1" if self.classes < 2**8 else "<u2")}
        samples = self.sizes["train" if name == "in_subset" else split]
        return unpack(pd.Series(rows, name=name), samples, path, kinds.get(what.removeprefix("robust_")))


def open_shards(paths: Sequence[Path], data: Path, samples: DataSet, digest: str) -> Shards:
    """Check the shards of subset models of a data set and return them.

    data, digest: the file and the digest of ``samples``.

    Raises:
        BatError: a shard is missing or damaged, two shards were made by different specs (says which differ in what),
        a model is there twice or not at all, or the models were trained on other data.
    """
    common, numbers = dict[str, Any](), list[int]()
    for path in paths:
        facts = shard_facts(path)
        if common and facts != common:
            raise BatError(
                f"{paths[0]} and {path} were made by different specs ({differing(common, facts)}): "
                "remove the one that is out of date and run stage subsets again"
            )
        common = facts
        numbers += [model for rows in table_rows(path, ["model"], 10_000) for model in rows["model"]]
    if sorted(numbers) != list(range(len(numbers))):
        raise BatError(
            f"{paths[0]} ... {paths[-1]}: {len(numbers)} rows are not the models 0 to {len(numbers) - 1} once each: "
            "give each shard once"
        )
    if common["data"] != digest:
        raise BatError(f"{paths[0]}: trained on other data than {data}: remove the shards and run stage subsets again")
    sizes = {name: len(part) for name, part in samples.parts().items()}
    return Shards(tuple(paths), len(numbers), common, sizes, samples.classes)


def shard_facts(path: Path) -> dict[str, Any]:
    """Check a shard and return the spec of its models and the digest of their data, flat: ``spec.seed``, ``data``."""
    facts = table_facts(path, "subsets")
    return flat_facts(facts["spec"], facts["data"])


def flat_facts(spec: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """Return what all shards of an experiment share, of the spec of one of them and the digest of the data."""
    return _flat({"spec": {key: spec[key] for key in spec if key not in ("first_model", "models")}, "data": digest})


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the keys in which two of ``shard_facts`` differ, with both values, as text."""
    return "; ".join(
        f"{key} {json.dumps(one.get(key))} and {json.dumps(other.get(key))}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    )


@dataclass(frozen=True)
class OneClass:
    """What subset models say of the samples of one class.

    index: by split, (n,) of its samples; columns: by name, as of ``Shards.read``.
    """

    label: int
    index: dict[str, Counts]
    columns: dict[str, NDArray[Any]]


def class_by_class(
    shards: Shards, samples: DataSet, kinds: Sequence[str], *, most: int = 512_000_000
) -> Iterator[OneClass]:
    """Yield what subset models say, class by class: pairs of samples are of one class, so that no more is needed.

    kinds: of columns, such as correct or p, for which correct_train, ... are read; most: bytes of the samples of one
    reading, in which there are as many classes as fit, and one at least.
    """
    labels = {name: part.labels.numpy() for name, part in samples.parts().items()}
    index = {name: part.index.numpy() for name, part in samples.parts().items()}
    every = np.concatenate(list(labels.values()))
    # a mask or a bit is a bool, a probability has two bytes, a class two at most
    for group in _groups(every, most // (shards.models * (1 + 2 * len(kinds)))):
        places = {name: np.flatnonzero(np.isin(labels[name], group)) for name in labels}
        wanted = {f"{kind}_{name}": places[name] for kind in kinds for name in labels}
        found = shards.read({"in_subset": places["train"]} | wanted)
        for label in group.tolist():
            mine = {name: labels[name][places[name]] == label for name in labels}
            split = {column: "train" if column == "in_subset" else column.rpartition("_")[2] for column in found}
            yield OneClass(
                label,
                {name: index[name][places[name]][mine[name]] for name in labels},
                {column: values[:, mine[split[column]]] for column, values in found.items()},
            )


def in_order(rows: list[pd.DataFrame], part: Part) -> pd.DataFrame:
    """Join tables of classes to one in the order of the samples of a split, by their column index."""
    return pd.concat(rows).set_index("index").loc[part.index.numpy()].reset_index()


def _groups(labels: Counts, most: int) -> Iterator[Counts]:
    """Yield the classes of ``labels`` in groups of at most ``most`` samples, or of one class."""
    group, size = list[int](), 0
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if group and size + count > most:
            yield np.array(group)
            group, size = [], 0
        group.append(int(label))
        size += int(count)
    yield np.array(group)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Flatten nested mappings: {"spec": {"seed": 0}} becomes {"spec.seed": 0}."""
    if not isinstance(value, dict):
        return {place: value}
    items: dict[str, Any] = {}
    for key, inner in value.items():
        items |= _flat(inner, f"{place}.{key}" if place else key)
    return items
