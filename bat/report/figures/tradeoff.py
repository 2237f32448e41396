"""Figures of stage 3: accuracies of methods beside one another."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bat.report.figures.style import (
    GREY,
    PALE,
    STYLE,
    about_failures,
    attacks,
    baseline_of,
    error_bars,
    headed,
    label_ends,
    looks,
    ordered,
)
from bat.report.given import MOST, Given, threat_text
from bat.statistics import ROUNDING

# of the influence of the atypical training sample that influences a test sample most
_BINS = (-np.inf, 0.0, 0.05, 0.1, 0.15, 0.3, np.inf)
_BIN_NAMES = ("≤ 0", "0-0.05", "0.05-0.1", "0.1-0.15", "0.15-0.3", "> 0.3")
ENOUGH = 10
"""Samples of a bin whose means a line may join."""

_METRICS = ("clean", "robust")


@matplotlib.rc_context(STYLE)
def tradeoff(
    summary: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    tier: str,
    threat: str,
    confidence: float,
    failed: Collection[str] = (),
) -> Figure:
    """Draw clean against robust accuracy of methods and variants on all test samples, after the last epoch.

    summary, runs: as in evaluation/summary.parquet and runs.parquet; tier names the attacks behind the robust
    accuracy. Variants are joined to their base; the front joins the methods that no other beats in both means. Methods
    with less than half of the highest clean or robust accuracy are told in the caption, so that the others can be told
    apart. failed: runs whose training failed, which the front leaves out.
    """
    table, look = _percent(_last(summary)), looks(runs)
    bases = _methods(runs).set_index("method")["base"]
    cells = _cells(table[table["group"] == "all"])
    near, far = _near({name: [cells[name, "last", metric] for metric in _METRICS] for name in bases.index})
    height = max(3.2, 0.15 * len(near))
    figure = Figure(figsize=(7.5, height + 1.3), layout="constrained")
    axes = figure.add_subplot()
    points = {
        name: (cells[name, "last", "robust"]["accuracy"], cells[name, "last", "clean"]["accuracy"]) for name in near
    }
    for name in ordered(near, look):
        x, y = (cells[name, "last", metric] for metric in ("robust", "clean"))
        error_bars(
            axes,
            x["accuracy"],
            y["accuracy"],
            x_range=(x["ci_low"], x["ci_high"]),
            y_range=(y["ci_low"], y["ci_high"]),
            **look[name].point() | {"ecolor": (look[name].color, 0.9 if look[name].main else 0.5)},
            label=name,
        )
        base = bases[name]
        if base != name and base in points:
            axes.plot(*zip(points[base], points[name], strict=True), color=look[name].color, linewidth=0.8, zorder=2)
    # rounded, so that of equal means none beats the other
    means = pd.DataFrame(
        {name: np.round(points[name], 7) for name in near if name not in failed}, ["robust", "clean"]
    ).T
    if len(means):
        front = means.sort_values(["robust", "clean"], ascending=False)
        front = front[front["clean"] > front["clean"].shift(fill_value=-1.0).cummax()]
        axes.step(front["robust"], front["clean"], where="pre", color=GREY, linewidth=1.5, zorder=1)
    axes.set(xlabel="robust accuracy, %", ylabel="clean accuracy, %")
    axes.set_xlim(_around([cells[name, "last", "robust"] for name in near]))
    axes.set_ylim(_around([cells[name, "last", "clean"] for name in near]))
    label_ends(axes, points, look, height=height)
    robust, clean = (
        max(near, key=lambda name: cells[name, "last", metric]["accuracy"]) for metric in ("robust", "clean")
    )
    facts = table.iloc[0]
    headed(
        figure,
        f"Highest means: robust {robust}, {cells[robust, 'last', 'robust']['accuracy']:.1f} %; "
        f"clean {clean}, {cells[clean, 'last', 'clean']['accuracy']:.1f} %",
        f"{_facts(facts, tier=tier, threat=threat, confidence=confidence, samples=_samples(table, 'all'))} Last epoch. "
        "Grey steps: no other method is better in both means."
        + _elsewhere(far, cells)
        + about_failures([name for name in bases.index if name in failed]),
    )
    return figure


@matplotlib.rc_context(STYLE)
def typical_atypical(
    summary: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    tier: str,
    threat: str,
    confidence: float,
    failed: Collection[str] = (),
) -> Figure:
    """Draw clean and robust accuracy of methods on typical and atypical test samples, after the last epoch.

    summary, runs, failed: as in ``tradeoff``. All panels are from 0 to 100 %.
    """
    table, look = _percent(_last(summary)), looks(runs)
    methods = list(_methods(runs)["method"])
    sizes = {group: _samples(table, group) for group in ("typical", "atypical")}
    figure = Figure(figsize=(8, 1.7 + 0.23 * len(methods)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), _METRICS, strict=True):
        for group, filled in (("typical", True), ("atypical", False)):
            cells = _cells(table[table["group"] == group])
            for place, name in enumerate(methods):
                if (name, "last", metric) in cells:
                    _dot(axes, cells[name, "last", metric], place, look[name].color, filled, main=look[name].main)
        _rows(axes, methods)
        axes.set(xlabel=f"{metric} accuracy, %", xlim=(-2, 102))
        axes.set_title(f"● typical (n = {sizes['typical']})     ○ atypical (n = {sizes['atypical']})", fontsize=8)
    title = "Accuracy on typical and atypical test samples"
    name = baseline_of(runs) or methods[0]
    found = {
        group: _cells(table[table["group"] == group]).get((name, "last", "robust")) for group in ("typical", "atypical")
    }
    if all(found.values()):
        told = ", ".join(f"{cell['accuracy']:.1f} % on {group}" for group, cell in found.items() if cell)
        title = f"{name}: robust accuracy {told} test samples"
    headed(
        figure,
        title,
        f"{_facts(table.iloc[0], tier=tier, threat=threat, confidence=confidence)} Last epoch."
        + about_failures([name for name in methods if name in failed]),
    )
    return figure


@matplotlib.rc_context(STYLE)
def influence(samples: pd.DataFrame, runs: pd.DataFrame, *, tier: str, threat: str) -> Figure:
    """Draw clean and robust accuracy against the strongest influence of an atypical training sample.

    samples: rows of evaluation/per_sample.parquet, of the last epoch; runs: as in evaluation/runs.parquet. Lines join
    neighbouring bins of ``ENOUGH`` samples or more.
    """
    look, height = looks(runs), 3.0
    figure = Figure(figsize=(9, height + 1.5), layout="constrained")
    # rounded: a difference of shares that is the end of a bin must not fall into the next
    strongest = samples["max_influence"].astype(float).round(9)
    place = pd.cut(strongest, list(_BINS), labels=False)
    counts = strongest[~samples["test_index"].duplicated()]
    sizes = pd.cut(counts, list(_BINS), labels=False).value_counts().reindex(range(len(_BIN_NAMES)), fill_value=0)
    methods = list(samples["method"].unique())
    told = ""
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), _METRICS, strict=True):
        ends = {}
        for number, name in enumerate(ordered(methods, look)):
            rows = samples[samples["method"] == name]
            by_seed = (100 * rows.groupby([place[rows.index], "seed"])[f"{metric}_correct"].mean()).groupby(level=0)
            mean, low, high = by_seed.mean(), by_seed.min(), by_seed.max()
            x = mean.index.to_numpy(float) + (number - (len(methods) - 1) / 2) * 0.08
            error_bars(axes, x, mean, y_range=(low, high), **look[name].point(), label=name)
            for left in range(len(mean) - 1):
                bins = mean.index[left : left + 2]
                if bins[1] - bins[0] == 1 and (sizes[bins] >= ENOUGH).all():
                    axes.plot(x[left : left + 2], mean.iloc[left : left + 2], **look[name].curve())
            if len(mean):
                ends[name] = (float(x[-1]), float(mean.iloc[-1]))
            many = mean[sizes[mean.index].to_numpy() >= ENOUGH]
            if metric == "robust" and look[name].main and not told and len(many) > 1:
                told = f"{name}: robust on {many.iloc[0]:.0f} % of the least influenced test samples, "
                told += f"on {many.iloc[-1]:.0f} % of the most"
        axes.set_xticks(
            range(len(_BIN_NAMES)),
            [f"{name}\nn = {sizes[number]}" for number, name in enumerate(_BIN_NAMES)],
            fontsize=6.5,
        )
        axes.set(
            title=f"{metric} accuracy, %",
            ylim=(-3, 103),
            xlim=(-0.6, len(_BIN_NAMES) - 0.4),
            xlabel="strongest influence of an atypical training sample",
        )
        if metric == "robust":
            label_ends(axes, ends, look, height=height)
    headed(
        figure,
        told or "Accuracy by the influence of atypical training samples",
        f"{threat}, robust under {attacks(tier)}. Last epoch, mean over {samples['seed'].nunique()} seeds, bars: range "
        f"of the seeds. Lines join bins of {ENOUGH} samples or more. Left out: {int(counts.isna().sum())} test samples "
        "whose class has no atypical training sample.",
    )
    return figure


@matplotlib.rc_context(STYLE)
def overfitting(
    summary: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    tier: str,
    threat: str,
    confidence: float,
    failed: Collection[str] = (),
) -> Figure:
    """Draw accuracy on all test samples at the best and the last epoch of each method: what training on costs.

    summary, runs, failed: as in ``tradeoff``. Both panels span as many points.
    """
    table, look = _percent(summary[summary["group"] == "all"]), looks(runs)
    cells = _cells(table)
    methods = list(_methods(runs)["method"])
    both = {name: [cells[name, "last", metric] for metric in _METRICS] for name in methods}
    near, far = _near(both)
    figure = Figure(figsize=(8, 1.6 + 0.23 * len(near)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, _METRICS, strict=True):
        for place, name in enumerate(near):
            best, last = (cells[name, checkpoint, metric] for checkpoint in ("best", "last"))
            ends = [best["accuracy"], last["accuracy"]]
            axes.plot(ends, [place - 0.12, place + 0.12], color=PALE, linewidth=2, zorder=1)
            _dot(axes, best, place - 0.12, look[name].color, False, main=look[name].main)
            _dot(axes, last, place + 0.12, look[name].color, True, main=look[name].main)
        _rows(axes, near)
        axes.set(xlabel=f"{metric} accuracy, %")
        axes.set_xlim(_around([cells[name, epoch, metric] for name in near for epoch in ("best", "last")]))
    span = max(axes.get_xlim()[1] - axes.get_xlim()[0] for axes in panels)
    for axes in panels:
        high = min(sum(axes.get_xlim()) / 2 + span / 2, max(101.0, axes.get_xlim()[1]))
        axes.set_xlim(high - span, high)
    name = next((method for method in methods if method == baseline_of(runs)), methods[0])
    lost = cells[name, "best", "robust"]["accuracy"] - cells[name, "last", "robust"]["accuracy"]
    headed(
        figure,
        f"From its best to its last epoch {name} {'loses' if lost >= 0 else 'gains'} {abs(lost):.1f} points of robust "
        "accuracy",
        "Hollow: best epoch, chosen on validation samples; filled: last epoch. "
        f"{_facts(table.iloc[0], tier=tier, threat=threat, confidence=confidence, samples=_samples(table, 'all'))}"
        + _elsewhere(far, cells)
        + about_failures([method for method in methods if method in failed]),
    )
    return figure


def _methods(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["role"].isin(["method", "variant"])]


def _last(summary: pd.DataFrame) -> pd.DataFrame:
    return summary[summary["checkpoint"] == "last"]


def _percent(summary: pd.DataFrame) -> pd.DataFrame:
    return summary.assign(**{name: 100 * summary[name] for name in ("accuracy", "ci_low", "ci_high")})


def _cells(summary: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return accuracy and interval by method, checkpoint and metric."""
    keys = ["method", "checkpoint", "metric"]
    return summary.set_index(keys)[["accuracy", "ci_low", "ci_high"]].to_dict("index")  # type: ignore[return-value]


def _samples(table: pd.DataFrame, group: str) -> int:
    return int(table.loc[table["group"] == group, "samples"].max()) if (table["group"] == group).any() else 0


def _near(found: Mapping[str, Sequence[dict[str, float]]]) -> tuple[list[str], list[str]]:
    """Divide methods by whether each of their accuracies is at least half of the highest; few others squeeze these."""
    highest = [max(cell["accuracy"] for cell in column) for column in zip(*found.values(), strict=True)]
    near = [
        name
        for name, cells in found.items()
        if all(cell["accuracy"] >= top / 2 - ROUNDING for cell, top in zip(cells, highest, strict=True))
    ]
    if not near:
        return list(found), []
    return near, [name for name in found if name not in near]


def _elsewhere(far: Collection[str], cells: Mapping[tuple[str, str, str], dict[str, float]]) -> str:
    """Tell in words what lies too far from the others to be drawn with them."""
    if not far:
        return ""
    told = [
        f"{name} (clean {_interval(cells[name, 'last', 'clean'])}, robust {_interval(cells[name, 'last', 'robust'])})"
        for name in far
    ]
    return f" Too far to be drawn: {'; '.join(told)}."


def _interval(cell: Mapping[str, float]) -> str:
    return f"{cell['accuracy']:z.1f} [{cell['ci_low']:z.1f}, {cell['ci_high']:z.1f}]"


def _facts(facts: "pd.Series[Any]", *, tier: str, threat: str, confidence: float, samples: int | None = None) -> str:
    counted = "Mean" if samples is None else f"{samples} test samples, mean"
    return (
        f"{threat}, robust under {attacks(tier)}. {counted} over {facts['seeds']} seeds, "
        f"{100 * confidence:g} % intervals over seeds and samples."
    )


def _around(cells: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return limits of an axis that hold every interval."""
    low = min(min(cell["ci_low"], cell["accuracy"]) for cell in cells)
    high = max(max(cell["ci_high"], cell["accuracy"]) for cell in cells)
    margin = max(0.06 * (high - low), 0.5)
    return low - margin, high + margin


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _dot(axes: Axes, cell: Mapping[str, float], place: float, color: str, filled: bool, *, main: bool) -> None:
    """Draw an accuracy with its interval, horizontally."""
    error_bars(
        axes,
        cell["accuracy"],
        place,
        x_range=(cell["ci_low"], cell["ci_high"]),
        color=color,
        marker="o",
        markersize=6 if main else 4,
        markerfacecolor=color if filled else "white",
        elinewidth=1.4 if main else 0.8,
        linestyle="none",
        zorder=4 if main else 3,
    )


def draw_tradeoff(given: Given) -> Figure:
    """Draw ``tradeoff`` from the files of an experiment."""
    return tradeoff(given.table("summary"), given.table("runs"), **given.about_summary())


def draw_typical_atypical(given: Given) -> Figure:
    """Draw ``typical_atypical`` from the files of an experiment."""
    return typical_atypical(given.table("summary"), given.table("runs"), **given.about_summary())


def draw_overfitting(given: Given) -> Figure:
    """Draw ``overfitting`` from the files of an experiment."""
    return overfitting(given.table("summary"), given.table("runs"), **given.about_summary())


def draw_influence(given: Given) -> Figure:
    """Draw ``influence`` from the files of an experiment."""
    samples = given.table("per_sample")
    chosen = (samples["checkpoint"] == "last") & samples["method"].isin(given.runs("method")[:MOST])
    return influence(
        samples[chosen].reset_index(drop=True),
        given.table("runs"),
        tier=samples["tier"].iloc[0],
        threat=threat_text(given.facts("per_sample")["spec"]["threat"]),
    )
