"""The most memorized training samples as a table for spreadsheets."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bat.io.files import replacing
from bat.scores.estimators import score_column

_MOST = 100
_FORMULA = re.compile(r"(^|[,;|\t\r\n])(?=[\s\"]*[=+\-@])")
"""Where a text begins that spreadsheets would run, also behind a mark that some take for the end of a cell."""


def top_table(table: pd.DataFrame, class_names: Sequence[str], *, score: str) -> pd.DataFrame:
    """Return the most memorized training samples, the first of all first.

    table: as scores/memorization.parquet; class_names: of all classes; score: hard or soft, whose columns are taken.
    """
    soft = "soft_" * (score == "soft")
    kept = {"train_index": "train_index", "class_name": "class_name", "file": "file", "label": "label"}
    kept |= {score_column(score): "memorization", f"{soft}p_in": "p_in", f"{soft}p_out": "p_out"}
    kept |= {"taken_for": "taken_for_name", "taken_for_share": "taken_for_share"}
    top = table.dropna(subset=score_column(score))[[*kept]].set_axis([*kept.values()], axis=1)
    top = top.sort_values(["memorization", "train_index"], ascending=[False, True]).head(_MOST)
    return top.assign(taken_for_name=top["taken_for_name"].map(dict(enumerate(class_names))))


def write_top(path: Path, table: pd.DataFrame, class_names: Sequence[str], *, score: str) -> None:
    """Write ``top_table`` as CSV, with the mark by which spreadsheets know UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(as_csv(top_table(table, class_names, score=score)), encoding="utf-8-sig")


def as_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV; a spreadsheet shows each text and runs none: an apostrophe stands before it."""
    texts = {name: table[name].map(_harmless, na_action="ignore") for name in ("class_name", "file", "taken_for_name")}
    return table.assign(**texts).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def _harmless(text: str) -> str:
    return _FORMULA.sub(r"\1'", text)
