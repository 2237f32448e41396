"""Likely label errors, by hand."""

import numpy as np
import pandas as pd

from bat.scores.label_errors import label_error_score, label_errors_table

#        taken for itself, another, another by fewer, another by all, no models, another by half of them
TABLE = pd.DataFrame(
    {
        "train_index": [10, 11, 12, 13, 14, 15],
        "label": [0, 0, 1, 2, 2, 1],
        "taken_for": pd.array([0, 2, 0, 1, pd.NA, 0], dtype="Int64"),
        "taken_for_share": [1.0, 0.75, 0.9, 1.0, np.nan, 0.5],
        "soft_p_out": [0.5, 0.25, 0.125, 0.375, np.nan, 0.0],
    }
)
NAMES = ("ant", "bee", "cow")


def test_a_score_is_what_models_without_a_sample_leave_to_other_classes():
    assert label_error_score(TABLE).tolist() == [0.5, 0.75, 0.875, 0.625, 0, 1]


def test_the_table_has_samples_that_most_models_take_for_one_other_class():
    found = label_errors_table(TABLE, NAMES)
    assert found["train_index"].tolist() == [12, 11, 13]
    assert found["taken_for_name"].tolist() == ["ant", "cow", "bee"]
    assert found["score"].tolist() == [0.875, 0.75, 0.625]


def test_equal_scores_are_in_the_order_of_samples():
    twice = pd.concat([TABLE.assign(train_index=TABLE["train_index"] + 100), TABLE])
    found = label_errors_table(twice, NAMES)
    assert found["train_index"].tolist() == [12, 112, 11, 111, 13, 113]
