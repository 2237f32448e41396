"""Training samples whose label is likely wrong, by what models that left them out take them for. Pure arrays."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bat.scores.estimators import over_threshold, score_column
from bat.statistics import Floats


def label_error_score(table: pd.DataFrame, *, score: str) -> Floats:
    """Return how much speaks for a wrong label of each training sample: (n,), at most 1.

    The memorization times the share of the models without the sample that predict the class they predict most; 0 where
    this is its label, or where no model left it out. Memorization near 1 says that no other sample supports the label,
    a share near 1 that the models know the sample for another class. An atypical sample that is right is rarely taken
    for one other class by all.

    table: of ``memorization_table``, with label and the columns of ``taken_for``; score: hard or soft memorization.
    """
    other = (table["taken_for"] != table["label"]).fillna(False).to_numpy(bool)
    return np.where(other, table["taken_for_share"] * table[score_column(score)], 0.0)


def label_errors_table(
    table: pd.DataFrame, class_names: Sequence[str], *, score: str, threshold: float
) -> pd.DataFrame:
    """Return likely label errors, most likely first: one row per sample.

    They are memorized, with a score over the threshold, and more than half of the models without them predict the same
    other class. table, score: as of ``label_error_score``, with train_index; class_names: of all classes.
    """
    found = table.assign(score=label_error_score(table, score=score))
    agree = (found["score"] > 0) & (found["taken_for_share"] > 0.5) & over_threshold(table, score, threshold)
    found = found[agree].sort_values(["score", "train_index"], ascending=[False, True])
    return found.assign(taken_for_name=found["taken_for"].map(dict(enumerate(class_names))))
