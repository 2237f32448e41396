"""What the tables say on the paper's questions, in one of three words, by rules that are fixed before the numbers."""

from typing import Any, NamedTuple

import pandas as pd

from bat.comparison import HIGHER, LOWER

SHOWN, NOT_SHOWN, TOO_SMALL = "shown", "not shown", "too small to tell"


class Verdict(NamedTuple):
    """An answer: the question, one of the three words (or what is shown instead), and the numbers behind it."""

    question: str
    answer: str
    evidence: str


def finding_a(comparisons: pd.DataFrame, *, base: str, robust_accuracy: float, margin: float) -> list[Verdict]:
    """Say whether memorizing atypical samples raises accuracy on atypical test samples, clean and robust.

    comparisons: as in evaluation/comparisons.parquet; base: the method retrained; robust_accuracy: of it on atypical
    test samples: where that is less than the clean loss, the answer says that robustness had no more to lose.

    Of the runs without atypical or the most memorized samples, the one with the largest loss of clean accuracy is
    looked at: shown, if the loss is, both against training with all samples and against training without as many
    random ones (p-values are corrected for the number of runs). That robustness gains less is shown, if the interval
    of its loss lies below that of the clean one.
    """
    rows = _rows(comparisons, "removal", "last", "atypical")
    clean = rows[(rows["metric"] == "clean") & (rows["baseline"] == base)]
    clean = clean[clean["method"].str.match(f"{base}_without_(?:atypical|top_)")]
    questions = (
        "(a) memorizing atypical samples raises clean accuracy on atypical test samples",
        "(a) it raises their robust accuracy less",
    )
    if clean.empty:
        return [Verdict(question, TOO_SMALL, "no atypical test sample, or no retraining") for question in questions]
    loss = clean.sort_values("difference", kind="stable").iloc[0]
    twin = _cell(rows, loss["method"], loss["method"].replace("_without_", "_without_random_"), "clean")
    robust = _cell(rows, loss["method"], base, "robust")
    shown = loss["verdict"] == LOWER and twin["verdict"] == LOWER
    numbers = f"`{loss['method']}`: {_difference(loss)} against all, {_difference(twin)} against random"
    first = Verdict(questions[0], SHOWN if shown else _no_gain(-loss["ci_low"], margin), numbers)
    less = bool(shown and robust["ci_low"] > loss["ci_high"])
    numbers = f"robust {_difference(robust)}, clean {_difference(loss)}"
    floor = f", but with all samples it is only {100 * robust_accuracy:.1f} %" * bool(
        robust_accuracy < -loss["difference"]
    )
    return [first, Verdict(questions[1], SHOWN + floor if less else TOO_SMALL, numbers)]


def finding_b(comparisons: pd.DataFrame, *, base: str, margin: float) -> Verdict:
    """Say whether leaving out the harmful samples raises accuracy on typical test samples, clean or robust.

    Shown, if one of the two is higher against training with all samples and against training without as many random
    ones; not shown, if against all a gain of ``margin`` or more is outside both intervals.
    """
    question = "(b) fitting harmful atypical samples hurts typical ones"
    name = f"{base}_without_harmful"
    rows = _rows(comparisons, "removal", "last", "typical")
    rows = rows[rows["method"] == name]
    if rows.empty:
        return Verdict(question, TOO_SMALL, "no typical test sample, or no retraining")
    both = {metric: _cell(rows, name, base, metric) for metric in ("clean", "robust")}
    twins = {metric: _cell(rows, name, f"{base}_without_random_harmful", metric) for metric in both}
    shown = any(both[metric]["verdict"] == twins[metric]["verdict"] == HIGHER for metric in both)
    numbers = "; ".join(
        f"{metric} {_difference(cell)} against all, {_difference(twins[metric])} against random"
        for metric, cell in both.items()
    )
    highest = max(cell["ci_high"] for cell in both.values())
    return Verdict(question, SHOWN if shown else _no_gain(highest, margin), f"`{name}`: {numbers}")


def better(
    comparisons: pd.DataFrame, question: str, method: str, baseline: str, *, checkpoint: str, margin: float
) -> Verdict:
    """Say whether a method has a better trade-off than its baseline, on all test samples, at its best or last epoch.

    Shown, if clean or robust accuracy is higher and neither is lower; not shown, if gains of ``margin`` or more are
    outside both intervals, or one is lower and none higher.
    """
    rows = _rows(comparisons, question, checkpoint, "all")
    cells = [_cell(rows, method, baseline, metric) for metric in ("clean", "robust")]
    found = {cell["verdict"] for cell in cells}
    if HIGHER in found and LOWER in found:
        answer = "a trade: one accuracy higher, the other lower"
    elif HIGHER in found:
        answer = SHOWN
    elif LOWER in found:
        answer = "not shown: lower"
    else:
        answer = _no_gain(max(cell["ci_high"] for cell in cells), margin)
    numbers = ", ".join(f"{name} {_difference(cell)}" for name, cell in zip(("clean", "robust"), cells, strict=True))
    return Verdict(f"{checkpoint} epoch: `{method}` has a better trade-off than `{baseline}`", answer, numbers)


def _rows(comparisons: pd.DataFrame, question: str, checkpoint: str, group: str) -> pd.DataFrame:
    chosen = (comparisons["question"] == question) & (comparisons["checkpoint"] == checkpoint)
    return comparisons[chosen & (comparisons["group"] == group)]


def _cell(rows: pd.DataFrame, method: str, baseline: str, metric: str) -> "pd.Series[Any]":
    found = rows[(rows["method"] == method) & (rows["baseline"] == baseline) & (rows["metric"] == metric)]
    return found.iloc[0]


def _no_gain(highest: float, margin: float) -> str:
    """Return the word for a gain that was not shown and may be as high as ``highest``."""
    return f"{NOT_SHOWN}: {100 * margin:g} points or more excluded" if highest < margin else TOO_SMALL


def _difference(cell: "pd.Series[Any]") -> str:
    return points(cell["difference"], cell["ci_low"], cell["ci_high"])


def points(difference: float, low: float, high: float) -> str:
    """Return a difference of accuracies with its interval, in points."""
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
