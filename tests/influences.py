"""Influence of whole arrays of any classes, which stages find class by class; tables of scores written by hand."""

import numpy as np
import pandas as pd

from bat.io.schemas import SCHEMAS
from bat.scores.estimators import FoundPairs, InfluenceFinder


def find_pairs(
    mask,
    correct,
    *,
    train_index,
    train_labels,
    target_index,
    target_labels,
    false_discovery_rate,
    counted=None,
    probability=None,
    over=-np.inf,
) -> FoundPairs:
    """Return the pairs of each class; probability: those of ``correct`` by default, 0 or 1."""
    finder = InfluenceFinder(false_discovery_rate=false_discovery_rate, over=over)
    probability = correct.astype(np.float16) if probability is None else probability
    for label in np.intersect1d(train_labels, target_labels):
        rows, columns = np.flatnonzero(train_labels == label), np.flatnonzero(target_labels == label)
        finder.add(
            mask[:, rows],
            correct[:, columns],
            probability[:, columns],
            label=int(label),
            train_index=train_index[rows],
            target_index=target_index[columns],
            counted=None if counted is None else counted[:, columns],
        )
    return finder.result()


def whole(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table with all columns of its schema, those that it lacks without values."""
    return table.reindex(columns=SCHEMAS[name].names)
