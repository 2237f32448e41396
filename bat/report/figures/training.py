"""Figures of stage 2: accuracy and weights over epochs."""

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from bat.report.figures.style import STYLE, look, note


@matplotlib.rc_context(STYLE)
def curves(histories: pd.DataFrame, *, typical: int, atypical: int, attack: str, threat: str) -> Figure:
    """Draw clean and PGD accuracy over epochs on typical and atypical samples, training and test.

    histories: rows of models/{method}/seed-{s}/history.parquet; typical, atypical: numbers of test samples; attack and
    threat name the attack of the PGD accuracy.
    """
    seeds = histories["seed"].nunique()
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    counts = {"typical": typical, "atypical": atypical}
    for axes_row, (metric, name) in zip(
        grid, (("clean", "clean accuracy"), ("pgd", f"{attack} accuracy")), strict=True
    ):
        for axes, group in zip(axes_row, ("typical", "atypical"), strict=True):
            for number, (method, rows) in enumerate(histories.groupby("method", sort=False)):
                looks = look(number)
                for split, line in (("test", "-"), ("train", ":")):
                    column = f"{split}_{group}_{metric}_accuracy"
                    # a line breaks at an epoch that was not measured
                    by_epoch = rows.dropna(subset=column).groupby("epoch")[column]
                    mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
                    axes.plot(
                        mean.index,
                        mean,
                        line,
                        **looks,
                        markersize=4,
                        markevery=(number, max(len(mean) // 8, 1)),
                        label=method if split == "test" else None,
                    )
                    if split == "test":
                        axes.fill_between(mean.index, low, high, color=looks["color"], alpha=0.15, linewidth=0)
            axes.set_title(f"{group} ({counts[group]} test samples)")
            if not counts[group]:
                note(axes, "no such test sample")
        axes_row[0].set_ylabel(name)
    for axes in grid[1]:
        axes.set_xlabel("epoch")
    grid[0, 0].set_ylim(-0.03, 1.03)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(
        f"Mean over {seeds} seeds. Lines: test samples, band: range over seeds; dotted: training samples. "
        f"{threat}, {attack}.",
        fontsize=9,
    )
    return figure


@matplotlib.rc_context(STYLE)
def weights(samples: pd.DataFrame) -> Figure:
    """Draw the weights that methods give to atypical training samples, over epochs.

    samples: rows of models/{method}/seed-{s}/samples.parquet. The mean weight of all atypical samples, and the share of
    them with a weight under 1, that is, harmful in that epoch.
    """
    seeds, atypical = samples["seed"].nunique(), samples["train_index"].nunique()
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    lowered = samples.assign(lowered=samples["weight"] < 1)
    for number, (method, rows) in enumerate(lowered.groupby("method", sort=False)):
        for axes, column in ((left, "weight"), (right, "lowered")):
            by_seed = rows.groupby(["epoch", "seed"])[column].mean().groupby("epoch")
            mean, low, high = by_seed.mean(), by_seed.min(), by_seed.max()
            every = (number % 4, max(len(mean) // 6, 1))
            axes.plot(mean.index, mean, **look(number), markersize=4, markevery=every, linewidth=1, label=method)
            axes.fill_between(mean.index, low, high, color=look(number)["color"], alpha=0.12, linewidth=0)
    left.set(xlabel="epoch", ylabel="mean weight in the loss")
    right.set(xlabel="epoch", ylabel="share with a weight under 1")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(max(len(handles), 1), 4))
    if samples.empty:
        note(left, "no atypical training sample")
    figure.suptitle(
        f"Weights of the {atypical} atypical training samples. Mean over {seeds} seeds, band: their range.", fontsize=9
    )
    return figure
