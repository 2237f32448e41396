"""Figures of stage 1: memorization, and the images behind it."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bat.report.figures.style import STYLE, note, show
from bat.statistics import ROUNDING


@matplotlib.rc_context(STYLE)
def memorization(table: pd.DataFrame, *, threshold: float, models: int) -> Figure:
    """Draw the histogram of memorization. table: as in scores/memorization.parquet; models: K, 0 for a file."""
    scored = table[table["memorization"].notna()]
    scores, atypical = scored["memorization"], int(table["atypical"].sum())
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot()
    # bins of 0.05 from the threshold on, a little above it, so that no bar is of both typical and atypical samples
    low, high = (scores.min(), scores.max()) if len(scored) else (0.0, 1.0)
    first, last = np.floor((min(low, 0) - threshold) / 0.05), np.ceil((max(high, 1) - threshold) / 0.05)
    bins = (threshold + ROUNDING + 0.05 * np.arange(first, last + 1)).tolist()
    bins[0] = min(bins[0], low)
    for kind, colour in (("typical", "#BBBBBB"), ("atypical", "black")):
        chosen = scores[scored["atypical"] == (kind == "atypical")]
        axes.hist(chosen, bins, color=colour, edgecolor="white", label=kind)
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axes.annotate(f" t = {threshold:g}", (threshold, 1), xycoords=("data", "axes fraction"), va="top")
    if scored.empty:
        note(axes, "no training sample has a score")
    axes.set(
        yscale="linear" if scored.empty else "log",
        ylim=(0.5, None),
        xlabel="memorization",
        ylabel="training samples",
        title=f"{len(scores)} training samples, {_behind(models)}: {atypical} atypical ({atypical / len(table):.1%})",
    )
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
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
    scored = table[table["memorization"].notna()]
    chosen = scored.sort_values("memorization", ascending=False, kind="stable").head(rows)
    # two samples side by side, so that the figure fits a page
    lines, width = max(-(-len(chosen) // 2), 1), 1 + neighbours
    figure = Figure(figsize=(2 * width, 1.4 * lines + 0.4))
    ratios = [1] * width + [0.4] + [1] * width
    spacing = {"width_ratios": ratios, "wspace": 0.25, "hspace": 0.6, "top": 1 - 0.8 / figure.get_figheight()}
    grid = figure.subplots(
        lines, 2 * width + 1, squeeze=False, gridspec_kw=spacing | {"left": 0.03, "right": 0.99, "bottom": 0.02}
    )
    for axes in grid.flat:
        axes.axis("off")
    if chosen.empty:
        grid[0, 0].text(0, 0.5, "no training sample has a score", va="center", fontsize=8)
    for number, (_, sample) in enumerate(chosen.iterrows()):
        line, left = number // 2, (number % 2) * (width + 1)
        mine = pairs[pairs["influenced_index"] == sample["train_index"]]
        mine = mine.sort_values("influence", ascending=False, kind="stable").head(neighbours)
        first = grid[line, left]
        show(first, image(place[sample["train_index"]]))
        known = np.isfinite(sample["ci_low"])
        interval = f"[{sample['ci_low']:z.2f}, {sample['ci_high']:z.2f}]" if known else "no interval"
        first.set_title(f"{sample['memorization']:z.2f}\n{interval}", fontweight="bold", fontsize=7.5)
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
            show(axes, image(place[pair["train_index"]]))
            star = "*" if pair["significant"] else ""
            error = f" ± {pair['standard_error']:z.2f}" if np.isfinite(pair["standard_error"]) else ""
            axes.set_title(f"\n{pair['influence']:z.2f}{error}{star}", fontsize=7.5)
        if mine.empty:
            reason = "no influence\nover the threshold" if models else "no influence\nin the file"
            grid[line, left + 1].text(0, 0.5, reason, va="center", fontsize=8)
    figure.suptitle(
        f"Bold: the {len(chosen)} most memorized training samples: class, memorization, interval. Beside: samples\n"
        f"of its class that influence it most (± standard error; * significant). {_behind(models).capitalize()}.",
        fontsize=9,
    )
    return figure


@matplotlib.rc_context(STYLE)
def harmful_gallery(
    image: Callable[[int], NDArray[np.float32]], table: pd.DataFrame, *, class_names: Sequence[str], most: int = 16
) -> Figure:
    """Draw the most harmful and the most benign atypical training samples.

    image: gives that of a training sample's index, (c, h, w) in [0, 1]; table: as in scores/harmful.parquet.
    """
    parts = {
        "harmful": table[table["harmful"]].sort_values("wrong_probability", ascending=False, kind="stable"),
        "benign": table[~table["harmful"]].sort_values("wrong_probability", kind="stable"),
    }
    figure = Figure(figsize=(9, 5.6))
    halves: Any = figure.subfigures(2, 1)
    for half, (kind, rows) in zip(halves, parts.items(), strict=True):
        half.suptitle(
            f"{len(rows)} of {len(table)} atypical training samples are {kind}: the first {min(len(rows), most)}, with "
            "class, memorization and mean wrong probability under attack",
            fontsize=9,
        )
        for axes in half.subplots(2, most // 2, gridspec_kw={"top": 0.8, "bottom": 0.02, "hspace": 0.45}).flat:
            axes.axis("off")
        for axes, (_, sample) in zip(half.axes, rows.head(most).iterrows(), strict=False):
            show(axes, image(sample["train_index"]))
            name = class_names[sample["label"]][:12]
            title = f"{name}\n{sample['memorization']:z.2f}, {sample['wrong_probability']:z.2f}"
            axes.set_title(title, fontsize=7.5, parse_math=False)
    return figure


def _behind(models: int) -> str:
    return f"{models} subset models" if models else "scores from a file"
