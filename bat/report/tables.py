"""Tables for papers and pages: text from tables alone."""

import math
from collections.abc import Sequence

import pandas as pd
from tabulate import tabulate

from bat.evaluation.comparison import GROUNDLESS, HIGHER, LOWER
from bat.evaluation.summary import METRICS
from bat.report.verdicts import points

MARKDOWN, LATEX = "github", "latex_booktabs"

_METRICS = {"spearman": "Spearman", "auc": "AUC", "precision": "precision at n"}


def accuracy_table(summary: pd.DataFrame, runs: Sequence[str], *, form: str) -> str:
    """Return accuracies in percent with intervals, after the last epoch: one row per run and group of test samples.

    summary: as in evaluation/summary.parquet; form: ``MARKDOWN`` or ``LATEX``.
    """
    last = summary[summary["checkpoint"] == "last"]
    rows = []
    for run in runs:
        for group, cells in last[last["method"] == run].groupby("group", sort=False):
            by_metric = cells.set_index("metric")[["accuracy", "ci_low", "ci_high"]]
            found = [by_metric.loc[metric].to_numpy() for metric in METRICS]
            percent = [f"{mean:z.1f} [{low:z.1f}, {high:z.1f}]" for mean, low, high in (100 * cell for cell in found)]
            rows.append([run, f"{group} ({cells['samples'].iloc[0]})", *percent])
    headers = ["method", "test samples", "clean", "PGD", last["tier"].iloc[0]]
    return tabulate(rows, headers, tablefmt=form, disable_numparse=True)


def difference_table(comparisons: pd.DataFrame, question: str, checkpoint: str) -> str:
    """Return paired differences in points with intervals, at the best or last epoch: Markdown, one row per pair.

    A star marks those that comparisons (as in evaluation/comparisons.parquet) call higher or lower; where there is
    nothing to compare, the cell says so in place of a difference.
    """
    chosen = (comparisons["question"] == question) & (comparisons["checkpoint"] == checkpoint)
    columns = [(group, metric) for group in ("typical", "atypical") for metric in ("clean", "robust")]
    rows = []
    for (method, baseline), cells in comparisons[chosen].groupby(["method", "baseline"], sort=False):
        by_column = {(cell["group"], cell["metric"]): cell for _, cell in cells.iterrows()}
        row = [f"{method} - {baseline}"]
        for column in columns:
            cell = by_column.get(column)
            if cell is None:
                row.append("no sample")
            elif cell["verdict"] in GROUNDLESS:
                row.append(cell["verdict"])
            else:
                star = "*" if cell["verdict"] in (HIGHER, LOWER) else ""
                row.append(points(cell["difference"], cell["ci_low"], cell["ci_high"]) + star)
        rows.append(row)
    headers = ["compared", *(f"{group}, {metric}" for group, metric in columns)]
    return tabulate(rows, headers, tablefmt=MARKDOWN)


def agreement_table(agreement: pd.DataFrame) -> str:
    """Return how proxies agree with memorization, with intervals, as Markdown: one row per proxy.

    agreement: as in scores/proxy_agreement.parquet.
    """
    columns = agreement[["score", "metric"]].drop_duplicates()
    rows = []
    for proxy, cells in agreement.groupby("proxy", sort=False):
        by_column = cells.set_index(["score", "metric"])[["value", "ci_low", "ci_high"]]
        found = [by_column.loc[column].to_numpy() for column in columns.itertuples(index=False, name=None)]
        rows.append([proxy, *("{:z.2f} [{:z.2f}, {:z.2f}]".format(*cell) for cell in found)])
    headers = ["proxy", *(f"{score}, {_METRICS[metric]}" for score, metric in columns.itertuples(index=False))]
    return tabulate(rows, headers, tablefmt=MARKDOWN)


def training_table(histories: pd.DataFrame) -> str:
    """Return what runs were trained on and how well they fit it, in percent, as Markdown: one row per run.

    histories: rows of models/{run}/seed-{s}/history.parquet. Means over seeds; robust: under the attack of training.
    A group without samples has no accuracy.
    """
    rows = []
    for run, epochs in histories.groupby("method", sort=False):
        best, last = epochs[epochs["best"]], epochs.groupby("seed").tail(1)
        rows.append(
            [
                run,
                f"{epochs['trained_samples'].mean():.0f}",
                f"{best['epoch'].mean():.0f} of {last['epoch'].mean():.0f}",
                *(
                    ", ".join(_percent(each, f"{split}_all_pgd") for each in (best, last))
                    for split in ("train", "validation")
                ),
                *(
                    " / ".join(_percent(last, f"train_{group}_{metric}") for metric in ("clean", "pgd"))
                    for group in ("typical", "atypical")
                ),
            ]
        )
    headers = ["run", "trained on", "best epoch", "robust, training: best, last", "robust, validation: best, last"]
    headers += ["typical training, clean / robust", "atypical training, clean / robust"]
    return tabulate(rows, headers, tablefmt=MARKDOWN, disable_numparse=True)


def _percent(rows: pd.DataFrame, name: str) -> str:
    accuracy = rows[f"{name}_accuracy"].mean()
    return "no sample" if math.isnan(accuracy) else f"{100 * accuracy:z.1f}"
