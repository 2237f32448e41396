"""Figures of findings (a) and (b): retraining without some samples, and robust subset models."""

from collections.abc import Collection, Hashable, Mapping

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bat.evaluation.comparison import GROUNDLESS
from bat.report.figures.style import COLOURS, STYLE, about_failures, attacks, error_bars, note

_METRICS = (("clean", "clean accuracy"), ("robust", "robust accuracy"))


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
    most memorized, and without as many random samples. Left:
    after the last epoch, over the share left out; right: over epochs, without atypical samples. failed: runs whose
    training failed.
    """
    figure = Figure(figsize=(9, 5.8), layout="constrained")
    grid = figure.subplots(2, 2, sharey="row")
    cases = runs[runs["removed"].isin(["atypical", "top"])].set_index("method")
    base = cases["base"].iloc[0]
    histories = histories[histories["method"].isin([base, *cases.index])]
    trained = histories.groupby("method")["trained_samples"].mean()
    share = (1 - trained / trained[base]).sort_values(kind="stable")
    last = summary[(summary["checkpoint"] == "last") & summary["method"].isin(share.index)]
    drawn = {
        (random, group): [
            name for name in share.index if name == base or (cases.loc[name, "role"] == "random") == random
        ]
        for random in (False, True)
        for group in ("typical", "atypical")
    }
    lines = {base: "-"} | {
        run: ":" if case["role"] == "random" else "--"
        for run, case in cases.iterrows()
        if case["removed"] == "atypical"
    }
    for axes_row, (metric, name) in zip(grid, _METRICS, strict=True):
        for (random, group), names in drawn.items():
            rows = last[(last["group"] == group) & (last["metric"] == metric)].set_index("method")
            if rows.empty:
                continue
            rows = rows.loc[names]
            error_bars(
                axes_row[0],
                share[names] + (0.001 if random else 0),
                rows["accuracy"],
                y_range=(rows["ci_low"], rows["ci_high"]),
                color=COLOURS[2] if group == "atypical" else COLOURS[0],
                linestyle="--" if random else "-",
                marker="o",
                markerfacecolor="white" if random else None,
                markersize=4,
                elinewidth=0.6,
                label=f"{rows['samples'].iloc[0]} {group} test samples, without {'random' if random else 'memorized'}",
            )
        axes_row[0].set(ylabel=name, xlabel="share of training samples left out")
        _over_epochs(axes_row[1], histories, lines, "clean" if metric == "clean" else "pgd")
    grid[0, 1].set_title("over epochs (robust: under the training attack)")
    grid[0, 0].set_title(f"last epoch (robust: {attacks(tier)})")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", fontsize=7.5)
    figure.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside lower right", fontsize=7.5)
    figure.suptitle(
        f"Finding (a): {base} without memorized samples. {threat}. Mean over {histories['seed'].nunique()} seeds; left "
        f"with {confidence:.0%} intervals." + about_failures([run for run in share.index if run in failed]),
        fontsize=9,
        wrap=True,
    )
    return figure


def _over_epochs(axes: Axes, histories: pd.DataFrame, lines: Mapping[Hashable, str], metric: str) -> None:
    """Draw accuracy on atypical samples over epochs, each run in ``lines`` with its own line."""
    for split, colour in (("test", COLOURS[2]), ("train", COLOURS[1])):
        column = f"{split}_atypical_{metric}_accuracy"
        for run, line in lines.items():
            rows = histories[histories["method"] == run].dropna(subset=column)
            mean = rows.groupby("epoch")[column].mean()
            axes.plot(mean.index, mean, line, color=colour, linewidth=1.2, label=f"atypical {split}, {run}")
    axes.set(xlabel="epoch")


@matplotlib.rc_context(STYLE)
def finding_b(
    comparisons: pd.DataFrame,
    runs: pd.DataFrame,
    effects: pd.DataFrame | None,
    harmful: pd.DataFrame,
    *,
    confidence: float,
) -> Figure:
    """Draw what leaving out harmful or benign samples does to typical test samples, and each sample's own effect.

    comparisons, runs: as in evaluation/comparisons.parquet and runs.parquet; effects: as in
    scores/robust_effects.parquet, None without robust subset models; harmful: as in scores/harmful.parquet. Where a
    comparison says nothing, as after a training that failed, its name says why in place of a difference.
    """
    rows = comparisons[
        (comparisons["question"] == "removal")
        & (comparisons["checkpoint"] == "last")
        & (comparisons["group"] == "typical")
        & comparisons["method"].isin(runs.loc[runs["removed"].isin(["harmful", "benign"]), "method"])
    ]
    pairs = list(dict.fromkeys(zip(rows["method"], rows["baseline"], strict=True)))
    verdicts = rows.groupby(["method", "baseline"], sort=False)["verdict"].first()
    names = [
        f"{_case(runs, method)} − {_case(runs, baseline)}"
        + (f"\n{verdicts[method, baseline]}" if verdicts[method, baseline] in GROUNDLESS else "")
        for method, baseline in pairs
    ]
    figure = Figure(figsize=(11, 3.6) if effects is not None else (9, 2.8), layout="constrained")
    axes_row = figure.subplots(1, 2 if effects is None else 3, width_ratios=[1, 1] + [1.4] * (effects is not None))
    for axes, (metric, name) in zip(axes_row, _METRICS, strict=False):
        cells = rows[rows["metric"] == metric].set_index(["method", "baseline"])
        for place, pair in enumerate(pairs):
            cell = cells.loc[pair]
            if cell["verdict"] in GROUNDLESS:
                continue
            ends = (100 * cell["ci_low"], 100 * cell["ci_high"])
            error_bars(axes, 100 * cell["difference"], place, x_range=ends, color="black", marker="o", markersize=4)
        axes.axvline(0, color="#999999", linewidth=1)
        axes.set_yticks(range(len(pairs)), names if metric == "clean" else [""] * len(pairs), fontsize=7.5)
        axes.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
        axes.set(xlabel="difference, points", title=f"{name},\ntypical test samples")
        if not pairs:
            note(axes, "no typical test sample")
    models = 0 if effects is None or effects.empty else effects["models"].iloc[0]
    if effects is not None:
        _effects(axes_row[2], effects, harmful)
    facts = rows.iloc[0] if len(rows) else {"samples": 0, "seeds": 0, "tier": "no attack"}
    figure.suptitle(
        f"Finding (b): training without harmful or benign atypical samples. {facts['samples']} test samples, "
        f"{facts['seeds']} seeds,\n{confidence:.0%} intervals of paired differences, robust under "
        f"{attacks(str(facts['tier']))}; random: without as many others."
        + f" Right: {models} robust subset models, ± 2 standard errors."
        * bool(models),
        fontsize=9,
    )
    return figure


def _case(runs: pd.DataFrame, name: str) -> str:
    """Name a run by what it is trained without."""
    run = runs[runs["method"] == name].iloc[0]
    if pd.isna(run["removed"]):
        return "all"
    return f"{'random ' * (run['role'] == 'random')}{run['removed']}"


def _effects(axes: Axes, effects: pd.DataFrame, harmful: pd.DataFrame) -> None:
    """Draw the effect of each atypical sample on the robust accuracy of typical test samples, in order."""
    order = effects.sort_values("robust_effect", kind="stable", ignore_index=True)
    bad = order["train_index"].isin(harmful.loc[harmful["harmful"], "train_index"])
    for chosen, colour, name in ((~bad, COLOURS[1], "benign"), (bad, COLOURS[2], "harmful")):
        mine = order[chosen]
        effect, error = 100 * mine["robust_effect"], 100 * mine["robust_standard_error"]
        error_bars(
            axes,
            mine.index.to_numpy(),
            effect,
            y_range=(effect - 2 * error, effect + 2 * error),
            color=colour,
            marker="o",
            markersize=2.5,
            elinewidth=0.5,
            linestyle="none",
            label=f"{name} ({len(mine)})",
        )
    found = order["robust_significant"] & (order["robust_effect"] < 0)
    axes.axhline(0, color="#999999", linewidth=1)
    axes.set(
        xlabel="atypical training samples, in order",
        ylabel="effect, points",
        title="effect of each on robust accuracy, typical test samples:\n"
        f"{int(found.sum())} of {len(order)} significantly negative",
    )
    axes.legend(fontsize=7.5)
