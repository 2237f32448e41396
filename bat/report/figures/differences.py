"""Figures of paired differences: methods minus the baseline, and controls."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bat.evaluation.comparison import GROUNDLESS, HIGHER, LOWER
from bat.report.figures.style import PALE, STYLE, RunLook, attacks, error_bars, headed, looks, note, signed
from bat.report.given import Given

_PANELS = tuple((group, metric) for group in ("typical", "atypical") for metric in ("clean", "robust"))
_FAR = 4
"""Intervals that reach so many times as far from 0 as the middle one of their panels are told in numbers."""


@matplotlib.rc_context(STYLE)
def differences(comparisons: pd.DataFrame, runs: pd.DataFrame, *, threat: str, confidence: float) -> Figure:
    """Draw paired differences of methods and variants to the baseline, and further pairs, at the last and best epoch.

    comparisons, runs: as in evaluation/comparisons.parquet and runs.parquet. Runs that are controls, or leave samples
    out, have a figure of their own, ``controls``.
    """
    plain = set(runs.loc[runs["role"].isin(["method", "variant"]), "method"])
    rows = comparisons[comparisons["question"].isin(["methods", "pairs"])]
    rows = rows[rows["method"].isin(plain) & rows["baseline"].isin(plain)]
    of_methods = rows[rows["question"] == "methods"]
    baseline = of_methods["baseline"].iloc[0] if len(of_methods) else None
    names = {
        (method, other): method if other == baseline else f"{method} − {other}"
        for method, other in zip(rows["method"], rows["baseline"], strict=True)
    }
    title = f"What methods gain over {baseline}" if baseline else "Methods against one another"
    look = looks(runs)
    main = next((name for name, each in look.items() if each.main and each.family == "bat"), None)
    found = of_methods[
        (of_methods["method"] == main) & (of_methods["checkpoint"] == "last") & (of_methods["group"] == "all")
    ].set_index("metric")
    if len(found) and found["verdict"].iloc[0] not in GROUNDLESS:
        clean, robust = (100 * float(found["difference"][metric]) for metric in ("clean", "robust"))
        title = f"{main} minus {baseline}: clean {signed(clean)}, robust {signed(robust)} points on all test samples"
    return _figure(rows, names, look, title, threat=threat, confidence=confidence)


@matplotlib.rc_context(STYLE)
def controls(comparisons: pd.DataFrame, runs: pd.DataFrame, *, threat: str, confidence: float) -> Figure:
    """Draw paired differences of controls: BAT by scores that are none, training without samples and its random twins.

    comparisons, runs: as in ``differences``.
    """
    special = set(runs.loc[~runs["role"].isin(["method", "variant"]), "method"])
    rows = comparisons[comparisons["method"].isin(special) | comparisons["baseline"].isin(special)]
    known = runs.set_index("method")
    names = {
        (method, other): name_of_pair(known, method, other) if question == "removal" else f"{method} − {other}"
        for question, method, other in zip(rows["question"], rows["method"], rows["baseline"], strict=True)
    }
    title = "Controls: scores that are shuffled or others, and training without some samples"
    return _figure(rows, names, looks(runs), title, threat=threat, confidence=confidence)


def name_of_pair(runs: pd.DataFrame, method: str, baseline: str) -> str:
    """Say what two runs are trained without. runs: as in evaluation/runs.parquet, by method."""
    known = runs.loc[method]
    what = f"top {100 * known['fraction']:g} %" if known["removed"] == "top" else f"{known['removed']} samples"
    first = f"as many random as {what}" if known["role"] == "random" else what
    return f"without {first} − {'all samples' if runs['removed'].isna()[baseline] else 'as many random'}"


def pairs_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the compared pairs of rows of comparisons, each once, in their order."""
    return list(dict.fromkeys(zip(rows["method"], rows["baseline"], strict=True)))


def reach(rows: pd.DataFrame) -> float:
    """Return how far from 0 the axes of panels go that show ``rows``, in points."""
    ends = 100 * rows.loc[~rows["verdict"].isin(GROUNDLESS), ["ci_low", "ci_high"]].abs().max(axis=1)
    if ends.empty:
        return 1.0
    return 1.08 * float(max(min(ends.max(), _FAR * ends.median()), 0.5))


def difference_panel(
    axes: Axes,
    rows: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    *,
    looks: Mapping[str, RunLook],
    limit: float,
    checkpoints: Sequence[str] = ("last", "best"),
) -> None:
    """Draw differences of one group and metric, one pair per line, in points.

    rows: of comparisons; limit: as of ``reach``; what goes further is written as numbers. Filled: last epoch, hollow:
    best. Thick: the verdict says higher or lower. A pair of which nothing can be said has no point.
    """
    cells = rows.set_index(["method", "baseline", "checkpoint"])[["difference", "ci_low", "ci_high", "verdict"]]
    found = {key: dict(cell) for key, cell in cells.iterrows()}
    shift = 0.2 * (len(checkpoints) - 1)
    for place, (method, baseline) in enumerate(pairs):
        look = looks[method]
        for checkpoint in checkpoints:
            cell = found[method, baseline, checkpoint]
            if cell["verdict"] in GROUNDLESS:
                continue
            difference, low, high = (100 * float(cell[name]) for name in ("difference", "ci_low", "ci_high"))
            y = place + (shift if checkpoint == "best" else -shift)
            if max(abs(low), abs(high)) > limit:
                left = difference < 0
                text = f"{signed(difference)} [{signed(low)}, {signed(high)}]"
                axes.text(
                    -0.98 * limit if left else 0.98 * limit,
                    y,
                    f"◂ {text}" if left else f"{text} ▸",
                    ha="left" if left else "right",
                    va="center",
                    fontsize=6.5,
                    fontweight="bold" if cell["verdict"] in (HIGHER, LOWER) else None,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
                continue
            filled, significant = checkpoint == "last", cell["verdict"] in (HIGHER, LOWER)
            error_bars(
                axes,
                difference,
                y,
                x_range=(low, high),
                color=look.color,
                marker="o",
                markersize=6 if look.main else 4,
                markerfacecolor=look.color if filled else "white",
                elinewidth=2.4 if significant else 0.8,
                linestyle="none",
                zorder=3,
            )
    axes.axvline(color=PALE, linewidth=1, zorder=1)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    if not pairs:
        note(axes, "nothing compared")


def label_pairs(axes: Axes, rows: pd.DataFrame, names: Mapping[tuple[str, str], str]) -> None:
    """Name the lines of panels, and say of which pairs nothing can be said, and why."""
    verdicts = rows.groupby(["method", "baseline"])["verdict"].first()
    labels = []
    for pair in pairs_of(rows):
        verdict = str(verdicts[pair])
        labels.append(names[pair] + (f"\n{verdict}" if verdict in GROUNDLESS else ""))
    axes.set_yticks(range(len(labels)), labels, fontsize=7.5, parse_math=False)


def _figure(
    rows: pd.DataFrame,
    names: Mapping[tuple[str, str], str],
    looks: Mapping[str, RunLook],
    title: str,
    *,
    threat: str,
    confidence: float,
) -> Figure:
    """Draw a panel for each group and metric; those of one group have the same range."""
    pairs = pairs_of(rows)
    blocks = rows.groupby(["method", "baseline"], sort=False)["question"].first().factorize()[0]
    figure = Figure(figsize=(10.5, 1.6 + 0.27 * max(len(pairs), 2)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (group, metric) in zip(panels, _PANELS, strict=True):
        of_group = rows[(rows["group"] == group) & rows["metric"].isin(["clean", "robust"])]
        mine = of_group[of_group["metric"] == metric]
        samples = int(mine["samples"].iloc[0]) if len(mine) else 0
        axes.set_title(f"{group} (n = {samples}):\n{metric} accuracy")
        axes.set_xlabel("difference, points")
        if mine.empty:
            note(axes, f"no {group}\ntest sample" if pairs else "nothing compared")
            continue
        difference_panel(axes, mine, pairs, looks=looks, limit=reach(of_group))
        for place in np.flatnonzero(np.diff(blocks)):
            axes.axhline(place + 0.5, color=PALE, linewidth=0.8)
    label_pairs(panels[0], rows, names)
    panels[0].set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    facts = rows.iloc[0] if len(rows) else {"seeds": 0, "tier": "no attack"}
    headed(
        figure,
        title,
        f"Paired differences with {100 * confidence:g} % intervals over seeds and samples; {facts['seeds']} seeds. "
        f"Filled: last epoch; hollow: best. Thick: higher or lower after Holm's correction. {threat}, robust under "
        f"{attacks(str(facts['tier']))}. In numbers (◂, ▸): outside of the range.",
    )
    return figure


def draw_differences(given: Given) -> Figure:
    """Draw ``differences`` from the files of an experiment."""
    return differences(given.table("comparisons"), given.table("runs"), **given.about_comparisons())


def draw_controls(given: Given) -> Figure:
    """Draw ``controls`` from the files of an experiment."""
    return controls(given.table("comparisons"), given.table("runs"), **given.about_comparisons())
