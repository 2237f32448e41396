"""Small stand-ins for stages that are called without a command line: a journal, and tables of any kind."""

import locale
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from bat.data.dataset import DataSet
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table

_EMPTY: dict[Any, Any] = {pa.string(): "x", pa.int64(): 0, pa.float64(): 0.5, pa.bool_(): False, pa.binary(): b""}


@contextmanager
def ascii_by_default() -> Iterator[None]:
    """Let text files be ASCII where no encoding is named, as on machines without UTF-8."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


class Lines:
    """A journal that keeps what it is told: lines and failures, bars, and how often work was counted."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[tuple[int, str]] = []
        self.worked = 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def failure(self, text: str, *, traceback: bool = False) -> None:
        self.lines.append(f"{text}{' with its traceback' * traceback}")

    def bar(self, items: Iterable[Any], total: int, unit: str) -> Iterator[Any]:
        self.bars.append((total, unit))
        return iter(items)

    @contextmanager
    def work(self) -> Iterator[None]:
        self.worked += 1
        yield


def written(path: Path, kind: str, facts: dict[str, Any], **columns: list[Any]) -> Path:
    """Write a table of a kind with the facts of its provenance; columns that are not given hold one value."""
    n = len(next(iter(columns.values())))
    rows = {field.name: [_EMPTY[field.type]] * n for field in SCHEMAS[kind]} | columns
    write_table(path, kind, pd.DataFrame(rows), provenance(kind, **facts))
    return path


def named(path: Path, data: DataSet) -> Path:
    """Write the table of files of a data set: sample 7 of the split train has the file train/7.png."""
    rows = [
        {"split": name, "index": index, "label": label, "file": f"{name}/{index}.png"}
        for name, part in data.parts().items()
        for index, label in zip(part.index.tolist(), part.labels.tolist(), strict=True)
    ]
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    names = [f"class {label}" for label in columns["label"]]
    return written(path, "files", {"data": data.digest()}, class_name=names, **columns)
