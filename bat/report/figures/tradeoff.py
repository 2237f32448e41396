"""Figures of stage 3: accuracies of methods against one another."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bat.report.figures.style import GROUPS, STYLE, about_failures, attacks, error_bars, look, note
from bat.statistics import ROUNDING

# of the influence of the atypical training sample that influences a test sample most
_BINS = (-np.inf, 0.0, 0.05, 0.1, 0.15, 0.3, np.inf)
_BIN_NAMES = ("≤ 0", "0-0.05", "0.05-0.1", "0.1-0.15", "0.15-0.3", "> 0.3")


@matplotlib.rc_context(STYLE)
def tradeoff(
    summary: pd.DataFrame,
    bases: Mapping[str, str],
    *,
    tier: str,
    threat: str,
    confidence: float,
    failed: Collection[str] = (),
) -> Figure:
    """Draw clean against robust accuracy of each method after the last epoch, a panel a group of test samples.

    summary: as in evaluation/summary.parquet; bases: the methods to draw, each with the method that it is a variant
    of, itself if of none; tier names the attacks behind the robust accuracy. Variants have their base's colour and are
    joined to it; a thin line leads to the best epoch; the front joins the methods that no other beats in both means.
    Where a method has less than half of the highest robust accuracy, a second row is drawn without such methods.
    failed: runs whose training failed, which the title names and the front leaves out.
    """
    rows = summary[summary["method"].isin(bases)]
    robust = rows[(rows["metric"] == "robust") & (rows["checkpoint"] == "last") & (rows["group"] == "all")]
    accuracy = robust.set_index("method")["accuracy"]
    near = {method: base for method, base in bases.items() if accuracy[method] >= accuracy.max() / 2 - ROUNDING}
    drawn = [bases, near] if 1 < len(near) < len(bases) else [bases]
    figure = Figure(figsize=(9, 1.2 + 3 * len(drawn) + 0.16 * (-(-len(bases) // 5))), layout="constrained")
    for axes_row, methods in zip(figure.subplots(len(drawn), 3, squeeze=False), drawn, strict=True):
        for axes, group in zip(axes_row, GROUPS, strict=True):
            of_group = rows[(rows["group"] == group) & rows["method"].isin(methods)]
            if of_group.empty:
                axes.set_title(f"{group} (0 test samples)")
                note(axes, "no such test sample")
                continue
            _panel(axes, of_group, methods, list(bases), failed)
            axes.set_title(f"{group} ({of_group['samples'].iloc[0]} test samples)")
        axes_row[0].set_ylabel("clean accuracy")
    for axes in figure.axes[-3:]:
        axes.set_xlabel("robust accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    seeds = int(summary["seeds"].max())
    figure.suptitle(
        f"{threat}, robust under {attacks(tier)}. Last epoch, mean over {seeds} seeds with {confidence:.0%} "
        "intervals over seeds and samples.\nDotted: to the best epoch; thin lines: variants of one method; grey: the "
        "front of the means."
        + " Below: without methods that are hardly robust." * (len(drawn) > 1)
        + about_failures([method for method in bases if method in failed]),
        fontsize=9,
        wrap=True,
    )
    return figure


def _panel(
    axes: Axes, summary: pd.DataFrame, bases: Mapping[str, str], order: Sequence[str], failed: Collection[str]
) -> None:
    """Draw the methods of ``bases`` on one group of test samples; ``order``, of all methods, chooses their looks."""
    cells = _cells(summary)
    for method, base in bases.items():
        looks = look(order.index(method)) | {"color": look(order.index(base))["color"]}
        (x, y), (x_best, y_best), (x_base, y_base) = (
            [cells[name, checkpoint, metric] for metric in ("robust", "clean")]
            for name, checkpoint in ((method, "last"), (method, "best"), (base if base in bases else method, "last"))
        )
        error_bars(
            axes,
            x["accuracy"],
            y["accuracy"],
            x_range=(x["ci_low"], x["ci_high"]),
            y_range=(y["ci_low"], y["ci_high"]),
            **looks,
            markersize=6,
            elinewidth=0.5,
            linestyle="none",
            label=method,
            zorder=3,
        )
        thin = {"color": looks["color"], "linewidth": 0.8}
        axes.plot([x["accuracy"], x_best["accuracy"]], [y["accuracy"], y_best["accuracy"]], ":", **thin)
        axes.plot([x["accuracy"], x_base["accuracy"]], [y["accuracy"], y_base["accuracy"]], "-", **thin)
    last = summary[(summary["checkpoint"] == "last") & ~summary["method"].isin(failed)]
    if last.empty:
        return
    # rounded, so that of equal means none beats the other
    means = last.pivot(index="method", columns="metric", values="accuracy").round(9)
    front = means.sort_values(["robust", "clean"], ascending=False)
    front = front[front["clean"] > front["clean"].shift(fill_value=-1.0).cummax()]
    axes.step(front["robust"], front["clean"], where="pre", color="#999999", linewidth=1, zorder=1)


@matplotlib.rc_context(STYLE)
def influence(samples: pd.DataFrame, *, tier: str, threat: str) -> Figure:
    """Draw clean and robust accuracy against the strongest influence of an atypical training sample.

    samples: rows of evaluation/per_sample.parquet, of the last epoch.
    """
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    # rounded: a difference of shares that is the end of a bin must not fall into the next
    strongest = samples["max_influence"].astype(float).round(9)
    place = pd.cut(strongest, list(_BINS), labels=False)
    counts = strongest[~samples["test_index"].duplicated()]
    sizes = pd.cut(counts, list(_BINS), labels=False).value_counts()
    for axes, (metric, name) in zip(
        figure.subplots(1, 2, sharey=True),
        (("clean_correct", "clean accuracy"), ("robust_correct", "robust accuracy")),
        strict=True,
    ):
        for number, (method, rows) in enumerate(samples.groupby("method", sort=False)):
            by_seed = rows.groupby([place[rows.index], "seed"])[metric].mean().groupby(level=0)
            mean, low, high = by_seed.mean(), by_seed.min(), by_seed.max()
            shift = (number - (samples["method"].nunique() - 1) / 2) * 0.06
            looks = look(number) | {"markersize": 4, "linewidth": 1, "label": method}
            error_bars(axes, mean.index.to_numpy(float) + shift, mean, y_range=(low, high), **looks)
        axes.set_xticks(
            range(len(_BIN_NAMES)),
            [f"{bin}\nn = {sizes.get(number, 0)}" for number, bin in enumerate(_BIN_NAMES)],
            fontsize=7.5,
        )
        axes.set(title=name, ylim=(-0.03, 1.03), xlabel="strongest influence of an atypical training sample")
    figure.axes[0].set_ylabel("accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        f"{threat}, robust under {attacks(tier)}. Last epoch, mean over {samples['seed'].nunique()} seeds, bars: their "
        f"range.\n{int(counts.isna().sum())} test samples whose class has no atypical training sample are left out.",
        fontsize=9,
    )
    return figure


@matplotlib.rc_context(STYLE)
def overfitting(summary: pd.DataFrame, *, tier: str, threat: str, failed: Collection[str] = ()) -> Figure:
    """Draw accuracy at the best and the last epoch of each method: what training on costs.

    summary: as in evaluation/summary.parquet, rows of the methods to draw; failed: runs whose training failed.
    """
    rows = summary[summary["group"] == "all"]
    cells = _cells(rows)
    methods = list(summary["method"].unique())
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(methods)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, 2, sharey=True), ("clean", "robust"), strict=True):
        for number, method in enumerate(methods):
            best, last = (cells[method, checkpoint, metric] for checkpoint in ("best", "last"))
            axes.plot([best["accuracy"], last["accuracy"]], [number] * 2, color="#999999", linewidth=1.5, zorder=1)
            for cell, fill, label in ((best, "white", "best epoch"), (last, "black", "last epoch")):
                _dot(axes, cell, number, fill, label if number == 0 else None)
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        axes.set(xlabel=f"{metric} accuracy")
    figure.axes[0].invert_yaxis()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    facts = rows.iloc[0]
    figure.suptitle(
        f"{threat}, robust under {attacks(tier)}. {facts['samples']} test samples, mean over {facts['seeds']} seeds "
        "with intervals over both. Best: on validation samples."
        + about_failures([method for method in methods if method in failed]),
        fontsize=9,
        wrap=True,
    )
    return figure


def _cells(summary: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, float]]:
    """Return accuracy and interval by method, checkpoint and metric."""
    keys = ["method", "checkpoint", "metric"]
    cells: dict[tuple[str, str, str], dict[str, float]] = {}
    cells |= summary.set_index(keys)[["accuracy", "ci_low", "ci_high"]].to_dict("index")  # type: ignore[arg-type]
    return cells


def _dot(axes: Axes, cell: dict[str, float], place: float, fill: str, label: str | None) -> None:
    """Draw an accuracy with its interval, horizontally."""
    error_bars(
        axes,
        cell["accuracy"],
        place,
        x_range=(cell["ci_low"], cell["ci_high"]),
        color="black",
        marker="o",
        markersize=4,
        markerfacecolor=fill,
        elinewidth=0.6,
        label=label,
        linestyle="none",
    )
