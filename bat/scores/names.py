"""What readers know a sample by, beside its index: its class and, where it has one of its own, its file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bat.io.tables import check_one_data_set, read_table


def read_names(files: Path, *, data: tuple[Path, str]) -> pd.DataFrame:
    """Return class_name and file of all samples, by split and index.

    files: of stage data; data: the data set and its digest.

    Raises:
        BatError: as ``read_table``, or the table is of other data.
    """
    check_one_data_set(files, data=data)
    return read_table(files, "files").set_index(["split", "index"])[["class_name", "file"]]


class SourceFiles(NamedTuple):
    """The files of a data set's source.

    place: index of each training and validation sample by its file, -1 for a file of a test sample; others: how many
    files the source has besides.
    """

    place: "pd.Series[Any]"
    others: int


def source_files(names: pd.DataFrame, sizes: Mapping[str, int]) -> SourceFiles:
    """Return the files of a source.

    names: of ``read_names``; sizes: samples of its parts train and test, and own_test, whether test samples are of a
    part of their own and not of train.
    """
    split, index = (names.index.get_level_values(level).to_numpy() for level in ("split", "index"))
    test = split == "test"
    total = sizes["train"] + (sizes["test"] if sizes["own_test"] else 0)
    place = pd.Series(np.where(test, -1, index), index=names["file"].to_numpy())
    return SourceFiles(place[place.index.notna()], max(total - len(names), 0))


def with_names(table: pd.DataFrame, names: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return a table with class_name and file of its samples, of a split, whose index is its first column."""
    found = names.reindex(pd.MultiIndex.from_product([[split], table.iloc[:, 0]]))
    return table.assign(**{str(name): column.to_numpy() for name, column in found.items()})
