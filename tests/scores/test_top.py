"""The most memorized samples for spreadsheets, by hand."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bat.scores.top import as_csv, top_table, write_top

NAMES = ("ant", "bee", "cow")
TABLE = pd.DataFrame(
    {
        "train_index": [14, 11, 12, 13],
        "label": [0, 1, 1, 2],
        "class_name": ["ant", "bee", "bee", "cow"],
        "file": ["ant/1.png", None, "bee/2.png", "cow/3.png"],
        "memorization": [0.5, 0.8, 0.5, np.nan],
        "p_in": [1.0, 0.9, 0.75, np.nan],
        "p_out": [0.5, 0.1, 0.25, np.nan],
        "soft_memorization": [0.7, 0.2, np.nan, 0.123456],
        "soft_p_in": [0.9, 0.7, np.nan, 0.6],
        "soft_p_out": [0.2, 0.5, np.nan, 0.5],
        "taken_for": pd.array([1, 2, pd.NA, 0], dtype="Int64"),
        "taken_for_share": [0.25, 0.5, np.nan, 1.0],
    }
)


def test_the_most_memorized_come_first_and_those_without_a_score_not_at_all():
    lines = as_csv(top_table(TABLE, NAMES, score="hard")).splitlines()
    assert lines == [
        "train_index,class_name,file,label,memorization,p_in,p_out,taken_for_name,taken_for_share",
        "11,bee,,1,0.8000,0.9000,0.1000,cow,0.5000",
        "12,bee,bee/2.png,1,0.5000,0.7500,0.2500,,",
        "14,ant,ant/1.png,0,0.5000,1.0000,0.5000,bee,0.2500",
    ]


def test_the_score_that_decides_is_the_one_that_is_shown():
    top = top_table(TABLE, NAMES, score="soft")
    assert top[["train_index", "memorization", "p_in", "p_out"]].to_numpy().tolist() == [
        [14, 0.7, 0.9, 0.2],
        [11, 0.2, 0.7, 0.5],
        [13, 0.123456, 0.6, 0.5],
    ]


def test_the_file_is_that_table_with_the_mark_by_which_spreadsheets_know_utf_8(tmp_path: Path) -> None:
    table = TABLE.assign(class_name="Bär")
    write_top(tmp_path / "top.csv", table, NAMES, score="soft")
    expected = as_csv(top_table(table, NAMES, score="soft"))
    assert (tmp_path / "top.csv").read_bytes() == b"\xef\xbb\xbf" + expected.encode()


def test_there_are_a_hundred_at_most():
    many = pd.concat([TABLE[:1]] * 150, ignore_index=True).assign(train_index=np.arange(150))
    assert top_table(many, NAMES, score="hard")["train_index"].tolist() == list(range(100))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1.png", "'-1.png"),
        ("@a", "'@a"),
        (' "=1', "' \"=1"),
        ("\t=1", "'\t'=1"),
        # where a semicolon or a tab ends a cell
        ("a;=1,+2", "a;'=1,'+2"),
        ("a/b-c+d=e@f.png", "a/b-c+d=e@f.png"),
    ],
)
def test_no_text_is_a_formula(text, shown):
    table = TABLE[:1].assign(class_name=text, file=text, taken_for=0)
    _, cells = csv.reader(io.StringIO(as_csv(top_table(table, (text,), score="hard")), newline=""))
    assert (cells[1], cells[2], cells[7]) == (shown,) * 3
    # a number below zero is a number
    low = top_table(TABLE[:1].assign(memorization=-0.25), NAMES, score="hard")
    assert ",-0.2500," in as_csv(low)
