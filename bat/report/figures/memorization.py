"""Figures of stage 1: memorization, and the images behind it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bat.report.figures.style import BLACK, PALE, STYLE, headed, note, printable, show
from bat.report.given import Given, image_of, nearest, threat_text
from bat.statistics import ROUNDING

Images = Callable[[int], NDArray[np.float32]]
"""Gives the image of a number, (c, h, w) in [0, 1]."""


@matplotlib.rc_context(STYLE)
def memorization(table: pd.DataFrame, *, threshold: float, models: int) -> Figure:
    """Draw the histogram of memorization. table: as in scores/memorization.parquet; models: K, 0 for a file."""
    scored = table[table["memorization"].notna()]
    scores, atypical = scored["memorization"], int(table["atypical"].sum())
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    # bins of 0.05 from the threshold on, a little above it, so that no bar is of both typical and atypical samples
    low, high = (scores.min(), scores.max()) if len(scored) else (0.0, 1.0)
    first, last = np.floor((min(low, 0) - threshold) / 0.05), np.ceil((max(high, 1) - threshold) / 0.05)
    bins = (threshold + ROUNDING + 0.05 * np.arange(first, last + 1)).tolist()
    bins[0] = min(bins[0], low)
    for kind, colour in (("typical", PALE), ("atypical", BLACK)):
        chosen = scores[scored["atypical"] == (kind == "atypical")]
        axes.hist(chosen, bins, color=colour, edgecolor="white", label=kind)
    axes.axvline(threshold, color=BLACK, linestyle="--", linewidth=1)
    axes.annotate(f" t = {threshold:g}", (threshold, 1), xycoords=("data", "axes fraction"), va="top")
    if scored.empty:
        note(axes, "no training sample has a score")
    axes.set(
        yscale="linear" if scored.empty else "log",
        ylim=(0.5, None),
        xlabel="memorization",
        ylabel="training samples",
    )
    axes.legend(loc="upper right")
    headed(
        figure,
        f"{atypical} of {len(table)} training samples are atypical ({100 * atypical / len(table):.1f} %)",
        f"{len(scores)} samples with a score, {_behind(models)}.",
    )
    return figure


@matplotlib.rc_context(STYLE)
def gallery(
    image: Images,
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    nearest: Callable[[int, int], Sequence[int]],
    class_names: Sequence[str],
    models: int,
    rows: int = 8,
    neighbours: int = 4,
) -> Figure:
    """Draw the most memorized training samples, each beside those of its class that influence it most.

    image: of a row of ``table``, as in scores/memorization.parquet; pairs: as in scores/train_influence.parquet;
    nearest: of a row of ``table``, so many rows of its class, by pixels: drawn where nothing influences a sample;
    models: K behind both, 0 for scores from a file.
    """
    place = {index: row for row, index in enumerate(table["train_index"])}
    files = {index: file for index, file in zip(table["train_index"], table["file"], strict=True) if pd.notna(file)}
    scored = table[table["memorization"].notna()]
    chosen = scored.sort_values("memorization", ascending=False, kind="stable").head(rows)
    # two samples side by side, so that the figure fits a page
    lines, width = max(-(-len(chosen) // 2), 1), 1 + neighbours
    figure = Figure(figsize=(2.2 * width, 1.75 * lines + 1.1))
    height = figure.get_figheight()
    ratios = [1] * width + [0.5] + [1] * width
    spacing: dict[str, Any] = {"width_ratios": ratios, "wspace": 0.25, "hspace": 0.95}
    spacing |= {"left": 0.03, "right": 0.99, "top": 1 - 0.75 / height, "bottom": 0.9 / height}
    grid = figure.subplots(lines, 2 * width + 1, squeeze=False, gridspec_kw=spacing)
    for axes in grid.flat:
        axes.axis("off")
    if chosen.empty:
        grid[0, 0].text(0, 0.5, "no training sample has a score", va="center", fontsize=8)
    for number, (_, sample) in enumerate(chosen.iterrows()):
        line, left = number // 2, (number % 2) * (width + 1)
        mine = pairs[pairs["influenced_index"] == sample["train_index"]]
        mine = mine.sort_values("influence", ascending=False, kind="stable").head(neighbours)
        first, index = grid[line, left], int(sample["train_index"])
        show(first, image(place[index]))
        known = np.isfinite(sample["ci_low"])
        interval = f"[{sample['ci_low']:z.2f}, {sample['ci_high']:z.2f}]" if known else "no interval"
        first.set_title(f"{sample['memorization']:z.2f}\n{interval}", fontweight="bold", fontsize=7.5)
        _beside(first, printable(class_names[int(sample["label"])], 14))
        taken = sample.get("taken_for")
        without = ""
        if models and pd.notna(taken) and 0 <= taken < len(class_names):
            without = f"\ntaken for {printable(class_names[int(taken)], 9)},\n{100 * sample['taken_for_share']:.0f} %"
        _below(first, f"{_named(index, files)}{without}")
        for offset, (_, pair) in enumerate(mine.iterrows(), start=1):
            axes = grid[line, left + offset]
            show(axes, image(place[pair["train_index"]]))
            star = "*" if pair["significant"] else ""
            error = f" ± {pair['standard_error']:z.2f}" if np.isfinite(pair["standard_error"]) else ""
            axes.set_title(f"\n{pair['influence']:z.2f}{error}{star}", fontsize=7.5)
            _below(axes, _named(int(pair["train_index"]), files))
        if mine.empty:
            near = nearest(place[index], neighbours)
            for offset, row in enumerate(near, start=1):
                axes = grid[line, left + offset]
                show(axes, image(row))
                axes.set_title("\nnear", fontsize=7.5, fontstyle="italic", color="#555555")
                _below(axes, _named(int(table["train_index"].iloc[row]), files))
            if not near:
                grid[line, left + 1].text(0, 0.5, "no other of\nits class", va="center", fontsize=8)
    _headed_images(
        figure,
        f"The {len(chosen)} most memorized training samples",
        "Bold: memorization with its interval. Below: index"
        + " and file" * bool(files)
        + ", and what models that left the sample out take it for, with their share. Beside: samples of its class that "
        "influence it most (± standard error; * significant); where none does, italics: the nearest of its class by "
        f"pixels.\n{_behind(models).capitalize()}.",
    )
    return figure


@matplotlib.rc_context(STYLE)
def harmful_gallery(image: Images, table: pd.DataFrame, *, class_names: Sequence[str], most: int = 16) -> Figure:
    """Draw the most harmful and the most benign atypical training samples.

    image: of a training sample's index; table: as in scores/harmful.parquet.
    """
    parts = {
        "harmful": table[table["harmful"]].sort_values("wrong_probability", ascending=False, kind="stable"),
        "benign": table[~table["harmful"]].sort_values("wrong_probability", kind="stable"),
    }
    figure = Figure(figsize=(9, 6.9))
    grids = figure.subplots(
        4, most // 2, gridspec_kw={"top": 0.83, "bottom": 0.1, "left": 0.07, "right": 0.99, "hspace": 0.85}
    )
    for axes in grids.flat:
        axes.axis("off")
    for (kind, rows), lines in zip(parts.items(), (grids[:2], grids[2:]), strict=True):
        _beside(lines[0, 0], f"{kind}: {min(len(rows), most)} of {len(rows)}", align="top")
        for axes, (_, sample) in zip(lines.flat, rows.head(most).iterrows(), strict=False):
            show(axes, image(int(sample["train_index"])))
            name = printable(class_names[int(sample["label"])], 12)
            axes.set_title(
                f"{name}\n{sample['memorization']:z.2f}, {sample['wrong_probability']:z.2f}",
                fontsize=7.5,
                parse_math=False,
            )
            _below(axes, str(int(sample["train_index"])))
    _headed_images(
        figure,
        f"{len(parts['harmful'])} of {len(table)} atypical training samples are harmful",
        "The most harmful and the most benign ones. Above: class; memorization, mean wrong probability under attack. "
        "Below: index.",
    )
    return figure


@matplotlib.rc_context(STYLE)
def adversarial(
    clean: Images,
    attacked: Mapping[str, Images],
    samples: pd.DataFrame,
    *,
    class_names: Sequence[str],
    threat: str,
    seed: int,
    most: int = 5,
) -> Figure:
    """Draw test samples and the strongest adversarial images of some methods, after the last epoch.

    clean: of a test sample's index; attacked: the same by method; samples: rows of evaluation/per_sample.parquet, of
    the last epoch, of these methods, of one seed. Drawn are so many typical and so many atypical samples, by their
    index: first those that the last method is right on and loses under attack.
    """
    last = list(attacked)[-1]
    by_method = {str(name): rows.set_index("test_index") for name, rows in samples.groupby("method", sort=False)}
    decisive = by_method[last].sort_index()
    decisive = decisive.assign(other=~(decisive["clean_correct"] & ~decisive["robust_correct"]))
    ranked = decisive.sort_values("other", kind="stable")
    chosen = [*ranked.index[~ranked["atypical"]][:most], *ranked.index[ranked["atypical"]][:most]]
    rows = 1 + len(attacked)
    figure = Figure(figsize=(0.95 * max(len(chosen), 8) + 1.2, 1.35 * rows + 1.2))
    height = figure.get_figheight()
    spacing = {
        "left": 0.1,
        "right": 0.99,
        "top": 1 - 0.85 / height,
        "bottom": 0.75 / height,
        "hspace": 0.5,
        "wspace": 0.15,
    }
    grid = figure.subplots(rows, max(len(chosen), 1), squeeze=False, gridspec_kw=spacing)
    for axes in grid.flat:
        axes.axis("off")
    for line, name in enumerate(["clean", *attacked]):
        _beside(grid[line, 0], printable(name, 16))
    for column, index in enumerate(chosen):
        show(grid[0, column], clean(int(index)))
        label = printable(class_names[int(decisive.loc[index, "label"])], 10)
        group = "atypical" if decisive.loc[index, "atypical"] else "typical"
        grid[0, column].set_title(f"{group}\n{label}, {index}", fontsize=7, parse_math=False)
        for line, (name, image) in enumerate(attacked.items(), start=1):
            sample = by_method[name].loc[index]
            show(grid[line, column], image(int(index)))
            told = (
                "wrong as it is" if not sample["clean_correct"] else ("right" if sample["robust_correct"] else "broken")
            )
            grid[line, column].set_title(told, fontsize=7, fontweight="bold" if told == "broken" else None)
    shares = {name: 100 * rows["robust_correct"].mean() for name, rows in by_method.items()}
    _headed_images(
        figure,
        f"Under attack {last} is right on {shares[last]:.1f} % of the test samples",
        f"{threat}. Strongest image found in the last epoch of seed {seed}. Above: class and index of the test sample. "
        "Right under attack: " + ", ".join(f"{name} {share:.1f} %" for name, share in shares.items()) + ".",
    )
    return figure


def _headed_images(figure: Figure, title: str, caption: str) -> None:
    """Give title and caption to a figure of images, which are placed by hand."""
    above, _ = headed(figure, title, caption)
    above.set_y(1 - 0.08 / figure.get_figheight())


def _beside(axes: Axes, text: str, *, align: str = "center") -> None:
    """Write a text left of an image, turned where it is longer than the margin is wide."""
    axes.text(
        -0.1,
        1 if align == "top" else 0.5,
        text,
        transform=axes.transAxes,
        ha="right",
        va=align,
        fontweight="bold",
        fontsize=8,
        rotation=90 if len(text) > 2 else 0,
        parse_math=False,
    )


def _below(axes: Axes, text: str) -> None:
    axes.text(
        0.5,
        -0.06,
        text,
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=6.5,
        color="#555555",
        parse_math=False,
    )


def _named(index: int, files: Mapping[int, str]) -> str:
    """Name a sample by its index and, where it has one, its file."""
    file = files.get(index)
    return f"{index}\n{printable(PurePosixPath(file).name, 16)}" if file else str(index)


def _behind(models: int) -> str:
    return f"{models} subset models" if models else "scores from a file"


def draw_memorization(given: Given) -> Figure:
    """Draw ``memorization`` from the files of an experiment."""
    facts = given.facts("memorization")
    threshold = facts["spec"]["threshold"]
    return memorization(given.table("memorization"), threshold=threshold, models=facts["models"])


def draw_gallery(given: Given) -> Figure:
    """Draw ``gallery`` from the files of an experiment."""
    data = given.data()
    return gallery(
        image_of(data.train),
        given.table("memorization"),
        given.table("train_influence"),
        nearest=lambda row, most: nearest(data.train, row, most),
        class_names=data.class_names,
        models=given.facts("memorization")["models"],
    )


def draw_harmful(given: Given) -> Figure:
    """Draw ``harmful_gallery`` from the files of an experiment."""
    data = given.data()
    return harmful_gallery(image_of(data.train, by_index=True), given.table("harmful"), class_names=data.class_names)


def draw_adversarial(given: Given) -> Figure:
    """Draw ``adversarial`` from the files of an experiment."""
    data, samples, images = given.data(), given.table("per_sample"), given.images()
    seed = next(iter(images.values()))[0]
    place = {int(index): row for row, index in enumerate(data.test.index)}
    last = samples[(samples["checkpoint"] == "last") & (samples["seed"] == seed) & samples["method"].isin(images)]
    return adversarial(
        image_of(data.test, by_index=True),
        {name: partial(lambda found, index: found[place[index]], found) for name, (_, found) in images.items()},
        last,
        class_names=data.class_names,
        threat=threat_text(given.facts("per_sample")["spec"]["threat"]),
        seed=seed,
    )
