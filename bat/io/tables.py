"""Tables as Parquet: reading and writing them with provenance."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bat.errors import BatError
from bat.io.files import KEY, check_kind, check_seal, replacing, seal, unsealed
from bat.io.schemas import SCHEMAS

_ROWS = {"subsets": 8, "influence": 50_000, "robust_influence": 50_000, "train_influence": 50_000}
"""Rows of a row group where a reader wants few of many: models one after the other, the pairs of one sample."""

_OF_EACH_SCORE = ("memorization", "standard_error", "ci_low", "ci_high")


def write_table(path: str | Path, name: str, frame: pd.DataFrame, about: str) -> None:
    """Write ``frame`` as the table ``name``, its columns in the schema's order, with ``about`` and a checksum."""
    schema = SCHEMAS[name]
    table = pa.Table.from_pandas(frame[schema.names], schema=schema).replace_schema_metadata()
    with replacing(path) as temporary:
        # without Arrow's own schema, which would hold the metadata, and so the place of the checksum, a second time
        with pq.ParquetWriter(temporary, schema, store_schema=False, compression="zstd") as writer:
            writer.write_table(table, _ROWS.get(name))
            writer.add_key_value_metadata({KEY: unsealed(about)})
        seal(temporary)


def read_table(path: str | Path, name: str) -> pd.DataFrame:
    """Read the table ``name``.

    Raises:
        BatError: the file is missing, damaged, another table, of another version, or lacks a column.
    """
    return read_table_with_facts(path, name)[0]


def read_table_with_facts(path: str | Path, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the table ``name`` and its provenance. Raises as ``read_table``."""
    table, about, checksum = _read(path, pq.read_table)
    facts = check_kind(path, about, name, checksum)
    _check_columns(path, name, table.schema)
    return table.to_pandas(), facts


def read_scores(path: str | Path, name: str = "memorization") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table of memorization, ``by_chosen_score``, and its provenance. Raises as ``read_table``."""
    table, facts = read_table_with_facts(path, name)
    return by_chosen_score(table, facts), facts


def by_chosen_score(table: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    """Return a table of memorization by the score that ``memorization.score`` chose for it, as its provenance says.

    Where that is the soft one, the columns memorization, standard_error, ci_low and ci_high are the soft score's.
    Scores from a file are of one kind alone.
    """
    if facts.get("spec", {}).get("score") == "soft":
        return table.assign(**{column: table[f"soft_{column}"] for column in _OF_EACH_SCORE})
    return table


def table_facts(path: str | Path, name: str) -> dict[str, Any]:
    """Check the table ``name`` without reading its rows and return its provenance. Raises as ``read_table``."""
    found, about, checksum = _read(path, pq.read_metadata)
    facts = check_kind(path, about, name, checksum)
    _check_columns(path, name, found.schema.to_arrow_schema())
    return facts


def table_rows(path: str | Path, columns: Sequence[str], count: int) -> Iterator[dict[str, list[Any]]]:
    """Yield columns of a table that ``table_facts`` has checked, so many rows at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(count, columns=list(columns)):
            yield batch.to_pydict()


def rows_with(path: str | Path, column: str, values: Sequence[Any]) -> pd.DataFrame:
    """Return the rows with some values of a table that ``table_facts`` has checked; row groups of others are not read.

    They are in the table's order.
    """
    found: pd.DataFrame = pq.read_table(path, filters=[(column, "in", list(values))]).to_pandas()
    return found


def _check_columns(path: str | Path, name: str, schema: pa.Schema) -> None:
    if not schema.equals(SCHEMAS[name]):
        expected = {f"{field.name}: {field.type}" for field in SCHEMAS[name]}
        found = {f"{field.name}: {field.type}" for field in schema}
        raise BatError(
            f"{path}: not the columns of {name} (differing: {', '.join(sorted(expected ^ found))}): run its stage again"
        )


def check_one_data_set(*paths: str | Path | None, data: tuple[str | Path, str] | None = None) -> None:
    """Compare the digests of the data that tables were made from. data: path and digest of the data set itself.

    Raises:
        BatError: a table is of another data set than the first, or than ``data``; names both files.
    """
    first = data
    for path in paths:
        if path is None:
            continue
        digest = json.loads(_read(path, pq.read_metadata)[1] or "{}").get("data")
        if first is None:
            first = path, digest
        if digest != first[1]:
            raise BatError(
                f"{first[0]} and {path} are of different data: remove the one that is out of date, and run its stage "
                "again"
            )


def check_one_run(*paths: str | Path) -> None:
    """Compare the provenance of tables that one run of a stage writes together.

    Raises:
        BatError: a table was made from another spec, or from other inputs, than the first; names both files.
    """
    first, *others = paths
    about = [
        json.loads(_read(path, pq.read_metadata)[1] or "{}") | dict.fromkeys(("kind", "checksum")) for path in paths
    ]
    for path, facts in zip(others, about[1:], strict=True):
        if facts != about[0]:
            raise BatError(f"{first} and {path} are not of one run of their stage: run it again")


def _read(path: str | Path, read: Callable[[str | Path], Any]) -> tuple[Any, str | None, str | None]:
    """Return what ``read`` reads of a Parquet file, the file's provenance and its checksum."""
    try:
        checksum = check_seal(path)
        found = read(path)
    except FileNotFoundError as error:
        raise BatError(f"{path}: no such file: run the stage that writes it") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BatError(f"{path}: damaged, or no Parquet file ({reason}): remove it and run its stage again") from error
    metadata = found.metadata if isinstance(found, pq.FileMetaData) else found.schema.metadata
    about = (metadata or {}).get(KEY.encode())
    return found, about.decode(errors="replace") if about else None, checksum


def pack(values: NDArray[Any]) -> list[bytes]:
    """Pack each row of values into bytes: bits with the first sample in the highest, numbers little-endian."""
    if values.dtype == bool:
        values = np.packbits(values, axis=1)
    return [row.tobytes() for row in values.astype(values.dtype.newbyteorder("<"), copy=False)]


def unpack(
    column: "pd.Series[Any]", samples: int, where: str | Path, kind: "np.dtype[Any] | None" = None
) -> NDArray[Any]:
    """Unpack a column of ``pack`` to (rows, samples): bool, or numbers of ``kind``.

    Raises:
        BatError: a row has another number of bytes than so many samples need; names ``where``.
    """
    expected = -(-samples // 8) if kind is None else kind.itemsize * samples
    if any(len(row) != expected for row in column):
        raise BatError(f"{where}: {column.name} does not hold {samples} samples: it is of other data; remove it")
    stored = np.dtype(np.uint8) if kind is None else kind
    values = np.frombuffer(b"".join(column), stored).reshape(len(column), expected // stored.itemsize)
    return np.unpackbits(values, axis=1, count=samples).astype(bool) if kind is None else values


def check_labels(path: str | Path, table: pd.DataFrame, column: str, index: NDArray[Any], labels: NDArray[Any]) -> None:
    """Raise BatError unless ``table`` has the given samples and labels, in order, naming the first that differs."""
    if len(table) != len(index):
        raise BatError(f"{path}: {len(table)} samples, but the data has {len(index)}: score this data set again")
    differs = (table[column].to_numpy() != index) | (table["label"].to_numpy() != labels)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise BatError(
            f"{path}: row {row} is sample {table[column].iloc[row]} with label {table['label'].iloc[row]}, but the "
            f"data has sample {index[row]} with label {labels[row]}: it is of other data"
        )
