"""What readers know a sample by, beside its index: its class and, where it has one of its own, its file."""

from pathlib import Path

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


def with_names(table: pd.DataFrame, names: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return a table with class_name and file of its samples, of a split, whose index is its first column."""
    found = names.reindex(pd.MultiIndex.from_product([[split], table.iloc[:, 0]]))
    return table.assign(**{str(name): column.to_numpy() for name, column in found.items()})
