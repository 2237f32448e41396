"""Figures of stage 2: accuracy and weights over epochs."""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bat.report.figures.style import STYLE, RunLook, baseline_of, headed, label_ends, looks, note, ordered
from bat.report.given import MOST, Given, threat_text


@matplotlib.rc_context(STYLE)
def curves(
    histories: pd.DataFrame, runs: pd.DataFrame, *, typical: int, atypical: int, attack: str, threat: str
) -> Figure:
    """Draw clean and PGD accuracy over epochs on typical and atypical samples, training and test.

    histories: rows of models/{method}/seed-{s}/history.parquet; runs: as in evaluation/runs.parquet; typical, atypical:
    numbers of test samples; attack and threat name the attack of the PGD accuracy. All panels are from 0 to 100 %.
    """
    look, height = looks(runs), 2.3
    methods = ordered(list(histories["method"].unique()), look)
    figure = Figure(figsize=(11, 2 * height + 1.6), layout="constrained")
    grid = figure.subplots(2, 4, sharex=True, sharey=True)
    counts = {"typical": typical, "atypical": atypical}
    title = "Accuracy over epochs"
    name = next((method for method in methods if method == baseline_of(runs)), methods[-1])
    last = histories[histories["method"] == name].sort_values("epoch").groupby("seed").tail(1)
    train, test = (100 * last[f"{split}_atypical_pgd_accuracy"].mean() for split in ("train", "test"))
    if pd.notna(train) and pd.notna(test):
        title = f"At the end {name} is right under {attack} on {train:.0f} % of atypical training samples, "
        title += f"on {test:.0f} % of atypical test samples"
    columns = [(split, group) for split in ("test", "train") for group in ("typical", "atypical")]
    for axes_row, (metric, name) in zip(grid, (("clean", "clean"), ("pgd", attack)), strict=True):
        for axes, (split, group) in zip(axes_row, columns, strict=True):
            ends = {}
            for number, method in enumerate(methods):
                # a line breaks at an epoch that was not measured
                column = f"{split}_{group}_{metric}_accuracy"
                rows = histories[histories["method"] == method].dropna(subset=column)
                by_epoch = (100 * rows.set_index("epoch")[column]).groupby(level=0)
                step = max(len(by_epoch) // 8, 1)
                mean = _mean_and_range(axes, by_epoch, look[method], marked=(number % step, step), label=method)
                if len(mean):
                    ends[method] = (float(mean.index[-1]), float(mean.iloc[-1]))
            if axes is axes_row[-1]:
                axes.set_ylim(-3, 103)
                shown = ends or dict.fromkeys(methods, (0.0, 50.0))
                label_ends(axes, shown, look, height=height)
            if split == "test" and not counts[group]:
                note(axes, "no such\ntest sample")
        axes_row[0].set_ylabel(f"{name} accuracy, %")
    for axes, (split, group) in zip(grid[0], columns, strict=True):
        axes.set_title(f"test, {group} (n = {counts[group]})" if split == "test" else f"training, {group}")
    for axes in grid[1]:
        axes.set_xlabel("epoch")
    headed(
        figure,
        title,
        f"Mean over {histories['seed'].nunique()} seeds, band: their range. {threat}, {attack}. At most 8 methods.",
    )
    return figure


@matplotlib.rc_context(STYLE)
def weights(samples: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Draw the weights that methods give to atypical training samples, over epochs.

    samples: rows of models/{method}/seed-{s}/samples.parquet; runs: as in evaluation/runs.parquet. The mean weight of
    all atypical samples, and the share of them with a weight under 1, that is, harmful in that epoch.
    """
    seeds, atypical = samples["seed"].nunique(), samples["train_index"].nunique()
    look, height = looks(runs), 2.6
    figure = Figure(figsize=(10, height + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    lowered = samples.assign(lowered=100.0 * (samples["weight"] < 1))
    methods = ordered(list(samples["method"].unique()), look)
    title = "Weights of atypical training samples"
    for axes, column in ((left, "weight"), (right, "lowered")):
        ends = {}
        for number, method in enumerate(methods):
            rows = lowered[lowered["method"] == method]
            by_seed = rows.groupby(["epoch", "seed"])[column].mean().groupby("epoch")
            marked = (number % 4, max(len(by_seed) // 6, 1))
            mean = _mean_and_range(axes, by_seed, look[method], marked=marked, label=method)
            ends[method] = (float(mean.index[-1]), float(mean.iloc[-1]))
            if look[method].main and column == "weight":
                title = f"{method} gives atypical samples a mean weight of {mean.iloc[-1]:.2f} in the last epoch"
        axes.set_ylim(axes.get_ylim())
        label_ends(axes, ends, look, height=height)
    left.set(xlabel="epoch", ylabel="mean weight in the loss")
    right.set(xlabel="epoch", ylabel="share with a weight under 1, %")
    if samples.empty:
        note(left, "no atypical training sample")
    headed(figure, title, f"{atypical} atypical training samples. Mean over {seeds} seeds, band: their range.")
    return figure


def _mean_and_range(
    axes: Axes, by_epoch: Any, look: RunLook, *, marked: tuple[int, int], label: str
) -> "pd.Series[float]":
    """Draw the means of an epoch's values as a line and their ranges as a band; return the means.

    by_epoch: values grouped by epoch; marked: the first point with a marker, and the step to the next.
    """
    mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
    axes.plot(
        mean,
        **look.curve(),
        marker=look.marker,
        markerfacecolor=look.fill,
        markersize=4,
        markevery=marked,
        label=label,
    )
    axes.fill_between(mean.index, low, high, color=look.color, alpha=0.2 if look.main else 0.08, linewidth=0)
    means: pd.Series[float] = mean
    return means


def draw_curves(given: Given) -> Figure:
    """Draw ``curves`` from the files of an experiment."""
    groups, spec = given.table("test_groups"), given.facts("history")["spec"]
    histories = given.table("history")
    return curves(
        histories[histories["method"].isin(given.runs("method")[:MOST])],
        given.table("runs"),
        atypical=int(groups["atypical"].sum()),
        typical=int((~groups["atypical"]).sum()),
        attack=f"PGD-{spec['attack']['steps']}",
        threat=threat_text(spec["threat"]),
    )


def draw_weights(given: Given) -> Figure:
    """Draw ``weights`` from the files of an experiment."""
    runs, samples = given.table("runs"), given.table("training_samples")
    weighted = runs.loc[runs["weighted"] & runs["removed"].isna(), "method"][:MOST]
    return weights(samples[samples["method"].isin(weighted)].reset_index(drop=True), runs)
