"""What figures are drawn from: the files of an experiment, and what is said of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bat.data.dataset import DataSet, Part
from bat.data.saved import read_data
from bat.errors import BatError
from bat.io.tables import check_one_data_set, check_one_run, read_scores, read_table_with_facts
from bat.io.tensors import read_tensors

MOST = 8
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

    def about_summary(self) -> dict[str, Any]:
        """Return what figures of the summary say: tier, threat, confidence, and the runs whose training failed."""
        facts = self.facts("summary")
        said = {"tier": facts["tier"], "threat": threat_text(facts["evaluation"]["threat"])}
        return said | {"confidence": facts["spec"]["confidence"], "failed": list(facts["failed"])}

    def about_comparisons(self) -> dict[str, Any]:
        """Return what figures of the comparisons say: threat and confidence."""
        facts = self.facts("comparisons")
        return {"threat": threat_text(facts["evaluation"]["threat"]), "confidence": facts["spec"]["confidence"]}

    def _read(self, kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        if kind not in self._tables:
            reading = read_scores if kind == "memorization" else read_table_with_facts
            read = [reading(path, kind) for path in self._paths(kind)]
            self._tables[kind] = pd.concat([table for table, _ in read], ignore_index=True), read[0][1]
        return self._tables[kind]

    def _paths(self, kind: str) -> list[Path]:
        if kind not in self._files:
            flag = {"history": "histories", "training_samples": "samples"}.get(kind, kind).replace("_", "-")
            raise BatError(f"--{flag} is needed to draw this: give it too, or leave this figure out of --out")
        return self._files[kind]


def image_of(part: Part, *, by_index: bool = False) -> Callable[[int], NDArray[np.float32]]:
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


def threat_text(threat: dict[str, Any]) -> str:
    """Return a threat as pages and figures name it: L-inf 0.1, or L-inf 8/255 where no short number is as exact."""
    eps, levels = threat["eps"], round(255 * threat["eps"])
    short, exact = f"{eps:g}", math.isclose(eps, levels / 255, rel_tol=1e-9)
    size = f"{levels}/255" if exact and float(short) != eps else short
    return f"{ {'linf': 'L-inf', 'l2': 'L2'}[threat['norm']] } {size}"
