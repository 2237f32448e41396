"""Figures of findings (a) and (b): retraining without some samples, and robust subset models."""

from collections.abc import Collection
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bat.report.figures.differences import difference_panel, label_pairs, name_of_pair, pairs_of, reach
from bat.report.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PALE,
    STYLE,
    RunLook,
    about_failures,
    attacks,
    error_bars,
    headed,
    label_ends,
    looks,
    note,
    signed,
)
from bat.report.given import Given

_METRICS = ("clean", "robust")


@matplotlib.rc_context(STYLE)
def finding_a(
    summary: pd.DataFrame,
    histories: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    tier: str,
    threat: str,
    confidence: float,
    failed: Collection[str] = (),
) -> Figure:
    """Draw what leaving out memorized samples does to test samples, beside leaving out as many random ones.

    summary, runs: as in evaluation/summary.parquet and runs.parquet; histories: rows of
    models/{run}/seed-{s}/history.parquet. Drawn are the run with all samples, and those without atypical, without the
    most memorized, and without as many random samples. Left: after the last epoch, over the share left out; right: over
    epochs, without atypical samples. All panels are from 0 to 100 %. failed: runs whose training failed.
    """
    cases = runs[runs["removed"].isin(["atypical", "top"])].set_index("method")
    base = str(cases["base"].iloc[0])
    histories = histories[histories["method"].isin([base, *cases.index])]
    trained = histories.groupby("method")["trained_samples"].mean()
    share = (100 * (1 - trained / trained[base])).sort_values(kind="stable")
    last = summary[(summary["checkpoint"] == "last") & summary["method"].isin(share.index)]
    height = 2.2
    figure = Figure(figsize=(10, 2 * height + 2.0), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True, sharex="col")
    told = f"{base} without its most memorized samples"
    for axes_row, metric in zip(grid, _METRICS, strict=True):
        ends, look = {}, {}
        for random in (False, True):
            names = [name for name in share.index if name == base or (cases.loc[name, "role"] == "random") == random]
            for group, colour in (("typical", BLACK), ("atypical", ORANGE)):
                rows = last[(last["group"] == group) & (last["metric"] == metric)].set_index("method")
                if rows.empty:
                    continue
                rows = rows.loc[names]
                label = f"{group}, without {'random' if random else 'memorized'}"
                look[label] = RunLook(
                    "", colour, "o" if group == "typical" else "s", "white" if random else colour, "-", False
                )
                x = share[names] + (0.12 if random else -0.12) * (share[names] > 0)
                error_bars(
                    axes_row[0],
                    x,
                    100 * rows["accuracy"],
                    y_range=(100 * rows["ci_low"], 100 * rows["ci_high"]),
                    color=colour,
                    linestyle=":" if random else "-",
                    marker=look[label].marker,
                    markerfacecolor=look[label].fill,
                    markersize=4.5,
                    elinewidth=0.8,
                    label=label,
                )
                ends[label] = (float(x.iloc[-1]), 100 * float(rows["accuracy"].iloc[-1]))
                if (group, metric, random) == ("atypical", "clean", False):
                    lost = 100 * (rows["accuracy"].iloc[-1] - rows["accuracy"].iloc[0])
                    told = (
                        f"Without the {share[names[-1]]:.0f} % most memorized: clean accuracy on atypical test samples "
                    )
                    told += f"{signed(lost)} points"
        axes_row[0].set_ylabel(f"{metric} accuracy, %")
        axes_row[0].set_ylim(-3, 103)
        axes_row[0].set_xlim(-0.6, share.max() + 0.6)
        label_ends(axes_row[0], ends, look, height=height)
        _over_epochs(axes_row[1], histories, base, cases, "clean" if metric == "clean" else "pgd", height)
    if not last["group"].eq("atypical").any():
        told = f"{base} without its most memorized samples: no atypical test sample"
    grid[0, 0].set_title("test samples, last epoch")
    grid[0, 1].set_title("atypical samples over epochs")
    grid[1, 0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    grid[1, 0].set_xlabel("share of training samples left out, %")
    grid[1, 1].set_xlabel("epoch")
    sizes = last.groupby("group")["samples"].max()
    counted = " and ".join(f"{sizes[group]} {group}" for group in ("typical", "atypical") if group in sizes)
    headed(
        figure,
        told,
        f"{counted} test samples. {threat}, robust under {attacks(tier)}, over epochs under the training attack. Mean "
        f"over {histories['seed'].nunique()} seeds; left with {100 * confidence:g} % intervals over seeds and samples. "
        "Random: as many samples that are drawn." + about_failures([run for run in share.index if run in failed]),
    )
    return figure


def _over_epochs(
    axes: Axes, histories: pd.DataFrame, base: str, cases: pd.DataFrame, metric: str, height: float
) -> None:
    """Draw accuracy on atypical samples over epochs: with all samples, without the atypical, without random ones."""
    drawn = {base: "all samples"} | {
        str(run): "random left out" if row["role"] == "random" else "atypical left out"
        for run, row in cases.iterrows()
        if row["removed"] == "atypical"
    }
    ends, look = {}, {}
    for split, colour in (("test", ORANGE), ("train", BLUE)):
        column = f"{split}_atypical_{metric}_accuracy"
        full = "D" if split == "train" else "s"
        for (run, said), (line, marker, fill) in zip(
            drawn.items(), (("-", full, colour), ("--", full, "white"), (":", "x", colour)), strict=True
        ):
            rows = histories[histories["method"] == run].dropna(subset=column)
            mean = 100 * rows.groupby("epoch")[column].mean()
            label = f"{'training' if split == 'train' else 'test'}, {said}"
            look[label] = RunLook("", colour, marker, fill, line, False)
            marks: dict[str, Any] = {"marker": marker, "markerfacecolor": fill, "markersize": 3.5}
            axes.plot(mean, **look[label].curve(), **marks, label=label)
            if len(mean):
                ends[label] = (float(mean.index[-1]), float(mean.iloc[-1]))
    label_ends(axes, ends, look, height=height)
    if not ends:
        note(axes, "no atypical sample")


@matplotlib.rc_context(STYLE)
def finding_b(
    comparisons: pd.DataFrame,
    runs: pd.DataFrame,
    effects: pd.DataFrame | None,
    harmful: pd.DataFrame,
    *,
    threat: str,
    confidence: float,
) -> Figure:
    """Draw what leaving out harmful or benign samples does to typical test samples, and each sample's own effect.

    comparisons, runs: as in evaluation/comparisons.parquet and runs.parquet; effects: as in
    scores/robust_effects.parquet, None without robust subset models; harmful: as in scores/harmful.parquet. Where a
    comparison says nothing, as after a training that failed, its name says why in place of a difference.
    """
    known = runs.set_index("method")
    rows = comparisons[
        (comparisons["question"] == "removal")
        & (comparisons["checkpoint"] == "last")
        & (comparisons["group"] == "typical")
        & comparisons["metric"].isin(_METRICS)
        & comparisons["method"].isin(known.index[known["removed"].isin(["harmful", "benign"])])
    ]
    pairs, look = pairs_of(rows), looks(runs)
    names = {pair: name_of_pair(known, *pair).replace(" − ", " −\n") for pair in pairs}
    figure = Figure(figsize=(11 if effects is not None else 8, 1.7 + 0.36 * max(len(pairs), 4)), layout="constrained")
    panels = figure.subplots(1, 2 if effects is None else 3, width_ratios=[1, 1] + [1.4] * (effects is not None))
    for axes, metric in zip(panels, _METRICS, strict=False):
        mine = rows[rows["metric"] == metric]
        difference_panel(
            axes,
            mine,
            pairs,
            looks={name: each._replace(color=BLACK) for name, each in look.items()},
            limit=reach(rows),
            checkpoints=("last",),
        )
        axes.set(xlabel="difference, points", title=f"{metric} accuracy,\ntypical test samples")
        axes.set_yticks(range(len(pairs)), [""] * len(pairs))
    label_pairs(panels[0], rows, names)
    panels[0].set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    found = rows[(rows["method"].map(known["removed"]) == "harmful") & (rows["method"].map(known["role"]) == "removal")]
    found = found[found["baseline"].map(known["removed"]).isna()].set_index("metric")
    title = "Training without harmful or benign atypical samples"
    if len(found) == len(_METRICS) and found["difference"].notna().all():
        clean, robust = (100 * float(found["difference"][metric]) for metric in _METRICS)
        title = (
            f"Without harmful samples: clean {signed(clean)}, robust {signed(robust)} points on typical test samples"
        )
    if effects is not None:
        _effects(panels[2], effects, harmful)
    models = 0 if effects is None or effects.empty else effects["models"].iloc[0]
    facts = rows.iloc[0] if len(rows) else {"samples": 0, "seeds": 0, "tier": "no attack"}
    headed(
        figure,
        title,
        f"{facts['samples']} test samples, {facts['seeds']} seeds, last epoch, {100 * confidence:g} % intervals of "
        f"paired differences (thick: higher or lower after Holm's correction), {threat}, robust under "
        f"{attacks(str(facts['tier']))}."
        + f" Right: {models} robust subset models, ± 2 standard errors."
        * bool(models),
    )
    return figure


def _effects(axes: Axes, effects: pd.DataFrame, harmful: pd.DataFrame) -> None:
    """Draw the effect of each atypical sample on the robust accuracy of typical test samples, in order."""
    order = effects.sort_values("robust_effect", kind="stable", ignore_index=True)
    bad = order["train_index"].isin(harmful.loc[harmful["harmful"], "train_index"])
    for chosen, colour, marker, name in ((~bad, GREY, "o", "benign"), (bad, BLACK, "s", "harmful")):
        mine = order[chosen]
        effect, error = 100 * mine["robust_effect"], 100 * mine["robust_standard_error"]
        error_bars(
            axes,
            mine.index.to_numpy(),
            effect,
            y_range=(effect - 2 * error, effect + 2 * error),
            color=colour,
            marker=marker,
            markersize=2.5,
            elinewidth=0.5,
            linestyle="none",
            label=f"{name} ({len(mine)})",
        )
    found = order["robust_significant"] & (order["robust_effect"] < 0)
    axes.axhline(color=PALE, linewidth=1)
    axes.set(
        xlabel="atypical training samples, in order",
        ylabel="effect, points",
        title="effect of each on robust accuracy,\n"
        f"typical test samples: {int(found.sum())} of {len(order)} significantly negative",
    )
    axes.legend(fontsize=7.5, loc="upper left")


def draw_finding_a(given: Given) -> Figure:
    """Draw ``finding_a`` from the files of an experiment."""
    return finding_a(given.table("summary"), given.table("history"), given.table("runs"), **given.about_summary())


def draw_finding_b(given: Given) -> Figure:
    """Draw ``finding_b`` from the files of an experiment."""
    return finding_b(
        given.table("comparisons"),
        given.table("runs"),
        given.get("robust_effects"),
        given.table("harmful"),
        **given.about_comparisons(),
    )
