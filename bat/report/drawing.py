"""The figures of an experiment, by name: what each is drawn from, and what it says of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bat.data.dataset import DataSet
from bat.data.saved import read_data
from bat.errors import BatError
from bat.io.tables import check_one_data_set, check_one_run, read_table_with_facts
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
        check_one_data_set(*(path for kind in files if kind != "data" for path in self._files[kind]), data=data)
        for together in _OF_ONE_RUN:
            if paths := [path for kind in together for path in self._files.get(kind, [])]:
                check_one_run(*paths)

    def data(self) -> DataSet:
        """Return the data set, its pixels mapped into memory."""
        if self._data is None:
            self._data = read_data(self._paths("data")[0])
        return self._data

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
        # one by one: the data set may be as large as the memory
        lambda row: data.train.images(slice(row, row + 1))[0].numpy(),
        given.table("memorization"),
        given.table("train_influence"),
        class_names=data.class_names,
        models=given.facts("memorization")["models"],
    )


def _curves(given: Given) -> Figure:
    groups, spec = given.table("test_groups"), given.facts("history")["spec"]
    histories = given.table("history")
    return figures.curves(
        histories[histories["method"].isin(given.runs("method")[:_MOST])],
        atypical=int(groups["atypical"].sum()),
        typical=int((~groups["atypical"]).sum()),
        attack=f"PGD-{spec['attack']['steps']}",
        threat=_threat(spec["threat"]),
    )


def _weights(given: Given) -> Figure:
    runs, samples = given.table("runs"), given.table("training_samples")
    weighted = runs.loc[runs["weighted"] & runs["removed"].isna(), "method"][:_MOST]
    return figures.weights(samples[samples["method"].isin(weighted)].reset_index(drop=True))


def _tradeoff(given: Given) -> Figure:
    runs = given.table("runs").set_index("method")["base"]
    bases = {name: runs[name] for name in given.runs("method", "variant", "control")}
    return figures.tradeoff(given.table("summary"), bases, **_said(given))


def _overfitting(given: Given) -> Figure:
    means, said = given.table("summary"), _said(given)
    del said["confidence"]
    return figures.overfitting(means[means["method"].isin(given.runs("method", "variant", "control"))], **said)


def _influence(given: Given) -> Figure:
    samples = given.table("per_sample")
    chosen = (samples["checkpoint"] == "last") & samples["method"].isin(given.runs("method")[:_MOST])
    return figures.influence(
        samples[chosen].reset_index(drop=True),
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
        confidence=given.facts("comparisons")["spec"]["confidence"],
    )


def _harmful(given: Given) -> Figure:
    data = given.data()
    place = {int(index): row for row, index in enumerate(data.train.index)}
    return figures.harmful_gallery(
        lambda index: data.train.images(slice(place[index], place[index] + 1))[0].numpy(),
        given.table("harmful"),
        class_names=data.class_names,
    )


FIGURES: dict[str, Callable[[Given], Figure]] = {
    "memorization": _memorization,
    "gallery": _gallery,
    "curves": _curves,
    "weights": _weights,
    "tradeoff": _tradeoff,
    "overfitting": _overfitting,
    "influence": _influence,
    "finding_a": _finding_a,
    "finding_b": _finding_b,
    "harmful": _harmful,
}
"""All figures; ``bat.config.figures_of`` says which of them an experiment has."""


def _said(given: Given) -> dict[str, Any]:
    """Return what figures of the summary say of it: tier, threat, confidence, and the runs whose training failed."""
    facts = given.facts("summary")
    said = {"tier": facts["tier"], "threat": _threat(facts["evaluation"]["threat"])}
    return said | {"confidence": facts["spec"]["confidence"], "failed": list(facts["failed"])}


def _threat(threat: dict[str, Any]) -> str:
    return f"{ {'linf': 'L-inf', 'l2': 'L2'}[threat['norm']] } {threat['eps']:g}"
