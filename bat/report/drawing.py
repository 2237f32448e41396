"""The figures of an experiment, by name: what each is drawn from, and what it says of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bat.data.dataset import DataSet, Part
from bat.data.saved import read_data
from bat.errors import BatError
from bat.io.tables import check_one_data_set, check_one_run, read_table_with_facts
from bat.io.tensors import read_tensors
from bat.report import figures

_MOST = 8
"""Methods that are drawn over one another."""

_OF_ONE_RUN = (("memorization", "train_influence", "test_groups"), ("summary", "comparisons", "runs"))
"""Kinds of tables that one stage writes in one run."""


class Given:
    """The files that figures are drawn from, by the kind of table. Each is read when a figure first needs it."""

    def __init__(self, files: Mapping[str, Path | Sequence[Path]]) -> None:
        self._files = {kind: [found] if isinstance(found, Path) else list(found) for kind, found in files.items()}
        self._tables: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {}
        self._data: DataSet | None = None
        data = (self._files["data"][0], self.data().digest()) if "data" in files else None
        tables = [kind for kind in files if kind not in ("data", "images")]
        check_one_data_set(*(path for kind in tables for path in self._files[kind]), data=data)
        for together in _OF_ONE_RUN:
            if paths := [path for kind in together for path in self._files.get(kind, [])]:
                check_one_run(*paths)

    def data(self) -> DataSet:
        """Return the data set, its pixels mapped into memory."""
        if self._data is None:
            self._data = read_data(self._paths("data")[0])
        return self._data

    def images(self) -> dict[str, tuple[int, NDArray[np.float32]]]:
        """Return, by method, the seed and the strongest adversarial images of the last epoch, (n, c, h, w)."""
        found = {}
        for path in self._paths("images"):
            tensors, facts = read_tensors(path, "images")
            if facts["data"] != self.data().digest():
                raise BatError(f"{path}: of other data than {self._paths('data')[0]}: run its stage again")
            found[str(facts["training"]["method"]["name"])] = int(facts["training"]["seed"]), tensors["last"].numpy()
        return found

    def table(self, kind: str) -> pd.DataFrame:
        """Return the rows of all files of a kind."""
        return self._read(kind)[0]

    def facts(self, kind: str) -> dict[str, Any]:
        """Return the facts of the first file of a kind."""
        return self._read(kind)[1]

    def get(self, kind: str) -> pd.DataFrame | None:
        """Return the rows of all files of a kind, None where there is none."""
        return self.table(kind) if kind in self._files else None

    def runs(self, *roles: str) -> list[str]:
        """Return the names of the runs of some roles, in the order of the config."""
        table = self.table("runs")
        return list(table.loc[table["role"].isin(roles), "method"])

    def _read(self, kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        if kind not in self._tables:
            read = [read_table_with_facts(path, kind) for path in self._paths(kind)]
            self._tables[kind] = pd.concat([table for table, _ in read], ignore_index=True), read[0][1]
        return self._tables[kind]

    def _paths(self, kind: str) -> list[Path]:
        if kind not in self._files:
            flag = {"history": "histories", "training_samples": "samples"}.get(kind, kind).replace("_", "-")
            raise BatError(f"--{flag} is needed to draw this: give it too, or leave this figure out of --out")
        return self._files[kind]


def _memorization(given: Given) -> Figure:
    facts = given.facts("memorization")
    threshold = facts["spec"]["threshold"]
    return figures.memorization(given.table("memorization"), threshold=threshold, models=facts["models"])


def _gallery(given: Given) -> Figure:
    data = given.data()
    return figures.gallery(
        _image(data.train),
        given.table("memorization"),
        given.table("train_influence"),
        nearest=lambda row, most: nearest(data.train, row, most),
        class_names=data.class_names,
        models=given.facts("memorization")["models"],
    )


def _curves(given: Given) -> Figure:
    groups, spec = given.table("test_groups"), given.facts("history")["spec"]
    histories = given.table("history")
    return figures.curves(
        histories[histories["method"].isin(given.runs("method")[:_MOST])],
        given.table("runs"),
        atypical=int(groups["atypical"].sum()),
        typical=int((~groups["atypical"]).sum()),
        attack=f"PGD-{spec['attack']['steps']}",
        threat=_threat(spec["threat"]),
    )


def _weights(given: Given) -> Figure:
    runs, samples = given.table("runs"), given.table("training_samples")
    weighted = runs.loc[runs["weighted"] & runs["removed"].isna(), "method"][:_MOST]
    return figures.weights(samples[samples["method"].isin(weighted)].reset_index(drop=True), runs)


def _tradeoff(given: Given) -> Figure:
    return figures.tradeoff(given.table("summary"), given.table("runs"), **_said(given))


def _typical_atypical(given: Given) -> Figure:
    return figures.typical_atypical(given.table("summary"), given.table("runs"), **_said(given))


def _overfitting(given: Given) -> Figure:
    return figures.overfitting(given.table("summary"), given.table("runs"), **_said(given))


def _differences(given: Given) -> Figure:
    return figures.differences(given.table("comparisons"), given.table("runs"), **_compared(given))


def _controls(given: Given) -> Figure:
    return figures.controls(given.table("comparisons"), given.table("runs"), **_compared(given))


def _influence(given: Given) -> Figure:
    samples = given.table("per_sample")
    chosen = (samples["checkpoint"] == "last") & samples["method"].isin(given.runs("method")[:_MOST])
    return figures.influence(
        samples[chosen].reset_index(drop=True),
        given.table("runs"),
        tier=samples["tier"].iloc[0],
        threat=_threat(given.facts("per_sample")["spec"]["threat"]),
    )


def _finding_a(given: Given) -> Figure:
    return figures.finding_a(given.table("summary"), given.table("history"), given.table("runs"), **_said(given))


def _finding_b(given: Given) -> Figure:
    return figures.finding_b(
        given.table("comparisons"),
        given.table("runs"),
        given.get("robust_effects"),
        given.table("harmful"),
        **_compared(given),
    )


def _harmful(given: Given) -> Figure:
    data = given.data()
    return figures.harmful_gallery(
        _image(data.train, by_index=True), given.table("harmful"), class_names=data.class_names
    )


def _adversarial(given: Given) -> Figure:
    data, samples, images = given.data(), given.table("per_sample"), given.images()
    seed = next(iter(images.values()))[0]
    place = {int(index): row for row, index in enumerate(data.test.index)}
    last = samples[(samples["checkpoint"] == "last") & (samples["seed"] == seed) & samples["method"].isin(images)]
    return figures.adversarial(
        _image(data.test, by_index=True),
        {name: partial(lambda found, index: found[place[index]], found) for name, (_, found) in images.items()},
        last,
        class_names=data.class_names,
        threat=_threat(given.facts("per_sample")["spec"]["threat"]),
        seed=seed,
    )


def _image(part: Part, *, by_index: bool = False) -> Callable[[int], NDArray[np.float32]]:
    """Return what gives the image of a row, or of an index: one by one, the data set may be as large as the memory."""
    place = {int(index): row for row, index in enumerate(part.index)} if by_index else None

    def image(number: int) -> NDArray[np.float32]:
        row = number if place is None else place[number]
        found: NDArray[np.float32] = part.images(slice(row, row + 1))[0].numpy()
        return found

    return image


def nearest(part: Part, row: int, most: int) -> list[int]:
    """Return the rows of the other samples of a row's class that are nearest to it by pixels, nearest first."""
    others = [int(other) for other in (part.labels == part.labels[row]).nonzero().flatten() if other != row]
    image = part.images(slice(row, row + 1))[0]
    # one by one: a class may be as large as the memory
    distances = [float((part.images(slice(other, other + 1))[0] - image).square().sum()) for other in others]
    return [others[place] for place in np.argsort(distances, kind="stable")[:most]]


FIGURES: dict[str, Callable[[Given], Figure]] = {
    "differences": _differences,
    "tradeoff": _tradeoff,
    "typical_atypical": _typical_atypical,
    "memorization": _memorization,
    "gallery": _gallery,
    "influence": _influence,
    "curves": _curves,
    "overfitting": _overfitting,
    "weights": _weights,
    "controls": _controls,
    "finding_a": _finding_a,
    "finding_b": _finding_b,
    "harmful": _harmful,
    "adversarial": _adversarial,
}
"""All figures; ``bat.config.figures_of`` says which of them an experiment has."""


def _said(given: Given) -> dict[str, Any]:
    """Return what figures of the summary say of it: tier, threat, confidence, and the runs whose training failed."""
    facts = given.facts("summary")
    said = {"tier": facts["tier"], "threat": _threat(facts["evaluation"]["threat"])}
    return said | {"confidence": facts["spec"]["confidence"], "failed": list(facts["failed"])}


def _compared(given: Given) -> dict[str, Any]:
    """Return what figures of the comparisons say of them: threat and confidence."""
    facts = given.facts("comparisons")
    return {"threat": _threat(facts["evaluation"]["threat"]), "confidence": facts["spec"]["confidence"]}


def _threat(threat: dict[str, Any]) -> str:
    return f"{ {'linf': 'L-inf', 'l2': 'L2'}[threat['norm']] } {threat['eps']:g}"
