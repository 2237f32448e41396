"""Likely label errors, by hand."""

import numpy as np
import pandas as pd

from bat.scores.label_errors import label_error_score, label_errors_table

#        taken for itself, another, another by fewer, another but not memorized, no models, another by half of them
TABLE = pd.DataFrame(
    {
        "train_index": [10, 11, 12, 13, 14, 15],
        "label": [0, 0, 1, 2, 2, 1],
        "taken_for": pd.array([0, 2, 0, 1, pd.NA, 0], dtype="Int64"),
        "taken_for_share": [1.0, 0.75, 0.9, 1.0, np.nan, 0.5],
        "memorization": [0.5, 0.8, 0.8, 0.1, np.nan, 1.0],
        "soft_memorization": [0.5, 0.8, 0.25, 0.5, np.nan, 1.0],
    }
)
NAMES = ("ant", "bee", "cow")


def test_a_score_is_memorization_times_the_share_that_agree_on_another_class():
    assert label_error_score(TABLE, score="hard").tolist() == [0, 0.8 * 0.75, 0.8 * 0.9, 0.1, 0, 0.5]
    assert label_error_score(TABLE, score="soft").tolist() == [0, 0.8 * 0.75, 0.25 * 0.9, 0.5, 0, 0.5]


def test_the_table_has_memorized_samples_that_most_models_take_for_another_class():
    found = label_errors_table(TABLE, NAMES, score="hard", threshold=0.15)
    assert found["train_index"].tolist() == [12, 11]
    assert found["taken_for_name"].tolist() == ["ant", "cow"]
    assert found["score"].tolist() == [0.8 * 0.9, 0.8 * 0.75]
    soft = label_errors_table(TABLE, NAMES, score="soft", threshold=0.15)
    assert soft["train_index"].tolist() == [11, 13, 12]
    assert label_errors_table(TABLE, NAMES, score="hard", threshold=0.8).empty


def test_equal_scores_are_in_the_order_of_samples():
    twice = pd.concat([TABLE.assign(train_index=TABLE["train_index"] + 100), TABLE])
    found = label_errors_table(twice, NAMES, score="hard", threshold=0.15)
    assert found["train_index"].tolist() == [12, 112, 11, 111]
