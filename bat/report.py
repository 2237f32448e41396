"""Tables for papers, and the page of results: text from tables alone."""

from collections.abc import Mapping, Sequence

import pandas as pd
from tabulate import tabulate

from bat.evaluation import METRICS
from bat.verdicts import Verdict, points

MARKDOWN, LATEX = "github", "latex_booktabs"


def accuracy_table(summary: pd.DataFrame, runs: Sequence[str], *, form: str) -> str:
    """Return accuracies in percent with intervals, after the last epoch: a row a run and group of test samples.

    summary: as in evaluation/summary.parquet; form: ``MARKDOWN`` or ``LATEX``.
    """
    last = summary[summary["checkpoint"] == "last"]
    rows = []
    for run in runs:
        for group, cells in last[last["method"] == run].groupby("group", sort=False):
            by_metric = cells.set_index("metric")[["accuracy", "ci_low", "ci_high"]]
            found = [by_metric.loc[metric].to_numpy(dtype=float) for metric in METRICS]
            percent = [f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in (100 * cell for cell in found)]
            rows.append([run, f"{group} ({cells['samples'].iloc[0]})", *percent])
    headers = ["method", "test samples", "clean", "PGD", last["tier"].iloc[0]]
    return tabulate(rows, headers, tablefmt=form, disable_numparse=True)


def difference_table(comparisons: pd.DataFrame, question: str) -> str:
    """Return paired differences in points with intervals, after the last epoch, as Markdown: a row a pair of runs.

    A star marks those that comparisons (as in evaluation/comparisons.parquet) call higher or lower.
    """
    chosen = (comparisons["question"] == question) & (comparisons["checkpoint"] == "last")
    columns = [(group, metric) for group in ("typical", "atypical") for metric in ("clean", "robust")]
    rows = []
    for (method, baseline), cells in comparisons[chosen].groupby(["method", "baseline"], sort=False):
        by_column = {(cell["group"], cell["metric"]): cell for _, cell in cells.iterrows()}
        row = [f"{method} - {baseline}"]
        for column in columns:
            cell = by_column.get(column)
            if cell is None:
                row.append("no sample")
            else:
                star = "*" if cell["verdict"] in ("higher", "lower") else ""
                row.append(points(cell["difference"], cell["ci_low"], cell["ci_high"]) + star)
        rows.append(row)
    headers = ["compared", *(f"{group}, {metric}" for group, metric in columns)]
    return tabulate(rows, headers, tablefmt=MARKDOWN, disable_numparse=True)


def page(title: str, facts: Sequence[str], verdicts: Sequence[Verdict], parts: Mapping[str, str]) -> str:
    """Return the page of one experiment as Markdown. parts: further headings with their text."""
    answers = tabulate(verdicts, ["question", "answer", "evidence: differences in points"], tablefmt=MARKDOWN)
    sections = [f"## {title}", "\n".join(f"- {fact}" for fact in facts), answers]
    sections += [f"### {heading}\n\n{text}" for heading, text in parts.items()]
    return "\n\n".join(sections) + "\n"
