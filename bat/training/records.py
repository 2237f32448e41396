"""What training records of each sample, packed into one row per epoch, and the tables of groups made of it.

Groups are formed afterwards, so that other groups need no training. No torch here: the tables are joined in a second.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bat.io.tables import pack, unpack

_FLOATS: "dict[str, np.dtype[Any]]" = {
    "loss": np.dtype("<f2"),
    "error": np.dtype("<f2"),
    "probability": np.dtype("<f4"),
    "weight": np.dtype("<f4"),
}
"""How values are stored, by the last word of a column's name. Others are bits."""

_LARGEST = float(np.finfo(np.float16).max)

_METRICS = {"loss": "loss", "accuracy": "correct"}
"""Means of a history and the recorded values that they are means of."""


def packed(values: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Pack the values of one epoch, (n,) each by its column's name; a loss over 65,504 is stored as that."""
    return {name: pack(_stored(name, each)[None])[0] for name, each in values.items()}


def unpacked(records: pd.DataFrame, name: str, samples: int, where: str | Path) -> NDArray[Any]:
    """Return the values of a column in the epochs that have them: (epochs, samples), float or bool.

    Raises:
        BatError: a row holds another number of samples; names ``where``.
    """
    return unpack(records[name].dropna(), samples, where, _kind(name))


def history_table(records: pd.DataFrame, atypical: Mapping[str, NDArray[np.bool_]], where: str | Path) -> pd.DataFrame:
    """Return the rows of ``records`` with losses and accuracies of groups beside each sample's values.

    atypical: for each split (n,) bool. Columns are {split}_{all|typical|atypical}_{clean|pgd}_{loss|accuracy}, NaN for
    a group without samples and an epoch that was not measured.
    """
    means: dict[str, NDArray[np.float64]] = {}
    for split, rare in atypical.items():
        groups = {"all": rare | True, "typical": ~rare, "atypical": rare}
        for attack in ("clean", "pgd"):
            for metric, recorded in _METRICS.items():
                name = f"{split}_{attack}_{recorded}"
                measured, values = records[name].notna().to_numpy(), unpacked(records, name, len(rare), where)
                for group, chosen in groups.items():
                    column = np.full(len(records), np.nan)
                    if chosen.any():
                        column[measured] = values[:, chosen].mean(axis=1, dtype=np.float64)
                    means[f"{split}_{group}_{attack}_{metric}"] = column
    return records.assign(**means)


def samples_table(records: pd.DataFrame, scores: pd.DataFrame, where: str | Path) -> pd.DataFrame:
    """Return one row per epoch and atypical training sample, without those that were left out of training.

    scores: one row per training sample, with train_index, label, memorization and atypical. To these come method, seed,
    epoch, wrong_probability and weight, as ``loop.EpochSamples`` has them.
    """
    rare = scores["atypical"].to_numpy()
    wrong, weight = (unpacked(records, name, len(rare), where)[:, rare] for name in ("wrong_probability", "weight"))
    row, column = np.nonzero(~np.isnan(wrong))
    chosen = scores.loc[rare, ["train_index", "label", "memorization"]].iloc[column].reset_index(drop=True)
    epochs = records[["method", "seed", "epoch"]].iloc[row].reset_index(drop=True)
    values = {"wrong_probability": wrong[row, column], "weight": weight[row, column]}
    return chosen.join(epochs).assign(**{name: each.astype(np.float64) for name, each in values.items()})


def late_losses(records: pd.DataFrame, samples: int, where: str | Path) -> NDArray[np.float64]:
    """Return each training sample's loss under attack in the measured epochs of the last half: (epochs, samples)."""
    late = records[records["epoch"] > records["epoch"].max() / 2]
    return unpacked(late, "train_pgd_loss", samples, where).astype(np.float64)


def _kind(name: str) -> "np.dtype[Any] | None":
    """Return the type of a column's values, None for bits."""
    return _FLOATS.get(name.rpartition("_")[2])


def _stored(name: str, values: NDArray[Any]) -> NDArray[Any]:
    kind = _kind(name)
    return values if kind is None else (values.clip(max=_LARGEST) if kind.itemsize == 2 else values).astype(kind)
