"""Tables to figures: each function takes DataFrames and returns a matplotlib Figure.

Methods differ in marker, line and lightness, so that figures can be read in grey.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bat.files import replacing

GROUPS = ("all", "typical", "atypical")
# from dark to light; the first four are Okabe and Ito's, safe for colour-blind readers
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "savefig.dpi": 200,
    # the same bytes at each run
    "svg.hashsalt": "bat",
    "pdf.fonttype": 42,
}


def save(figure: Figure, paths: Sequence[str]) -> None:
    """Write ``figure`` to each path; the ending chooses the format. The files hold no date."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(_STYLE):
        for path in paths:
            ending = Path(path).suffix
            with replacing(path) as temporary:
                figure.savefig(temporary, format=ending[1:], metadata=dates.get(ending))


@matplotlib.rc_context(_STYLE)
def memorization(table: pd.DataFrame, *, threshold: float, models: int) -> Figure:
    """Draw the histogram of memorization. table: as in scores/memorization.parquet; models: K, 0 for a file."""
    scores = table["memorization"].dropna()
    atypical = int(table["atypical"].sum())
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    low = np.floor(min(scores.min(), 0) * 20) / 20
    bins = np.arange(low, 1.0501, 0.05).tolist()
    axes.hist(scores[~table["atypical"]], bins, color="#BBBBBB", edgecolor="white", label="typical")
    axes.hist(scores[table["atypical"]], bins, color="black", edgecolor="white", label="atypical")
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axes.annotate(f" t = {threshold:g}", (threshold, 1), xycoords=("data", "axes fraction"), va="top")
    axes.set(
        yscale="log",
        ylim=(0.5, None),
        xlabel="memorization",
        ylabel="training samples",
        title=f"{len(scores)} training samples, {_behind(models)}: {atypical} atypical ({atypical / len(table):.1%})",
    )
    axes.legend()
    return figure


@matplotlib.rc_context(_STYLE)
def gallery(
    image: Callable[[int], NDArray[np.float32]],
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    class_names: Sequence[str],
    models: int,
    rows: int = 8,
    neighbours: int = 4,
) -> Figure:
    """Draw the most memorized training samples, each beside those of its class that influence it most.

    image: gives that of a row of ``table``, (c, h, w) in [0, 1]; table: as in scores/memorization.parquet; pairs: as in
    scores/train_influence.parquet; models: K behind both, 0 for scores from a file.
    """
    place = {index: row for row, index in enumerate(table["train_index"])}
    chosen = table.sort_values("memorization", ascending=False, kind="stable").head(rows)
    # two samples side by side, so that the figure fits a page
    lines, width = -(-len(chosen) // 2), 1 + neighbours
    figure = Figure(figsize=(2 * width, 1.4 * lines + 0.4))
    ratios = [1] * width + [0.4] + [1] * width
    spacing = {"width_ratios": ratios, "wspace": 0.25, "hspace": 0.6, "top": 1 - 0.8 / figure.get_figheight()}
    grid = figure.subplots(
        lines, 2 * width + 1, squeeze=False, gridspec_kw=spacing | {"left": 0.03, "right": 0.99, "bottom": 0.02}
    )
    for axes in grid.flat:
        axes.axis("off")
    for number, (_, sample) in enumerate(chosen.iterrows()):
        line, left = number // 2, (number % 2) * (width + 1)
        mine = pairs[pairs["influenced_index"] == sample["train_index"]]
        mine = mine.sort_values("influence", ascending=False, kind="stable").head(neighbours)
        first = grid[line, left]
        _image(first, image(place[sample["train_index"]]))
        known = np.isfinite(sample["ci_low"])
        interval = f"[{sample['ci_low']:.2f}, {sample['ci_high']:.2f}]" if known else "no interval"
        first.set_title(f"{sample['memorization']:.2f}\n{interval}", fontweight="bold", fontsize=7.5)
        name = class_names[sample["label"]]
        name = name if len(name) <= 16 else f"{name[:15]}…"
        turned = 90 if len(name) > 2 else 0  # the margin is narrow
        first.text(
            -0.1,
            0.5,
            name,
            transform=first.transAxes,
            ha="right",
            va="center",
            fontweight="bold",
            rotation=turned,
            parse_math=False,
        )
        for offset, (_, pair) in enumerate(mine.iterrows(), start=1):
            axes = grid[line, left + offset]
            _image(axes, image(place[pair["train_index"]]))
            star = "*" if pair["significant"] else ""
            axes.set_title(f"\n{pair['influence']:.2f} ± {pair['standard_error']:.2f}{star}", fontsize=7.5)
        if mine.empty:
            reason = "no influence\nover the threshold" if models else "no influence\nin the file"
            grid[line, left + 1].text(0, 0.5, reason, va="center", fontsize=8)
    figure.suptitle(
        f"Bold: the {len(chosen)} most memorized training samples: class, memorization, interval. Beside: samples\n"
        f"of its class that influence it most (± standard error; * significant). {_behind(models).capitalize()}.",
        fontsize=9,
    )
    return figure


@matplotlib.rc_context(_STYLE)
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
                colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
                for split, line in (("test", "-"), ("train", ":")):
                    column = f"{split}_{group}_{metric}_accuracy"
                    # a line breaks at an epoch that was not measured
                    by_epoch = rows.dropna(subset=column).groupby("epoch")[column]
                    mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
                    axes.plot(
                        mean.index,
                        mean,
                        line,
                        color=colour,
                        marker=marker,
                        markersize=4,
                        markevery=(number, max(len(mean) // 8, 1)),
                        label=f"{method}, {split}",
                    )
                    if split == "test":
                        axes.fill_between(mean.index, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_title(f"{group} ({counts[group]} test samples)")
            if not counts[group]:
                _note(axes, "no such test sample")
        axes_row[0].set_ylabel(name)
    for axes in grid[1]:
        axes.set_xlabel("epoch")
    grid[0, 0].set_ylim(-0.03, 1.03)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(handles) // 2, 1))
    figure.suptitle(f"Mean over {seeds} seeds, band: their range (test). {threat}, {attack}.", fontsize=9)
    return figure


@matplotlib.rc_context(_STYLE)
def tradeoff(summary: pd.DataFrame, by_seed: pd.DataFrame, *, tier: str, threat: str, confidence: float) -> Figure:
    """Draw clean against robust accuracy of each method, a panel a group of test samples.

    summary, by_seed: as in evaluation/*.parquet; tier names the attacks behind the robust accuracy.
    """
    figure = Figure(figsize=(9, 3.7), layout="constrained")
    seeds = int(summary["seeds"].max())
    for axes, group in zip(figure.subplots(1, 3), GROUPS, strict=True):
        rows = summary[summary["group"] == group]
        if rows.empty:
            axes.set_title(f"{group} (0 test samples)")
            _note(axes, "no such test sample")
            continue
        for number, method in enumerate(summary["method"].unique()):
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            for checkpoint, fill in (("best", colour), ("last", "white")):
                mine = rows[(rows["method"] == method) & (rows["checkpoint"] == checkpoint)].set_index("metric")
                x, y = mine.loc["robust"], mine.loc["clean"]
                axes.errorbar(
                    x["accuracy"],
                    y["accuracy"],
                    xerr=[[x["accuracy"] - x["ci_low"]], [x["ci_high"] - x["accuracy"]]],
                    yerr=[[y["accuracy"] - y["ci_low"]], [y["ci_high"] - y["accuracy"]]],
                    color=colour,
                    marker=marker,
                    markerfacecolor=fill,
                    markersize=7,
                    elinewidth=0.8,
                    linestyle="none",
                    label=f"{method}, {checkpoint}",
                    zorder=3,
                )
                points = by_seed[
                    (by_seed["method"] == method) & (by_seed["checkpoint"] == checkpoint) & (by_seed["group"] == group)
                ].pivot(index="seed", columns="metric", values="accuracy")
                axes.plot(
                    points["robust"], points["clean"], marker, color=colour, markersize=2.5, alpha=0.5, linestyle="none"
                )
        axes.set(xlabel=f"robust accuracy ({tier})", title=f"{group} ({rows['samples'].iloc[0]} test samples)")
    figure.axes[0].set_ylabel("clean accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(handles) // 2, 1))
    figure.suptitle(
        f"{threat}, robust under {tier}. Mean over {seeds} seeds, {confidence:.0%} intervals over seeds and samples. "
        "Small marks: single seeds.",
        fontsize=9,
    )
    return figure


def _behind(models: int) -> str:
    return f"{models} subset models" if models else "scores from a file"


def _image(axes: Axes, image: NDArray[np.float32]) -> None:
    grey = image.shape[0] == 1
    axes.imshow(image[0] if grey else image.transpose(1, 2, 0), cmap="gray_r" if grey else None, vmin=0, vmax=1)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")
