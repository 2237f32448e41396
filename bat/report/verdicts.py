"""What the tables say on the paper's questions, in one of three words, by rules that are fixed before the numbers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from bat.evaluation.comparison import GROUNDLESS, HIGHER, LOWER
from bat.statistics import ROUNDING

SHOWN, NOT_SHOWN, TOO_SMALL = "shown", "not shown", "too small to tell"
NOTHING = "nothing to test"
FEW_SEEDS = 3
"""An answer from fewer seeds says how many they are."""


class Verdict(NamedTuple):
    """An answer: the question, one of the three words (or what is shown instead), and the numbers behind it."""

    question: str
    answer: str
    evidence: str


def verdict_a(
    comparisons: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    base: str,
    robust_accuracy: float,
    margin: float,
    checkpoint: str = "last",
) -> list[Verdict]:
    """Say whether memorizing atypical samples raises accuracy on atypical test samples, clean and robust.

    comparisons, runs: as in evaluation/comparisons.parquet and runs.parquet; base: the method retrained;
    robust_accuracy: of it on atypical test samples: where that is less than the clean loss, the
    answer says that robustness had no more to lose.

    Of the runs without atypical or the most memorized samples, the one with the largest loss of clean accuracy is
    looked at: shown, if the loss is, both against training with all samples and against training without as many
    random ones (p-values are corrected for the number of runs). That robustness gains less is shown, if the interval
    of its loss lies below that of the clean one. Memorizing that also lowers robust accuracy is a trade. Runs that
    leave nothing out, or have no fair twin, are not looked at; where there is no other, there is nothing to test.
    """
    rows = _rows(comparisons, "removal", checkpoint, "atypical")
    clean = rows[(rows["metric"] == "clean") & (rows["baseline"] == base)]
    memorized = runs[(runs["role"] == "removal") & runs["removed"].isin(["atypical", "top"])].set_index("method")[
        "twin"
    ]
    clean = clean[clean["method"].isin(memorized.index)]
    questions = (
        "(a) memorizing atypical samples raises clean accuracy on atypical test samples",
        "(a) it raises their robust accuracy less",
    )
    if clean.empty:
        return [Verdict(question, f"{NOTHING}: no atypical test sample", "") for question in questions]
    cases = [(loss, _cell(rows, loss["method"], memorized[loss["method"]], "clean")) for _, loss in clean.iterrows()]
    cases.sort(key=lambda case: float(case[0]["difference"]))
    loss, twin = next((case for case in cases if not _groundless(case)), cases[0])
    robust = _cell(rows, loss["method"], base, "robust")
    numbers = [
        f"`{loss['method']}`: {_difference(loss)} against all, {_difference(twin)} against random",
        f"robust {_difference(robust)}, clean {_difference(loss)}",
    ]
    groundless = _groundless((loss, twin))
    if groundless:
        return [Verdict(question, groundless, text) for question, text in zip(questions, numbers, strict=True)]
    shown = loss["verdict"] == LOWER and twin["verdict"] == LOWER
    answer = _gain(["clean"] * shown, ["robust"] * bool(robust["verdict"] == HIGHER))
    first = answer or _no_gain(-loss["ci_low"], margin)
    less = bool(shown and robust["ci_low"] > loss["ci_high"] + ROUNDING)
    floor = f", but with all samples it is only {100 * robust_accuracy:.1f} %" * bool(
        robust_accuracy < -loss["difference"] - ROUNDING
    )
    second = SHOWN + floor if less else TOO_SMALL
    seeds = _seeds((loss, twin))
    return [
        Verdict(question, answer + seeds, text)
        for question, answer, text in zip(questions, (first, second), numbers, strict=True)
    ]


def verdict_b(
    comparisons: pd.DataFrame, runs: pd.DataFrame, *, base: str, margin: float, checkpoint: str = "last"
) -> Verdict:
    """Say whether leaving out the harmful samples raises accuracy on typical test samples, clean or robust.

    Shown, if one of the two is higher against training with all samples and against training without as many random
    ones, and the other is lower against neither; not shown, if against all a gain of ``margin`` or more is outside both
    intervals.
    """
    question = "(b) fitting harmful atypical samples hurts typical ones"
    case = runs[(runs["role"] == "removal") & (runs["removed"] == "harmful") & (runs["base"] == base)].iloc[0]
    name, twin = case["method"], case["twin"]
    rows = _rows(comparisons, "removal", checkpoint, "typical")
    rows = rows[rows["method"] == name]
    if rows.empty:
        return Verdict(question, f"{NOTHING}: no typical test sample", "")
    both = {metric: _cell(rows, name, base, metric) for metric in ("clean", "robust")}
    twins = {metric: _cell(rows, name, twin, metric) for metric in both}
    numbers = "; ".join(
        f"{metric} {_difference(cell)} against all, {_difference(twins[metric])} against random"
        for metric, cell in both.items()
    )
    cells = [*both.values(), *twins.values()]
    answer = _groundless(cells)
    if not answer:
        found = {metric: (both[metric]["verdict"], twins[metric]["verdict"]) for metric in both}
        gained = [metric for metric, verdicts in found.items() if set(verdicts) == {HIGHER}]
        lost = [metric for metric, verdicts in found.items() if LOWER in verdicts]
        highest = max(cell["ci_high"] for cell in both.values())
        answer = (_gain(gained, lost) or _no_gain(highest, margin)) + _seeds(cells)
    return Verdict(question, answer, f"`{name}`: {numbers}")


def better(
    comparisons: pd.DataFrame, question: str, method: str, baseline: str, *, checkpoint: str, margin: float
) -> Verdict:
    """Say whether a method has a better trade-off than its baseline, on all test samples, at its best or last epoch.

    Shown, if clean or robust accuracy is higher and neither is lower; not shown, if gains of ``margin`` or more are
    outside both intervals, or one is lower and none higher.
    """
    rows = _rows(comparisons, question, checkpoint, "all")
    cells = {metric: _cell(rows, method, baseline, metric) for metric in ("clean", "robust")}
    answer = _groundless(list(cells.values()))
    if not answer:
        gained, lost = (
            [metric for metric, cell in cells.items() if cell["verdict"] == verdict] for verdict in (HIGHER, LOWER)
        )
        lower = f"{NOT_SHOWN}: {_and(lost)} lower" * bool(lost)
        highest = max(cell["ci_high"] for cell in cells.values())
        answer = (_gain(gained, lost) or lower or _no_gain(highest, margin)) + _seeds(list(cells.values()))
    numbers = ", ".join(f"{metric} {_difference(cell)}" for metric, cell in cells.items())
    return Verdict(f"{checkpoint} epoch: `{method}` has a better trade-off than `{baseline}`", answer, numbers)


def _rows(comparisons: pd.DataFrame, question: str, checkpoint: str, group: str) -> pd.DataFrame:
    chosen = (comparisons["question"] == question) & (comparisons["checkpoint"] == checkpoint)
    return comparisons[chosen & (comparisons["group"] == group)]


def _cell(rows: pd.DataFrame, method: str, baseline: str, metric: str) -> "pd.Series[Any]":
    found = rows[(rows["method"] == method) & (rows["baseline"] == baseline) & (rows["metric"] == metric)]
    return found.iloc[0]


def _groundless(cells: Sequence["pd.Series[Any]"]) -> str:
    """Return why one of the comparisons says nothing, or an empty text."""
    return next((str(cell["verdict"]) for cell in cells if cell["verdict"] in GROUNDLESS), "")


def _gain(gained: Sequence[str], lost: Sequence[str]) -> str:
    """Return the words for accuracies that gained and lost, or an empty text where none gained."""
    if not gained:
        return ""
    return f"a trade: {_and(gained)} higher, {_and(lost)} lower" if lost else f"{SHOWN} ({_and(gained)})"


def _no_gain(highest: float, margin: float) -> str:
    """Return the words for a gain that was not shown and may be as high as ``highest``."""
    if highest >= margin - ROUNDING:
        return TOO_SMALL
    text = f"{100 * margin:g}"
    return f"{NOT_SHOWN}: gains of {text} point{'s' * (text != '1')} or more excluded"


def _seeds(cells: Sequence["pd.Series[Any]"]) -> str:
    """Return how many seeds are behind an answer, where they are few."""
    seeds = min(int(cell["seeds"]) for cell in cells)
    return f" (only {seeds} seed{'s' * (seeds > 1)})" if seeds < FEW_SEEDS else ""


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _difference(cell: "pd.Series[Any]") -> str:
    return points(cell["difference"], cell["ci_low"], cell["ci_high"])


def points(difference: float, low: float, high: float) -> str:
    """Return a difference of accuracies with its interval, in points; what rounds to 0 has no sign."""
    texts = [f"{100 * value:+z.1f}" for value in (difference, low, high)]
    value, *ends = ("0.0" if text == "+0.0" else text for text in texts)
    return f"{value} [{', '.join(ends)}]"
