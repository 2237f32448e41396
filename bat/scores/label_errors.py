"""Training samples whose label is likely wrong, by what models that left them out take them for. Pure arrays."""

from collections.abc import Sequence

import pandas as pd

from bat.statistics import Floats


def label_error_score(table: pd.DataFrame) -> Floats:
    """Return how much speaks for a wrong label of each training sample: (n,) in [0, 1].

    1 minus the mean probability that models without the sample give to its label, the self-confidence of Northcutt et
    al. 2021 (confident learning, arXiv 1911.00068); 0 where no model left it out. Models with the sample do not count:
    how far they fit a wrong label says how long they were trained.

    table: of ``memorization_table``.
    """
    return (1 - table["soft_p_out"]).fillna(0.0).to_numpy()


def label_errors_table(table: pd.DataFrame, class_names: Sequence[str]) -> pd.DataFrame:
    """Return likely label errors, most likely first: one row per sample.

    More than half of the models without them predict the same other class.

    table: of ``memorization_table``, with train_index, label and the columns of ``taken_for``; class_names: of all
    classes.
    """
    agree = (table["taken_for"] != table["label"]).fillna(False).to_numpy(bool) & (table["taken_for_share"] > 0.5)
    found = table.assign(score=label_error_score(table))[agree]
    found = found.sort_values(["score", "train_index"], ascending=[False, True])
    return found.assign(taken_for_name=found["taken_for"].map(dict(enumerate(class_names))))
