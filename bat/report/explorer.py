"""What the score explorer shows: tables as columns that a page reads, and images as sheets of thumbnails."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from bat.data.dataset import DataSet, Part

PER_ROW = 10
"""Thumbnails in a row of a sheet, which has as many rows."""

THUMBNAIL, LARGE = 64, 256
"""Pixels of the longer side of an image: of a thumbnail and where it is shown large. Smaller images are as they are."""

_PAIRS = 12
"""Influences that are kept of each sample, the strongest."""

_SCALE = 1000
"""What floats are multiplied with before they are rounded."""

_NOT_SHOWN = ("standard_error", "ci_low", "ci_high", "index", "taken_for")
_METRICS = ("clean", "pgd", "robust")
_TITLES = {
    "p_in": "right if trained on",
    "p_out": "right if left out",
    "soft_p_in": "probability if trained on",
    "soft_p_out": "probability if left out",
    "label_error": "likely label error",
    "taken_for_share": "share of models that take it for that",
    "accuracy": "subset models that are right",
    "soft_accuracy": "probability by subset models",
}
"""Names of columns on the page, where their own say little there."""


class Shown(NamedTuple):
    """A split in the order of its thumbnails.

    rows: (n,) of each sample in its part of the data set; table: a column per figure of a sample, by place in the
    source.
    """

    rows: NDArray[np.int64]
    table: pd.DataFrame


def shown_splits(data: DataSet, tables: Mapping[str, pd.DataFrame]) -> dict[str, Shown]:
    """Return training and test samples with what the tables say of each, the most memorized or influenced first.

    tables: of an experiment, by the names of their files; only memorization must be there.
    """
    train = tables["memorization"].set_index("train_index")
    if "robust_memorization" in tables:
        robust = tables["robust_memorization"].set_index("train_index")
        train = train.join(robust[["memorization", "soft_memorization"]].add_prefix("robust_"))
    if "harmful" in tables:
        train = train.join(tables["harmful"].set_index("train_index")[["wrong_probability", "wrong_share"]])
    if "proxies" in tables:
        train = train.join(tables["proxies"].set_index("train_index").drop(columns="label"))
    if "label_errors" in tables:
        train = train.join(tables["label_errors"].set_index("train_index")["score"].rename("label_error"))
    test = pd.DataFrame(index=pd.Index(data.test.index.numpy()))
    if "test_groups" in tables:
        test = tables["test_groups"].set_index("test_index")
        test = test.rename(columns={"memorization": "memorization of its strongest influence"})
    if "per_sample" in tables:
        means = _last(tables["per_sample"]).groupby("test_index")[[f"{metric}_correct" for metric in _METRICS]].mean()
        test = test.join(means.rename(columns=lambda name: name.replace("_correct", "_right")))
    return {
        "train": _ordered(data.train, train, "memorization"),
        "test": _ordered(data.test, test, "max_influence"),
    }


def explored(data: DataSet, tables: Mapping[str, pd.DataFrame], splits: Mapping[str, Shown]) -> dict[str, Any]:
    """Return all that the page reads: plain values and arrays. tables, splits: as in ``shown_splits``."""
    order = {name: split.table.index for name, split in splits.items()}
    return {
        "classes": list(data.class_names),
        "tile": list(shown_size(data, THUMBNAIL)),
        "large": list(shown_size(data, LARGE)),
        "perRow": PER_ROW,
        "splits": {name: _split(getattr(data, name), split) for name, split in splits.items()},
        "influence": _pairs(tables.get("influence"), order["train"], order["test"], "test_index"),
        "trainInfluence": _pairs(tables.get("train_influence"), order["train"], order["train"], "influenced_index"),
        "methods": _methods(tables.get("per_sample"), order["test"]),
    }


def as_script(found: Mapping[str, Any]) -> str:
    """Return the script that hands the page its data: a page that was opened as a file may load no other."""
    return f"window.DATA={json.dumps(found, separators=(',', ':'), allow_nan=False, default=_packed)};\n"


def sheets(part: Part, rows: NDArray[np.int64], size: tuple[int, int]) -> Iterator[Image.Image]:
    """Yield sheets of images, left to right and top to bottom.

    rows: (n,) of samples of the part; size: width and height of an image on the sheet.
    """
    width, height = size
    for start in range(0, len(rows), PER_ROW**2):
        # one sheet's pixels at a time: the data set may be as large as the memory
        pixels = part.pixels[rows[start : start + PER_ROW**2]].numpy().astype(np.uint16) * 255 // part.pixel_max
        grey = pixels.shape[1] == 1
        sheet = Image.new("L" if grey else "RGB", (PER_ROW * width, -(-len(pixels) // PER_ROW) * height))
        for place, image in enumerate(pixels.astype(np.uint8)):
            drawn = Image.fromarray(image[0] if grey else image[:3].transpose(1, 2, 0))
            row, column = divmod(place, PER_ROW)
            sheet.paste(drawn.resize(size), (column * width, row * height))
        yield sheet


def shown_size(data: DataSet, largest: int) -> tuple[int, int]:
    """Return width and height of an image on a sheet: its own, or smaller where a side is over ``largest`` pixels."""
    height, width = data.train.pixels.shape[2:]
    scale = min(1.0, largest / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _ordered(part: Part, table: pd.DataFrame, by: str) -> Shown:
    index = pd.Index(part.index.numpy())
    table = table.reindex(index)
    if by in table:
        table = table.sort_values(by, ascending=False, kind="stable")
    return Shown(index.get_indexer(table.index), table)


def _last(per_sample: pd.DataFrame) -> pd.DataFrame:
    return per_sample[per_sample["checkpoint"] == "last"]


def _split(part: Part, split: Shown) -> dict[str, Any]:
    table = split.table
    numbers = table.select_dtypes(["float64", "bool"]).astype(float)
    shown = [name for name in map(str, numbers) if not name.endswith(_NOT_SHOWN) and not numbers[name].isna().all()]
    found = {
        "index": table.index.to_numpy(),
        "label": part.labels.numpy()[split.rows],
        "columns": {_TITLES.get(name, name.replace("_", " ")): numbers[name].to_numpy() for name in shown},
    }
    if "taken_for" in table and table["taken_for"].notna().any():
        found["takenFor"] = table["taken_for"].fillna(-1).astype(int).to_numpy()
    if "file" in table and table["file"].notna().any():
        found["file"] = _files(table["file"])
    if "ci_low" in table and table["ci_low"].notna().any():
        found["interval"] = [table[name].to_numpy() for name in ("ci_low", "ci_high")]
    return found


def _pairs(pairs: pd.DataFrame | None, train: "pd.Index[Any]", other: "pd.Index[Any]", name: str) -> dict[str, Any]:
    """Return the strongest pairs of each sample, by their places in the splits.

    train, other: indices of the samples that influence and that are influenced, in the order of their splits; name: the
    column of the latter.
    """
    if pairs is None:
        return dict.fromkeys(("from", "to", "value", "significant"), np.empty(0))
    pairs = pairs.sort_values("influence", ascending=False, kind="stable")
    first = [pairs.groupby(side).cumcount() < _PAIRS for side in ("train_index", name)]
    pairs = pairs[first[0] | first[1]]
    return {
        "from": train.get_indexer(pd.Index(pairs["train_index"])),
        "to": other.get_indexer(pd.Index(pairs[name])),
        "value": pairs["influence"].to_numpy(),
        "significant": pairs["significant"].eq(True).to_numpy(),
    }


def _methods(per_sample: pd.DataFrame | None, test: "pd.Index[Any]") -> dict[str, Any]:
    """Return how many models of each method are right on each test sample, and how many an attack broke."""
    found: dict[str, Any] = {}
    for method, rows in [] if per_sample is None else _last(per_sample).groupby("method", sort=False):
        names = {metric: f"{metric}_correct" for metric in _METRICS}
        right = rows.groupby("test_index")[list(names.values())].sum().reindex(test, fill_value=0)
        broken = pd.crosstab(rows["test_index"], rows["broken_by"]).reindex(test, fill_value=0)
        found[str(method)] = {
            "models": int(rows["seed"].nunique()),
            **{metric: right[name].to_numpy() for metric, name in names.items()},
            "brokenBy": {str(attack): broken[attack].to_numpy() for attack in broken},
        }
    return found


def _files(names: "pd.Series[Any]") -> dict[str, Any]:
    """Return names of files, their folders once each."""
    parts = names.fillna("").str.rpartition("/")
    folder, folders = pd.factorize(parts[0] + parts[1])
    return {"folders": list(folders), "folder": folder, "name": list(parts[2])}


def _packed(values: NDArray[Any]) -> dict[str, Any]:
    """Return numbers as the page unpacks them: whole numbers in base64, thousandths of floats, the least for NaN."""
    floats = values.dtype.kind == "f"
    if floats:
        values = np.round(values * _SCALE)
    low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=0)
    names = ("int8", "int16", "int32") if floats else ("uint8", "int8", "uint16", "int16", "int32")
    ranges = {name: np.iinfo(name) for name in names}
    name = next(name for name, kind in ranges.items() if kind.min + floats <= low and high <= kind.max)
    none = ranges[name].min
    whole = np.where(np.isnan(values), none, values).astype(np.dtype(name).newbyteorder("<"))
    packed = {"type": f"{name.capitalize()}Array", "base64": base64.b64encode(whole.tobytes()).decode()}
    return packed | {"scale": _SCALE, "none": none} if floats else packed
