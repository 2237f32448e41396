"""Scores that others have released, and a user's own: what the files hold, and this project's tables from it.

Nothing is ever unpickled. Entry i of an array is the sample that has index i in its data set: a release keeps the order
of the training file, and of the test file.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from bat.data import DataSet, Part
from bat.errors import BatError
from bat.statistics import Counts, Floats


@dataclass(frozen=True)
class Influence:
    """Influence of training samples (n,) on test samples (t,): values (n, t), NaN where there is none."""

    train_index: Counts
    test_index: Counts
    values: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Released:
    """What a file holds. index: (n,) rising, of training samples; memorization, labels: (n,); test_labels: (t,)."""

    index: Counts
    memorization: Floats
    labels: Counts | None
    test_labels: Counts | None
    influence: tuple[Influence, ...]


def read_released(path: str, layout: str) -> Released:
    """Read a file of scores. layout: as ``scores.format`` of the configuration.

    - ``feldman_zhang`` (Feldman and Zhang 2020, cifar100_infl_matrix.npz): ``tr_mem``, ``tr_labels``, ``tt_labels``,
      and for each class c ``infl_matrix_class<c>`` (training x test samples of the class) and ``tr_classidx_<c>``, the
      index of its rows; that of its columns is ``tt_classidx_<c>``, or without that the order of the test file.
    - ``cscores`` (Jiang et al. 2021): ``labels``, ``scores``; 1 - score stands for memorization.
    - ``npz``: ``memorization`` (n,); where there are any, ``influence`` (test x training samples), ``labels``,
      ``test_labels``.
    - ``table``: Parquet or CSV with columns ``train_index``, ``memorization`` and, where there is one, ``label``.

    Raises:
        BatError: the file is missing, damaged, of another layout, would have to be unpickled, or contradicts itself.
    """
    released = {
        "feldman_zhang": _feldman_zhang,
        "cscores": _cscores,
        "npz": _npz,
        "table": _table,
    }[layout](path)
    for name, values in [("memorization", released.memorization)] + [
        ("influence", block.values) for block in released.influence
    ]:
        # not nanmin, which would copy a matrix of gigabytes
        low, high = (ends.reduce(values, axis=None, initial=0.0) for ends in (np.fmin, np.fmax))
        if low < -1.000001 or high > 1.000001:
            raise BatError(f"{path}: {name} goes from {low:g} to {high:g}: need differences of rates, from -1 to 1")
    return released


def _feldman_zhang(path: str) -> Released:
    with _open(path) as file:
        labels, test_labels = (_array(path, file, name, "iu", 1) for name in ("tr_labels", "tt_labels"))
        memorization = _array(path, file, "tr_mem", "f", 1)
        _check_shape(path, "tr_mem", memorization, (len(labels),))
        blocks = []
        for label in np.unique(labels):
            rows = _members(path, file, f"tr_classidx_{label}", labels, label)
            named = f"tt_classidx_{label}" in file
            columns = (
                _members(path, file, f"tt_classidx_{label}", test_labels, label)
                if named
                else np.flatnonzero(test_labels == label)
            )
            values = _array(path, file, f"infl_matrix_class{label}", "f", 2)
            _check_shape(path, f"infl_matrix_class{label}", values, (len(rows), len(columns)))
            blocks.append(Influence(rows, columns, values))
    return Released(np.arange(len(labels)), memorization.astype(np.float64), labels, test_labels, tuple(blocks))


def _cscores(path: str) -> Released:
    with _open(path) as file:
        labels, scores = _array(path, file, "labels", "iu", 1), _array(path, file, "scores", "f", 1)
    _check_shape(path, "scores", scores, (len(labels),))
    return Released(np.arange(len(labels)), 1 - scores.astype(np.float64), labels, None, ())


def _npz(path: str) -> Released:
    with _open(path) as file:
        memorization = _array(path, file, "memorization", "f", 1)
        labels, test_labels = (
            _array(path, file, name, "iu", 1) if name in file else None for name in ("labels", "test_labels")
        )
        values = _array(path, file, "influence", "f", 2) if "influence" in file else None
    n = len(memorization)
    if labels is not None:
        _check_shape(path, "labels", labels, (n,))
    blocks: tuple[Influence, ...] = ()
    if values is not None:
        tests = len(values) if test_labels is None else len(test_labels)
        _check_shape(path, "influence", values, (tests, n))
        blocks = (Influence(np.arange(n), np.arange(tests), values.T),)
    return Released(np.arange(n), memorization.astype(np.float64), labels, test_labels, blocks)


def _table(path: str) -> Released:
    try:
        if Path(path).suffix == ".parquet":
            table = pq.read_table(path).to_pandas(ignore_metadata=True)
        elif Path(path).suffix == ".csv":
            with Path(path).open(encoding="utf-8", newline="") as file:
                table = pd.read_csv(file)
        else:
            raise BatError(f"{path}: neither .parquet nor .csv: give a table, or another scores.format")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BatError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from error
    for name, kinds, needed in (("train_index", "iu", True), ("memorization", "fiu", True), ("label", "iu", False)):
        if name not in table:
            if needed:
                raise BatError(f"{path}: has no column {name} (it has {', '.join(map(str, table.columns))}): add it")
        elif table[name].dtype.kind not in kinds:
            need = "integers, none missing" if kinds == "iu" else "numbers"
            raise BatError(f"{path}: column {name} holds {table[name].dtype}: need {need}")
    table = table.sort_values("train_index", kind="stable", ignore_index=True)
    index = table["train_index"].to_numpy(np.int64)
    twice = np.flatnonzero(np.diff(index) == 0)
    if len(twice):
        raise BatError(f"{path}: train_index {index[twice[0]]} is there twice: give each sample one row")
    labels = table["label"].to_numpy(np.int64) if "label" in table else None
    return Released(index, table["memorization"].to_numpy(np.float64), labels, None, ())


@contextmanager
def _open(path: str) -> Iterator[NpzFile]:
    with ExitStack() as closed:
        try:
            # opened here, since numpy leaves a damaged file open
            file = np.load(closed.enter_context(Path(path).open("rb")), allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BatError(f"{path}: cannot be read as npz ({' '.join(str(error).split())})") from error
        if not isinstance(file, NpzFile):
            raise BatError(f"{path}: holds a single array: need npz, with an array a name")
        yield closed.enter_context(file)


def _array(path: str, file: NpzFile, name: str, kinds: str, dimensions: int) -> NDArray[Any]:
    """Return an array of integers ("iu", as int64) or of floating numbers ("f")."""
    if name not in file:
        raise BatError(f"{path}: has no array {name} (it has {', '.join(file.files[:8])}): mend scores.format")
    try:
        array: NDArray[Any] = file[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise BatError(f"{path}: array {name} is damaged, or pickled, which is never read ({reason})") from error
    if array.ndim != dimensions or array.dtype.kind not in kinds:
        need = f"{'integers' if kinds == 'iu' else 'floating numbers'} along {dimensions} axes"
        raise BatError(f"{path}: array {name} has shape {array.shape} of {array.dtype}: need {need}")
    return array.astype(np.int64) if kinds == "iu" else array


def _members(path: str, file: NpzFile, name: str, labels: Counts, label: int) -> Counts:
    """Return the samples of a class that ``file`` lists as ``name``."""
    index = _array(path, file, name, "iu", 1)
    if not np.array_equal(np.sort(index), np.flatnonzero(labels == label)):
        raise BatError(f"{path}: {name} is not the index of each sample of class {label} once: the file is damaged")
    return index


def _check_shape(path: str, name: str, array: NDArray[Any], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise BatError(f"{path}: {name} has shape {array.shape}, where its other arrays need {expected}")


def check_labels(path: str, released: Released, samples: DataSet) -> list[str]:
    """Compare a file with the data set, and return the kinds of samples whose labels the file does not have.

    Validation samples are training samples of the source, and those that the file has are compared too.

    Raises:
        BatError: the file lacks a sample, or has another label for it; names the first.
    """
    unchecked = []
    train, test = _joined(samples.train), _joined(samples.test)
    _rows(path, released.index, train.place, "score of training sample")
    if released.labels is not None:
        everything = _joined(samples.train, samples.validation)
        there = np.isin(everything.place, released.index)
        ours = _Samples(everything.place[there], everything.labels[there])
        theirs = released.labels[np.searchsorted(released.index, ours.place)]
        _compare(path, "training", ours, theirs)
    else:
        unchecked.append("training")
    if released.influence:
        covered = np.unique(np.concatenate([block.test_index for block in released.influence]))
        _rows(path, covered, test.place, "influence on test sample")
    if released.test_labels is not None:
        rows = _rows(path, np.arange(len(released.test_labels)), test.place, "label of test sample")
        _compare(path, "test", test, released.test_labels[rows])
    elif released.influence:
        unchecked.append("test")
    return unchecked


def memorization_table(path: str, released: Released, train: Part, *, threshold: float) -> pd.DataFrame:
    """Return scores/memorization.parquet of the training samples: what the file does not hold is NaN, counts are 0."""
    index = train.index.numpy()
    scores = released.memorization[_rows(path, released.index, index, "score of training sample")]
    unknown = dict.fromkeys(["standard_error", "ci_low", "ci_high", "p_in", "p_out"], np.nan)
    table = {"train_index": index, "label": train.labels.numpy(), "memorization": scores, **unknown}
    return pd.DataFrame(table | {"n_in": 0, "n_out": 0, "atypical": scores > threshold})


def influence_table(released: Released, train: Part, targets: Part, *, threshold: float) -> pd.DataFrame:
    """Return a row for each pair of a sample of ``train`` and one of ``targets`` of its class that has an influence.

    The columns are those of ``bat.memorization.influence_table``. A file has no p-values: standard errors and p-values
    are NaN, and ``significant`` says that the influence is over the threshold.
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
    table = pd.concat(parts, ignore_index=True) if parts else empty
    table = table[table["influence"].notna()].sort_values(["label", "train_index", "target_index"], ignore_index=True)
    return table.assign(standard_error=np.nan, p_value=np.nan, significant=table["influence"] > threshold)


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
