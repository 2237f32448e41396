"""Scores that others have released, and a user's own: what the files hold, and this project's tables from it.

Nothing is ever unpickled. Entry i of an array is the sample that has index i in its data set: a release keeps the order
of the training file, and of the test file.
"""

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.io.given import check_memory, located, open_file, reason
from bat.io.npz import Arrays, open_npz, read_array
from bat.io.schemas import SCHEMAS
from bat.scores.names import SourceFiles
from bat.statistics import Counts, Floats

_COLUMNS = ("train_index", "file", "memorization", "label")
_NEEDED = {"train_index": {"train_index", "file"}, "memorization": {"memorization"}}
"""Columns that a table needs, and which may stand for each."""

_WHOLE = ("train_index", "label")
_HEADER = 1 << 16  # bytes, of which the first line of a CSV is one part
_ROUNDING = 1e-6  # by which float32 may leave a range

_Table = dict[str, pa.ChunkedArray]


@dataclass(frozen=True)
class Influence:
    """Influence of training samples (n,) on test samples (t,): values (n, t), NaN where there is none."""

    train_index: Counts
    test_index: Counts
    values: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Released:
    """What a file holds. index: (n,) rising, of training samples; memorization, labels: (n,); test_labels: (t,).

    whole: the file holds all samples of its data set, so that n and t are those of the source.
    """

    index: Counts
    memorization: Floats
    labels: Counts | None
    test_labels: Counts | None
    influence: tuple[Influence, ...]
    whole: bool = True


def read_released(path: str, layout: str, files: SourceFiles | None = None) -> Released:
    """Read a file of scores. layout: as ``scores.format`` of the configuration; files: of the data set, where known.

    - ``feldman_zhang`` (Feldman and Zhang 2020, cifar100_infl_matrix.npz): ``tr_mem``, ``tr_labels``, ``tt_labels``,
      and for each class c ``infl_matrix_class<c>`` (training x test samples of the class) and ``tr_classidx_<c>``, the
      index of its rows; that of its columns is ``tt_classidx_<c>``, or without that the order of the test file.
    - ``cscores`` (Jiang et al. 2021): ``labels``, ``scores``; 1 - score stands for memorization.
    - ``npz``: ``memorization`` (n,); where there are any, ``influence`` (test x training samples), ``labels``,
      ``test_labels``.
    - ``table``: Parquet or CSV (commas, semicolons, tabs or bars; decimal points) with columns ``train_index``,
      ``memorization`` and, where there is one, ``label``; ``train_index`` may be the index of a pandas table, and
      ``file``, as in data/files.parquet, may stand for it or beside it.

    Raises:
        BatError: the file is missing, damaged, of another layout, would have to be unpickled, or contradicts itself.
    """
    arrays = {"feldman_zhang": _feldman_zhang, "cscores": _cscores, "npz": _npz}
    released = _table(path, files) if layout == "table" else arrays[layout](path)
    _check_range(path, "memorization", released.memorization, -1)
    for block in released.influence:
        _check_range(path, "influence", block.values, -1)
    for name, blocks in (
        ("a score", [released.memorization]),
        ("an influence", [each.values for each in released.influence]),
    ):
        if blocks and not any(_holds_numbers(values) for values in blocks):
            raise BatError(f"{path}: {len(released.memorization)} samples, and none has {name}: give another file")
    return released


def _feldman_zhang(path: str) -> Released:
    with open_npz(path) as file:
        labels, test_labels = (_array(file, name, "iu", 1) for name in ("tr_labels", "tt_labels"))
        memorization = _array(file, "tr_mem", "f", 1)
        _check_shape(path, "tr_mem", memorization, (len(labels),))
        blocks = []
        for label in np.unique(labels):
            rows = _members(file, f"tr_classidx_{label}", labels, label)
            named = f"tt_classidx_{label}" in file
            columns = (
                _members(file, f"tt_classidx_{label}", test_labels, label)
                if named
                else np.flatnonzero(test_labels == label)
            )
            values = _array(file, f"infl_matrix_class{label}", "f", 2)
            _check_shape(path, f"infl_matrix_class{label}", values, (len(rows), len(columns)))
            blocks.append(Influence(rows, columns, values))
    return Released(np.arange(len(labels)), memorization.astype(np.float64), labels, test_labels, tuple(blocks))


def _cscores(path: str) -> Released:
    with open_npz(path) as file:
        labels, scores = _array(file, "labels", "iu", 1), _array(file, "scores", "f", 1)
    _check_shape(path, "scores", scores, (len(labels),))
    _check_range(path, "scores", scores, 0)
    return Released(np.arange(len(labels)), 1 - scores.astype(np.float64), labels, None, ())


def _npz(path: str) -> Released:
    with open_npz(path) as file:
        memorization = _array(file, "memorization", "f", 1)
        labels, test_labels = (
            _array(file, name, "iu", 1) if name in file else None for name in ("labels", "test_labels")
        )
        values = _array(file, "influence", "f", 2) if "influence" in file else None
    n = len(memorization)
    if labels is not None:
        _check_shape(path, "labels", labels, (n,))
    blocks: tuple[Influence, ...] = ()
    if values is not None:
        tests = len(values) if test_labels is None else len(test_labels)
        _check_shape(path, "influence", values, (tests, n))
        blocks = (Influence(np.arange(n), np.arange(tests), values.T),)
    return Released(np.arange(n), memorization.astype(np.float64), labels, test_labels, blocks)


def _table(path: str, files: SourceFiles | None) -> Released:
    read = {".parquet": _parquet, ".csv": _csv}.get(Path(path).suffix.lower())
    if read is None:
        raise BatError(f"{path}: neither .parquet nor .csv: give a table, or another scores.format")
    try:
        with open_file(located(path)) as file:
            table = read(path, file)
        memorization = _column(path, table, "memorization")
        given, labels = (_column(path, table, name) if name in table else None for name in ("train_index", "label"))
        names = _file_names(path, table)
    except (OSError, ValueError, MemoryError, OverflowError, csv.Error, pa.ArrowException) as error:
        raise BatError(
            f"{path}: cannot be read as a table ({reason(error)}): give Parquet, or CSV as UTF-8 with decimal points"
        ) from error
    rows = np.arange(len(memorization))
    if names is not None and files is not None and len(files.place):
        index = _places_of(path, names, files, given)
        rows = np.flatnonzero(index >= 0)
    elif given is not None:
        index = given
    else:
        raise BatError(f"{path}: has no column train_index, and the samples of the data set have no files: add it")
    order = rows[np.argsort(index[rows])]
    index = index[order]
    if len(index) and index[0] < 0:
        raise BatError(f"{path}: train_index {index[0]} is negative: give each sample's place in its source, from 0")
    twice = np.flatnonzero(np.diff(index) == 0)
    if len(twice):
        raise BatError(f"{path}: train_index {index[twice[0]]} is there twice: give each sample one row")
    return Released(index, memorization[order], None if labels is None else labels[order], None, (), whole=False)


def _file_names(path: str, table: _Table) -> "pd.Series[str] | None":
    """Return the names of files, None where there are none."""
    if "file" not in table:
        return None
    column = table["file"]
    if column.null_count == len(column) and "train_index" in table:
        return None
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        gaps = f", {column.null_count} of them missing" if column.null_count else ""
        raise BatError(f"{path}: column file holds {column.type}{gaps}: need names of files, none missing")
    return pd.Series(column.to_pylist())


def _places_of(path: str, names: "pd.Series[str]", files: SourceFiles, given: Counts | None) -> Counts:
    """Return the index of the sample that each file holds, -1 where it is no training or validation sample.

    given: what the column train_index says, where it is there too.
    """
    twice = names[names.duplicated()]
    if len(twice):
        raise BatError(f"{path}: file {twice.iloc[0]} is there twice: give each sample one row")
    index = files.place.reindex(names, fill_value=-1).to_numpy(np.int64)
    unknown = names[~names.isin(files.place.index)]
    if len(unknown) > files.others:
        raise BatError(
            f"{path}: file {unknown.iloc[0]} is not of the data set ({len(unknown)} of {len(names)} are not): "
            "write names as data/files.parquet has them"
        )
    if given is not None:
        differs = np.flatnonzero((index >= 0) & (index != given))
        if len(differs):
            row = differs[0]
            raise BatError(
                f"{path}: file {names.iloc[row]} has train_index {given[row]}, but {index[row]} in the data "
                f"set; {len(differs)} of {len(names)} differ: leave out the column that is wrong"
            )
    return index


def _parquet(path: str, file: BufferedReader) -> _Table:
    opened = pq.ParquetFile(file, page_checksum_verification=True)
    schema, rows = opened.schema_arrow, opened.metadata.num_rows
    check_memory(16 * rows * len(_COLUMNS), f"{path}: a table of {rows} rows", "give the rows of this data set alone")
    index = _stored_index(schema, rows)
    table: _Table = {} if index is None else {"train_index": pa.chunked_array([index])}
    for name, place in _places(path, schema.names, known=table).items():
        kind = schema.field(place).type
        if pa.types.is_nested(kind):
            raise BatError(f"{path}: column {name} holds {kind}: need {'text' if name == 'file' else 'numbers'}")
        table[name] = opened.read(columns=[schema.names[place]], use_threads=False).column(schema.names[place])
        if len(table[name]) != rows:
            raise ValueError(f"{len(table[name])} rows of {name}, but {rows} in all")
    return table


def _stored_index(schema: pa.Schema, rows: int) -> Counts | None:
    """Return an index train_index that pandas has kept as a range, in the metadata alone."""
    about: Any = schema.pandas_metadata
    entries: Any = about.get("index_columns") if isinstance(about, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("kind") == "range" and entry.get("name") == "train_index":
            bounds: list[Any] = [entry.get(end) for end in ("start", "stop", "step")]
            if all(type(bound) is int for bound in bounds) and len(range(*bounds)) == rows:
                return np.arange(*bounds)
    return None


def _csv(path: str, file: BufferedReader) -> _Table:
    """Read a CSV; its separator is the one that gives the first line a column train_index or file."""
    check_memory(file.seek(0, os.SEEK_END), path, "give the rows of this data set alone")
    file.seek(0)
    start = file.read(_HEADER)
    header = re.split(rb"[\r\n]", start)[0].decode("utf-8-sig")
    rows = {separator: next(csv.reader([header], delimiter=separator)) for separator in ",;\t|"}
    separator = next((mark for mark, names in rows.items() if _NEEDED["train_index"] & set(map(str.strip, names))), ",")
    places = _places(path, rows[separator])
    # names of this reader's own: those of the file may be empty or there twice
    names = [str(place) for place in range(len(rows[separator]))]
    kinds = {"file": pa.string()} | dict.fromkeys(_WHOLE, pa.int64())
    types = {str(place): kinds.get(name, pa.float64()) for name, place in places.items()}
    file.seek(0)
    try:
        read = pacsv.read_csv(
            file,
            read_options=pacsv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            parse_options=pacsv.ParseOptions(delimiter=separator),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:
        odd = re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?.* invalid value '(.*)'", str(error), re.DOTALL)
        name = next((name for name, place in places.items() if odd and place == int(odd[1])), None)
        if odd is None or name is None:
            raise
        need = "integers" if name in _WHOLE else "numbers with decimal points"
        raise BatError(f"{path}: column {name} holds {odd[3][:40]!r} in row {odd[2]}: need {need}") from error
    return {name: read.column(str(place)) for name, place in places.items()}


def _places(path: str, names: Sequence[str], known: Iterable[str] = ()) -> dict[str, int]:
    """Return where the columns are that count; those that are needed must be there or ``known``."""
    stripped = [name.strip() for name in names]
    twice = next((name for name in _COLUMNS if stripped.count(name) > 1), None)
    if twice is not None:
        raise BatError(f"{path}: has {stripped.count(twice)} columns {twice}: leave one")
    there = {*stripped, *known}
    missing = next((name for name, either in _NEEDED.items() if not there & either), None)
    if missing is not None:
        has = ", ".join(name[:40] for name in names[:8])
        raise BatError(f"{path}: has no column {missing} (it has {has or 'none'}): add it")
    return {name: stripped.index(name) for name in _COLUMNS if name in stripped}


def _column(path: str, table: _Table, name: str) -> NDArray[Any]:
    """Return a column as int64, or as float64 with NaN for what is missing."""
    column, whole = table[name], name in _WHOLE
    right = pa.types.is_integer(column.type) or (pa.types.is_floating(column.type) and not whole)
    if not right or (whole and column.null_count):
        gaps = f", {column.null_count} of them missing" if column.null_count else ""
        raise BatError(
            f"{path}: column {name} holds {column.type}{gaps}: need {'integers, none missing' if whole else 'numbers'}"
        )
    array: NDArray[Any] = column.cast(pa.int64() if whole else pa.float64()).to_numpy()
    return array


def _array(arrays: Arrays, name: str, kinds: str, dimensions: int) -> NDArray[Any]:
    """Return an array of integers ("iu", as int64) or of floating numbers ("f")."""
    if name not in arrays:
        raise BatError(
            f"{arrays.path}: has no array {name} (it has {arrays.listed() or 'none'}): correct scores.format"
        )
    array = read_array(arrays, name)
    if array.ndim != dimensions or array.dtype.kind not in kinds:
        need = f"{'integers' if kinds == 'iu' else 'floating numbers'} along {dimensions} axes"
        raise BatError(f"{arrays.path}: array {name} has shape {array.shape} of {array.dtype}: need {need}")
    if kinds != "iu":
        return array
    if int(array.max(initial=0)) > np.iinfo(np.int64).max:
        raise BatError(f"{arrays.path}: array {name} goes up to {array.max()}: need labels or indices")
    return array.astype(np.int64)


def _members(file: Arrays, name: str, labels: Counts, label: int) -> Counts:
    """Return the samples of a class that ``file`` lists as ``name``."""
    index = _array(file, name, "iu", 1)
    if not np.array_equal(np.sort(index), np.flatnonzero(labels == label)):
        raise BatError(
            f"{file.path}: {name} is not the index of each sample of class {label} once: the file is damaged"
        )
    return index


def _check_shape(path: str, name: str, array: NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise BatError(f"{path}: {name} has shape {array.shape}, where its other arrays need {expected}")


def _holds_numbers(values: NDArray[Any]) -> bool:
    """Return whether any value is not NaN; not by isnan, which would take a quarter of a matrix of gigabytes."""
    return values.size > 0 and not np.isnan(np.fmin.reduce(values, axis=None))


def _check_range(path: str, name: str, values: NDArray[Any], lowest: int) -> None:
    """Refuse numbers that are no shares (from 0), or differences of shares (from -1); NaN is none."""
    # not nanmin, which would copy a matrix of gigabytes
    low, high = (ends.reduce(values, axis=None, initial=0.0) for ends in (np.fmin, np.fmax))
    if low < lowest - _ROUNDING or high > 1 + _ROUNDING:
        need = "shares of models, from 0 to 1" if lowest == 0 else "differences of rates, from -1 to 1"
        raise BatError(f"{path}: {name} goes from {low:g} to {high:g}: need {need}")


def check_released_labels(
    path: str,
    released: Released,
    samples: DataSet,
    sizes: Mapping[str, int] | None = None,
    source_labels: Sequence[int] | None = None,
) -> list[str]:
    """Compare a file with the data set, and return the kinds of samples whose labels the file does not have.

    Validation samples are training samples of the source, and those that the file has are compared too. sizes: samples
    in the ``train`` and ``test`` part of the source, where they are known. source_labels: the source's label of each
    class, where classes were chosen: files of all its samples have these labels, tables those of the data set.

    Raises:
        BatError: the file lacks a sample, or has another label for it; names the first.
    """
    unchecked = []
    if sizes is not None:
        _check_sizes(path, released, sizes)
    of_class = np.array(source_labels if source_labels and released.whole else range(samples.classes))
    train, test = _joined(samples.train), _joined(samples.test)
    _rows(path, released.index, train.place, "score of training sample")
    if released.labels is not None:
        everything = _joined(samples.train, samples.validation)
        there = np.isin(everything.place, released.index)
        ours = _Samples(everything.place[there], of_class[everything.labels[there]])
        theirs = released.labels[np.searchsorted(released.index, ours.place)]
        _compare(path, "training", ours, theirs)
    else:
        unchecked.append("training")
    if released.influence:
        covered = np.unique(np.concatenate([block.test_index for block in released.influence]))
        _rows(path, covered, test.place, "influence on test sample")
    if released.test_labels is not None:
        rows = _rows(path, np.arange(len(released.test_labels)), test.place, "label of test sample")
        ours = _Samples(test.place, of_class[test.labels])
        _compare(path, "test", ours, released.test_labels[rows])
    elif released.influence:
        unchecked.append("test")
    return unchecked


def _check_sizes(path: str, released: Released, sizes: Mapping[str, int]) -> None:
    """Refuse a file of more samples than the source has, or of fewer where it holds all of one."""
    held = {"train": int(released.index[-1]) + 1}
    if released.test_labels is not None:
        held["test"] = len(released.test_labels)
    elif released.influence:
        held["test"] = max(int(block.test_index.max()) for block in released.influence) + 1
    for part, n in held.items():
        if n > sizes[part] or (released.whole and n != sizes[part]):
            raise BatError(
                f"{path}: has {'' if released.whole else 'train_index up to that of '}{n} {part} samples, but the data "
                f"set's source has {sizes[part]}: the file is of other data"
            )


def released_memorization(path: str, released: Released, train: Part, *, threshold: float) -> pd.DataFrame:
    """Return scores/memorization.parquet of the training samples: what the file does not hold is NaN, counts are 0."""
    index = train.index.numpy()
    scores = released.memorization[_rows(path, released.index, index, "score of training sample")]
    table = pd.DataFrame({"train_index": index, "label": train.labels.numpy(), "memorization": scores})
    table = table.assign(n_in=0, n_out=0, atypical=scores > threshold)
    return table.reindex(columns=SCHEMAS["memorization"].names)


def released_influence(released: Released, train: Part, targets: Part, *, threshold: float) -> pd.DataFrame:
    """Return a row for each pair of a sample of ``train`` and one of ``targets`` of its class that has an influence.

    The columns are those of ``bat.scores.estimators.FoundPairs.pairs``. A file has no p-values: standard errors,
    p-values and all that is soft are missing, and ``significant`` says that the influence is over the threshold.
    """
    parts = []
    for block in released.influence:
        source, target = _labels(train, block.train_index), _labels(targets, block.test_index)
        for label in np.intersect1d(source[source >= 0], target[target >= 0]):
            rows, columns = np.flatnonzero(source == label), np.flatnonzero(target == label)
            values = block.values[np.ix_(rows, columns)].astype(np.float64)
            pairs = np.broadcast_arrays(block.train_index[rows, None], block.test_index[columns], label, values)
            names = ("train_index", "target_index", "label", "influence")
            parts.append(pd.DataFrame({name: array.ravel() for name, array in zip(names, pairs, strict=True)}))
    empty = pd.DataFrame(columns=["train_index", "target_index", "label", "influence"], dtype=np.float64)
    table = pd.concat(parts) if parts else empty
    table = table[table["influence"].notna()].sort_values(["train_index", "target_index"], ignore_index=True)
    table = table.assign(significant=table["influence"] > threshold)
    return table.reindex(columns=["train_index", "target_index", *SCHEMAS["influence"].names[2:]])


def _compare(path: str, what: str, ours: "_Samples", theirs: Counts) -> None:
    differs = np.flatnonzero(theirs != ours.labels)
    if len(differs):
        first = differs[0]
        raise BatError(
            f"{path}: {what} sample {ours.place[first]} has label {theirs[first]}, but {ours.labels[first]} in the "
            f"data set; {len(differs)} of {len(theirs)} differ: the file is of other data, or in another order than "
            "the data set's own files"
        )


class _Samples(NamedTuple):
    place: Counts
    labels: Counts


def _joined(*parts: Part) -> _Samples:
    """Return places in the source and labels of the samples of several parts, in the order of places."""
    index, labels = (np.concatenate(arrays) for arrays in zip(*((p.index, p.labels) for p in parts), strict=True))
    order = np.argsort(index)
    return _Samples(index[order], labels[order])


def _rows(path: str, index: Counts, wanted: Counts, what: str) -> Counts:
    """Return the places of ``wanted`` in the rising ``index``."""
    places = np.searchsorted(index, wanted)
    missing = np.append(index, -1)[places] != wanted
    if missing.any():
        raise BatError(
            f"{path}: has no {what} {wanted[missing][0]} ({missing.sum()} of {len(wanted)} are missing, {len(index)} "
            "are there): the file is of other data"
        )
    return places


def _labels(part: Part, index: Counts) -> Counts:
    """Return the label of each sample in ``part``, -1 where it is not there."""
    if not len(part):
        return np.full(len(index), -1)
    order = np.argsort(part.index.numpy())
    known = part.index.numpy()[order]
    places = np.minimum(np.searchsorted(known, index), len(known) - 1)
    return np.where(known[places] == index, part.labels.numpy()[order][places], -1)
