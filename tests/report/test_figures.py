"""Figures: what is drawn is what the tables say, also where a group or a case is missing."""

import re
from collections.abc import Callable
from pathlib import Path

import artists
import many
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bat.evaluation.comparison import FAILED
from bat.report.figures import differences, findings, memorization, style, tradeoff, training
from bat.report.figures.differences import reach
from bat.report.figures.style import baseline_of, error_bars, fonts, looks, ordered, printable, spread

ABOUT = {"tier": "fast", "threat": "L-inf 0.1", "confidence": 0.95}
SAID = {"threat": "L-inf 0.1", "confidence": 0.95}
RUNS = many.runs(20)
METHODS = list(RUNS.loc[RUNS["role"].isin(["method", "variant"]), "method"])


def bars(axes: Axes) -> dict[str, np.ndarray]:
    """The error bars of axes by label: rows of x, y, and the ends of the bars in x and in y."""
    return dict(artists.bars(axes))


def cell(table: pd.DataFrame, **values: str) -> pd.Series:
    for column, value in values.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def percent(found: pd.Series) -> list[float]:
    return [100 * found[name] for name in ("accuracy", "ci_low", "ci_high")]


# -- what is drawn


def test_tradeoff_draws_the_means_of_methods_and_variants_and_of_no_control() -> None:
    table = many.summary(20)
    axes = tradeoff.tradeoff(table, RUNS, **ABOUT).axes[0]
    drawn = bars(axes)
    assert set(drawn) == set(METHODS) - {"natural"}
    for method, (points,) in drawn.items():
        x, y = (cell(table, method=method, checkpoint="last", group="all", metric=m) for m in ("robust", "clean"))
        assert points == pytest.approx([percent(x)[0], percent(y)[0], *percent(x)[1:], *percent(y)[1:]])
    last = table[(table["checkpoint"] == "last") & (table["group"] == "all") & table["method"].isin(drawn)]
    means = 100 * last.pivot(index="method", columns="metric", values="accuracy")
    beaten = [
        ((means["robust"] >= one["robust"]) & (means["clean"] >= one["clean"])).sum() > 1 for _, one in means.iterrows()
    ]
    front = next(line for line in axes.lines if line.get_drawstyle().startswith("steps"))
    assert sorted(front.get_xdata()) == pytest.approx(sorted(means["robust"][~np.array(beaten)]))
    # the baseline and BAT are drawn last, over all others
    assert list(drawn)[-2:] == ["pgd_at", "bat"]


@pytest.mark.parametrize(("robust", "there"), [(0.3, True), (0.2999, False)])
def test_a_method_with_less_than_half_of_the_best_accuracy_is_told_in_words(robust: float, there: bool) -> None:
    table = many.summary(3).query("group == 'all'")
    last = (table["checkpoint"] == "last") & (table["metric"] == "robust")
    table.loc[last, "accuracy"] = table["method"].map({"natural": robust, "pgd_at": 0.5, "bat": 0.6})
    table.loc[last, ["ci_low", "ci_high"]] = [0.125, 0.625]
    figure = tradeoff.tradeoff(table, many.runs(3), **ABOUT)
    assert ("natural" in bars(figure.axes[0])) == there
    clean = percent(cell(table, method="natural", checkpoint="last", group="all", metric="clean"))
    told = f"natural (clean {clean[0]:.1f} [{clean[1]:.1f}, {clean[2]:.1f}], robust 30.0 [12.5, 62.5])"
    assert (told in " ".join(figure.get_supxlabel().split())) != there


def test_variants_are_joined_to_their_method_in_its_colour() -> None:
    table = many.summary(20)
    axes = tradeoff.tradeoff(table, RUNS, **ABOUT).axes[0]
    points = {name: found[0, :2] for name, found in bars(axes).items()}
    joined = [line.get_xydata() for line in axes.lines if line.get_linewidth() == 0.8 and len(line.get_xdata()) == 2]
    variants = RUNS[RUNS["role"] == "variant"]
    expected = sorted((base, name) for base, name in zip(variants["base"], variants["method"], strict=True))
    assert len(joined) == len(expected) == 5
    found = sorted(
        tuple(next(name for name, at in points.items() if np.allclose(at, end)) for end in line) for line in joined
    )
    assert found == expected
    look = looks(RUNS)
    assert {look[name].family for pair in expected for name in pair if name.startswith("bat")} == {"bat"}


def test_typical_and_atypical_are_drawn_on_one_scale() -> None:
    table = many.summary(8)
    figure = tradeoff.typical_atypical(table, many.runs(8), **ABOUT)
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        assert axes.get_xlim() == (-2, 102)
        drawn = iter(artists.bars(axes))
        for group in ("typical", "atypical"):
            for place, name in enumerate(many.NAMES[:8]):
                points = next(drawn)[1][0]
                found = percent(cell(table, method=name, checkpoint="last", group=group, metric=metric))
                assert points[:4] == pytest.approx([found[0], place, *found[1:]])
    typical, atypical = (
        percent(cell(table, method="pgd_at", checkpoint="last", group=group, metric="robust"))[0]
        for group in ("typical", "atypical")
    )
    assert figure.get_suptitle() == (
        f"pgd_at: robust accuracy {typical:.1f} % on typical, {atypical:.1f} % on atypical test samples"
    )


def test_overfitting_draws_best_and_last_and_both_panels_span_as_many_points() -> None:
    table = many.summary(8)
    figure = tradeoff.overfitting(table, many.runs(8), **ABOUT)
    near = [name for name in many.NAMES[:8] if name != "natural"]
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        drawn = iter(artists.bars(axes))
        for place, method in enumerate(near):
            for checkpoint, shift in (("best", -0.12), ("last", 0.12)):
                points = next(drawn)[1][0]
                found = percent(cell(table, method=method, checkpoint=checkpoint, group="all", metric=metric))
                assert points[:4] == pytest.approx([found[0], place + shift, *found[1:]])
    spans = [axes.get_xlim()[1] - axes.get_xlim()[0] for axes in figure.axes]
    assert spans[0] == pytest.approx(spans[1])


def test_differences_are_those_of_the_table_in_points() -> None:
    table = many.comparisons(8)
    figure = differences.differences(table, many.runs(8), **SAID)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    methods = [name for name in many.NAMES[:8] if name != "pgd_at"]
    assert names == [*methods, "bat_trades − bat", "bat_mart − bat"]
    panels = [(group, metric) for group in ("typical", "atypical") for metric in ("clean", "robust")]
    for axes, (group, metric) in zip(figure.axes, panels, strict=True):
        assert axes.get_title() == f"{group} (n = {many.SAMPLES[group]}):\n{metric} accuracy"
        drawn = {round(points[0, 1], 6): points[0] for _, points in artists.bars(axes)}
        texts = {round(text.get_position()[1], 6): text.get_text() for text in axes.texts}
        assert len(drawn) + len(texts) == 2 * len(names)
        for place, name in enumerate(names):
            method, _, other = name.partition(" − ")
            for checkpoint, shift in (("last", -0.2), ("best", 0.2)):
                keys = {"method": method, "baseline": other or "pgd_at", "checkpoint": checkpoint, "group": group}
                found = cell(table, **keys, metric=metric)
                value = [100 * found[end] for end in ("difference", "ci_low", "ci_high")]
                at = round(place + shift, 6)
                if at in drawn:
                    assert drawn[at][[0, 2, 3]] == pytest.approx(value)
                else:
                    text = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*value).replace("-", "−")
                    assert texts[at].strip("◂▸ ") == text
        # natural training is far less robust
        assert any(text.startswith("◂ −57.0 [") for text in texts.values()) == (metric == "robust")
    limits = [axes.get_xlim() for axes in figure.axes]
    assert limits[0] == limits[1] != limits[2] == limits[3]
    found = table.query("method == 'bat' and group == 'all' and checkpoint == 'last' and question == 'methods'")
    clean, robust = (100 * found.loc[found["metric"] == metric, "difference"].item() for metric in ("clean", "robust"))
    title = f"bat minus pgd_at: clean {clean:+.1f}, robust {robust:+.1f} points on all test samples"
    assert figure.get_suptitle() == title.replace("-", "−")


def test_significant_differences_are_thick() -> None:
    table = many.comparisons(8)
    axes = differences.differences(table, many.runs(8), **SAID).axes[0]
    keys = {"question": "methods", "checkpoint": "last", "group": "typical", "metric": "clean"}
    for place, name in enumerate(name for name in many.NAMES[:8] if name != "pgd_at"):
        verdict = cell(table, method=name, **keys)["verdict"]
        (container,) = [each for each in axes.containers if each.lines[0].get_ydata()[0] == place - 0.2]
        (width,) = container.lines[2][0].get_linewidth()
        assert width == (2.4 if verdict in ("higher", "lower") else 0.8)


def test_controls_are_those_runs_that_are_no_methods() -> None:
    table = many.comparisons(3)
    figure = differences.controls(table, many.runs(3), **SAID)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:4] == [
        "bat_shuffled − pgd_at",
        "bat_consistency − pgd_at",
        "bat_shuffled − bat",
        "bat_consistency − bat\nno comparison: equal results",
    ]
    assert names[4:10] == [
        "without atypical samples − all samples",
        "without atypical samples − as many random",
        "without as many random as atypical samples − all samples",
        "without top 10 % − all samples",
        "without top 10 % − as many random",
        "without as many random as top 10 % − all samples",
    ]
    drawn = {round(points[0, 1]) for _, points in artists.bars(figure.axes[0])}
    assert drawn == set(range(len(names))) - {3}  # nothing can be said of equal runs


@pytest.mark.parametrize(
    ("ends", "limit"), [([1, 1, 4], 4), ([1, 1, 4.1], 4), ([1, 1, 9], 4), ([1, 1, 3.5], 3.5), ([0.1, 0.1], 0.5)]
)
def test_the_range_of_differences_holds_all_but_those_far_off(ends: list[float], limit: float) -> None:
    rows = pd.DataFrame({"ci_low": np.array(ends) / -100, "ci_high": 0.0, "verdict": "no difference shown"})
    other = pd.DataFrame({"ci_low": [-0.9], "ci_high": [0.9], "verdict": [FAILED]})
    assert reach(pd.concat([rows, other])) == pytest.approx(1.08 * limit)
    assert reach(other) == 1


def panel(found: list[tuple[float, float, float]], limit: float) -> Axes:
    """Draw differences of pairs to a limit, each with its interval."""
    pairs = [("bat", "pgd_at"), ("trades", "pgd_at"), ("mart", "pgd_at")][: len(found)]
    rows = pd.DataFrame(pairs, columns=["method", "baseline"])
    rows[["difference", "ci_low", "ci_high"]] = np.array(found) / 100
    rows = rows.assign(checkpoint="last", verdict="no difference shown")
    axes = Figure().add_subplot()
    differences.difference_panel(axes, rows, pairs, looks=looks(RUNS), limit=limit, checkpoints=("last",))
    return axes


def test_differences_that_reach_too_far_are_told_at_their_side() -> None:
    axes = panel([(0.0, -9.0, 5.0), (2.0, 1.0, 9.0), (-1.0, -9.0, -0.5)], limit=8.0)
    assert artists.bars(axes) == []
    told = [(text.get_text(), text.get_position()[0], text.get_horizontalalignment()) for text in axes.texts]
    assert told == [
        ("+0.0 [−9.0, +5.0] ▸", 0.98 * 8, "right"),
        ("+2.0 [+1.0, +9.0] ▸", 0.98 * 8, "right"),
        ("◂ −1.0 [−9.0, −0.5]", -0.98 * 8, "left"),
    ]
    assert len(artists.bars(panel([(1.0, -8.0, 7.0), (-2.0, -3.0, -1.0)], limit=8.0))) == 2


def test_a_best_epoch_is_drawn_where_the_last_says_nothing() -> None:
    rows = pd.DataFrame({"method": "bat", "baseline": "pgd_at", "checkpoint": ["last", "best"]})
    rows = rows.assign(difference=0.01, ci_low=0.0, ci_high=0.02, verdict=[FAILED, "higher"])
    axes = Figure().add_subplot()
    differences.difference_panel(axes, rows, [("bat", "pgd_at")], looks=looks(RUNS), limit=3.0)
    assert [points[0, :2].tolist() for _, points in artists.bars(axes)] == [[1.0, 0.2]]
    assert axes.get_ylim() == (0.5, -0.5)


def test_panels_say_what_is_not_there() -> None:
    def said(name: str) -> list[list[str]]:
        return [[text.get_text() for text in axes.texts] for axes in EDGES[name]().axes]

    assert said("differences, none") == 4 * [["nothing compared"]]
    assert said("differences, none atypical")[2:] == 2 * [["no atypical\ntest sample"]]
    assert said("finding_b, none typical")[:2] == 2 * [["nothing compared"]]
    assert [texts[-1:] for texts in said("finding_a")[1::2]] == 2 * [["no atypical sample"]]
    figure = EDGES["differences, none"]()
    assert figure.axes[0].get_ylim() == (0.5, -0.5)
    assert figure.axes[0].get_title() == "typical (n = 0):\nclean accuracy"
    caption = " ".join(figure.get_supxlabel().split())
    assert "; 0 seeds. " in caption
    assert ", robust under no attack. " in caption
    assert figure.get_figheight() == pytest.approx(1.6 + 0.54)  # as with two pairs
    figure = EDGES["typical_atypical, none atypical"]()
    assert figure.axes[0].get_title() == "● typical (n = 929)     ○ atypical (n = 0)"
    assert " ".join(figure.get_supxlabel().split()) == (
        "L-inf 0.1, robust under AutoAttack fast. Mean over 5 seeds, 95 % intervals over seeds and samples. Last epoch."
    )


def test_equal_effects_are_drawn_in_the_order_of_their_table() -> None:
    effects = pd.DataFrame({"train_index": range(100), "robust_effect": np.arange(100) % 2 / 10})
    effects = effects.assign(robust_standard_error=0.01, models=9, robust_significant=False)
    harmful = pd.DataFrame({"train_index": range(100), "harmful": np.arange(100) // 2 % 2 == 0})
    axes = findings.finding_b(many.comparisons(3), RUNS, effects, harmful, **SAID).axes[2]
    places = bars(axes)["harmful (50)"][:, 0]
    assert places.tolist() == [*range(0, 50, 2), *range(50, 100, 2)]


def test_influence_draws_the_mean_of_each_bin_and_joins_no_bins_of_few_samples() -> None:
    table = many.per_sample(3)
    figure = tradeoff.influence(table, many.runs(3), tier="fast", threat="L-inf 0.1")
    axes = figure.axes[0]
    points = bars(axes)["natural"]
    chosen = table[(table["method"] == "natural") & (table["max_influence"] == 0.02)]
    by_seed = 100 * chosen.groupby("seed")["clean_correct"].mean()
    assert points[1, [1, 4, 5]] == pytest.approx([by_seed.mean(), by_seed.min(), by_seed.max()])
    assert points[:, 0] == pytest.approx(np.array([0, 1, 2, 3, 5]) - 0.08)
    counts = [label.get_text().split("n = ")[1] for label in axes.get_xticklabels()]
    assert counts == ["60", "30", "12", "9", "0", "5"]
    lines = [line for line in axes.lines if line.get_marker() == "None" and len(line.get_xdata()) == 2]
    assert {tuple(np.round(line.get_xdata())) for line in lines} == {(0, 1), (1, 2)}  # 9 samples are too few
    assert "Left out: 0 test samples" in " ".join(figure.get_supxlabel().split())
    least, most = (
        100 * table[(table["method"] == "pgd_at") & (table["max_influence"] == value)]["robust_correct"].mean()
        for value in (-0.1, 0.07)
    )
    assert figure.get_suptitle() == (
        f"pgd_at: robust on {least:.0f} % of the least influenced test samples, on {most:.0f} % of the most"
    )


def test_curves_have_a_panel_for_each_split_and_group() -> None:
    table = many.histories(3)
    figure = training.curves(table, many.runs(3), typical=5, atypical=7, attack="PGD-2", threat="L2 1")
    columns = [(split, group) for split in ("test", "train") for group in ("typical", "atypical")]
    for row, metric in enumerate(("clean", "pgd")):
        for axes, (split, group) in zip(figure.axes[4 * row : 4 * row + 4], columns, strict=True):
            assert axes.get_ylim() == (-3, 103)
            drawn = {str(line.get_label()): line.get_xydata() for line in axes.lines}
            for name in many.NAMES[:3]:
                rows = table[(table["method"] == name) & (table["epoch"] % 2 == 0)]
                mean = 100 * rows.groupby("epoch")[f"{split}_{group}_{metric}_accuracy"].mean()
                assert drawn[name] == pytest.approx(np.column_stack([mean.index, mean]))
    titles = ["test, typical (n = 5)", "test, atypical (n = 7)", "training, typical", "training, atypical"]
    assert [axes.get_title() for axes in figure.axes[:4]] == titles


def test_weights_are_means_over_samples_then_seeds() -> None:
    table = many.weights(1).assign(method="bat")
    left, right = training.weights(table, many.runs(3)).axes
    for epoch in (1, 2, 3):
        rows = table[table["epoch"] == epoch]
        assert left.lines[0].get_ydata()[epoch - 1] == pytest.approx(rows["weight"].mean())
        assert right.lines[0].get_ydata()[epoch - 1] == pytest.approx(100 * (rows["weight"] < 1).mean())
    last = table[table["epoch"] == 6]["weight"].mean()
    title = left.get_figure().get_suptitle()
    assert re.fullmatch(r"bat gives atypical samples a mean weight of 0\.\d\d in the last epoch", title)
    assert float(title.split()[8]) == pytest.approx(last, abs=0.0051)


def test_curves_of_many_methods_have_hollow_markers_too() -> None:
    axes = training.weights(many.weights(1).assign(method="bat_alpha_2"), RUNS).axes[0]
    assert axes.lines[0].get_markerfacecolor() == "white"


OF_A = ("pgd_at", *(name for name in many.REMOVED if "atypical" in name or "top" in name))


def test_finding_a_draws_each_case_at_the_share_it_leaves_out() -> None:
    table, histories = many.summary(3), many.histories(0, OF_A)
    figure = findings.finding_a(table, histories, RUNS, **ABOUT)
    for axes, metric in zip(figure.axes[::2], ("clean", "robust"), strict=True):
        for kind, prefix, shift in (("memorized", "", -0.12), ("random", "random_", 0.12)):
            points = bars(axes)[f"atypical, without {kind}"]
            assert points[:, 0] == pytest.approx([0, 8 + shift, 10 + shift, 20 + shift])
            runs = ["pgd_at", *(f"pgd_at_without_{prefix}{case}" for case in ("atypical", "top_0_1", "top_0_2"))]
            for row, run in zip(points, runs, strict=True):
                found = percent(cell(table, method=run, checkpoint="last", group="atypical", metric=metric))
                assert row[[1, 4, 5]] == pytest.approx(found)
    over_epochs = next(line for line in figure.axes[1].lines if line.get_label() == "test, all samples")
    rows = histories.query("method == 'pgd_at' and epoch == 4")
    assert list(over_epochs.get_xdata()) == [2, 4, 6]
    assert over_epochs.get_ydata()[1] == pytest.approx(100 * rows["test_atypical_clean_accuracy"].mean())
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    with_all, without = (
        percent(cell(table, method=run, checkpoint="last", group="atypical", metric="clean"))[0]
        for run in ("pgd_at", "pgd_at_without_top_0_2")
    )
    lost = f"{without - with_all:+.1f}".replace("-", "−")
    assert figure.get_suptitle() == (
        f"Without the 20 % most memorized: clean accuracy on atypical test samples {lost} points"
    )


def test_finding_b_draws_differences_of_harmful_and_benign_cases_in_points() -> None:
    table, (found, harmful) = many.comparisons(3), many.effects()
    found["robust_standard_error"] = 0.005
    figure = findings.finding_b(table, RUNS, found, harmful, **SAID)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:3] == [
        "without harmful samples −\nall samples",
        "without harmful samples −\nas many random",
        "without as many random as harmful samples −\nall samples",
    ]
    drawn = [points[0, 0] for _, points in artists.bars(figure.axes[1])]
    rows = table.query("checkpoint == 'last' and group == 'typical' and metric == 'robust' and question == 'removal'")
    rows = rows[rows["method"].str.contains("harmful|benign")]
    assert drawn == pytest.approx(100 * rows["difference"].to_numpy())
    points = np.concatenate([each for _, each in artists.bars(figure.axes[2])])
    assert np.sort(points[:, 1]) == pytest.approx(np.sort(100 * found["robust_effect"]))
    assert points[:, 4:] == pytest.approx(points[:, [1]] + [-1, 1])  # twice the error of half a point
    assert f"{(found['robust_effect'] < -0.015).sum()} of 12" in figure.axes[2].get_title()
    clean, robust = (
        100
        * cell(table, method="pgd_at_without_harmful", baseline="pgd_at", checkpoint="last", group="typical", metric=m)[
            "difference"
        ]
        for m in ("clean", "robust")
    )
    title = f"Without harmful samples: clean {clean:+.1f}, robust {robust:+.1f} points on typical test samples"
    assert figure.get_suptitle() == title.replace("-", "−")


def sheet(harmful: int, benign: int) -> Figure:
    count = harmful + benign
    table = pd.DataFrame({"train_index": np.arange(count) + 7, "label": np.arange(count) % 2})
    table = table.assign(
        memorization=0.5, wrong_probability=np.linspace(1, 0, count), harmful=np.arange(count) < harmful
    )
    return memorization.harmful_gallery(
        lambda index: np.full((1, 4, 4), index / 100, np.float32), table, class_names=["a", "b"]
    )


def test_sheet_shows_the_most_harmful_and_the_most_benign_first() -> None:
    figure = sheet(20, 5)
    shown = [round(float(axes.images[0].get_array()[0, 0]) * 100) for axes in figure.axes if axes.images]
    # 16 of 20 harmful from the highest, then 5 benign from the lowest
    assert shown == [*range(7, 23), *range(31, 26, -1)]


def test_adversarial_images_are_those_of_the_last_epoch_by_method() -> None:
    """Two typical and two atypical samples: first those that the last method loses, by index."""
    lost = {"natural": [4, 5, 6, 7, 8, 9], "bat": [6, 7, 8]}
    rows = [
        {"method": name, "test_index": index, "label": index % 2, "atypical": index % 2 == 1}
        | {"clean_correct": index != 8, "robust_correct": index not in wrong}
        for name, wrong in lost.items()
        for index in (9, 8, 7, 6, 5, 4)
    ]
    pictures = {
        name: (lambda index, add=add: np.full((1, 2, 2), (index + add) / 100, np.float32))
        for name, add in (("natural", 20), ("bat", 40))
    }
    figure = memorization.adversarial(
        lambda index: np.full((1, 2, 2), index / 100, np.float32),
        pictures,
        pd.DataFrame(rows),
        class_names=["even", "odd"],
        threat="L2 1",
        seed=3,
        most=2,
    )
    shown = [round(float(axes.images[0].get_array()[0, 0]) * 100) for axes in figure.axes if axes.images]
    # 8 is wrong as it is, so that no attack broke it
    assert shown == [6, 4, 7, 5, 26, 24, 27, 25, 46, 44, 47, 45]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:4] == ["typical\neven, 6", "typical\neven, 4", "atypical\nodd, 7", "atypical\nodd, 5"]
    assert titles[4:] == ["broken"] * 4 + ["broken", "right", "broken", "right"]
    assert figure.get_suptitle() == "Under attack bat is right on 50.0 % of the test samples"
    assert "of seed 3" in figure.get_supxlabel()


# -- how runs look


def test_families_have_their_colours_and_no_two_methods_look_alike() -> None:
    look = looks(RUNS)
    assert [name for name, each in look.items() if each.family == "baseline"] == ["natural", "pgd_at"]
    assert [name for name, each in look.items() if each.main] == ["pgd_at", "bat"]
    assert {each.family for name, each in look.items() if name.startswith("bat")} == {"bat", "control"}
    assert {look[name].family for name in ("trades", "mart", "pgd_at_awp", "trades_beta_1")} == {"rival"}
    assert {look[name].family for name in (*many.CONTROLS, *many.REMOVED)} == {"control"}
    drawn = {(look[name].marker, look[name].fill == "white") for name in METHODS}
    assert len(drawn) == len(METHODS) == 20
    assert ordered(["bat", "trades", "pgd_at", "natural"], look) == ["trades", "natural", "bat", "pgd_at"]


def test_each_run_has_its_colour_marker_and_line() -> None:
    """A family's colour and its shade change from run to run, so do its lines; markers go round, then hollow."""
    black, blue, light, orange, dark, grey = "#000000", "#0072b2", "#59a3cd", "#e69f00", "#ac7700", "#8c8c8c"
    found = looks(RUNS)
    assert [(each.color, each.marker, each.line) for each in found.values()][:26] == [
        (black, "^", "-"),
        (black, "s", "--"),
        (blue, "o", "-"),
        (orange, "D", "-"),
        (dark, "v", "--"),
        (orange, "P", "-."),
        (light, "X", "--"),
        (blue, "p", "-."),
        (dark, "<", ":"),
        (light, ">", ":"),
        (blue, "h", "-"),
        (light, "d", "--"),
        (blue, "8", "-."),
        (orange, "*", "-"),
        (light, "^", ":"),
        (blue, "D", "-"),
        (light, "v", "--"),
        (dark, "P", "--"),
        (orange, "X", "-."),
        (blue, "p", "-."),
        (grey, "<", "-"),
        (grey, ">", "--"),
        (grey, "h", "-."),
        (grey, "d", ":"),
        (grey, "8", "-"),
        (grey, "*", "--"),
    ]
    hollow = [place for place, each in enumerate(found.values()) if each.fill == "white"]
    assert hollow == list(range(14, 26))
    assert all(each.fill in ("white", each.color) for each in found.values())
    rivals = pd.DataFrame({"method": range(48), "role": "method", "objective": "trades", "compared_with": ""})
    hollow = [place for place, each in enumerate(looks(rivals).values()) if each.fill == "white"]
    assert hollow == [*range(12, 24), *range(36, 48)]


def test_title_and_caption_begin_at_the_left_and_are_wrapped_to_the_width() -> None:
    figure = Figure(figsize=(2, 2))
    above, below = style.headed(figure, 12 * "a " + "\nnew line", 8 * "small ")
    assert (figure.get_suptitle(), figure.get_supxlabel()) == (above.get_text(), below.get_text())
    assert above.get_text() == "a a a a a a a a a a\na a\nnew line"  # 10 letters an inch
    assert below.get_text() == "small small small small small\nsmall small small"
    for text in (above, below):
        assert (text.get_position()[0], text.get_horizontalalignment()) == (0.01, "left")
    assert below._multialignment == "left"  # type: ignore[attr-defined]
    assert below.get_color() == "#555555"


def test_families_differ_in_lightness() -> None:
    look = looks(RUNS)

    def lightness(name: str) -> float:
        red, green, blue = (int(look[name].color[place : place + 2], 16) for place in (1, 3, 5))
        return (0.299 * red + 0.587 * green + 0.114 * blue) / 255

    values = [lightness(name) for name in ("pgd_at", "bat", "trades")]
    assert all(values[0] + 0.2 < values[1] and values[1] + 0.2 < values[2] for _ in values)


def test_the_baseline_is_what_methods_are_compared_with() -> None:
    assert baseline_of(RUNS) == "pgd_at"
    assert baseline_of(RUNS.assign(compared_with=None)) is None
    pairs = RUNS.assign(compared_with=["", "", "trades, pgd_at", *["mart"] * (len(RUNS) - 3)])
    assert baseline_of(pairs) == "trades"
    assert baseline_of(RUNS[RUNS["role"] == "removal"]) is None
    for role in ("method", "variant", "control"):
        assert baseline_of(RUNS.assign(role=role)) == "pgd_at"


def test_a_font_with_the_glyph_is_taken_where_there_is_one_and_the_rest_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fonts(["Noto Sans CJK JP", "Arial", "IPAGothic"]) == ["DejaVu Sans", "Noto Sans CJK JP", "IPAGothic"]
    assert fonts([]) == ["DejaVu Sans"]
    assert printable("Straße α") == "Straße α"
    assert printable("x\U000f0000") == "x\\U000f0000"  # for private use: in no font
    assert printable("abcdef", 6) == "abcdef"
    assert printable("abcdefg", 6) == "abcde…"
    monkeypatch.setitem(style.STYLE, "font.family", ["cmr10"])  # it has no Greek letters
    assert printable("a\u03b1") == "a\\u03b1"


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20), st.floats(0.001, 0.2))
@settings(max_examples=200)
def test_labels_are_apart_inside_and_in_order(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap=gap)
    order = np.argsort(wanted, kind="stable")
    apart = min(gap, 1 / max(len(wanted) - 1, 1))
    assert (np.diff(places[order]) >= apart - 1e-9).all()
    assert places.min() >= -1e-9
    assert places.max() <= 1 + 1e-9


def test_labels_stay_where_they_are_wanted_if_there_is_room() -> None:
    assert spread([0.9, 0.1, 0.5], gap=0.3) == pytest.approx([0.9, 0.1, 0.5])
    assert spread([0.5, 0.5], gap=0.2) == pytest.approx([0.4, 0.6])
    assert spread([0.0, 0.0], gap=0.2) == pytest.approx([0.0, 0.2])
    assert spread([1.0, 1.0], gap=0.2) == pytest.approx([0.8, 1.0])
    assert spread([0.5, 0.5], gap=2) == pytest.approx([0.0, 1.0])
    assert spread([0.5] * 40, gap=0.01) == pytest.approx(0.305 + 0.01 * np.arange(40))  # equal ones in their order
    assert len(spread([], gap=0.2)) == 0


# -- at any number of methods


def drawing(name: str, count: int) -> Figure:
    runs, few = many.runs(count), min(count, 8)
    drawn: dict[str, Callable[[], Figure]] = {
        "tradeoff": lambda: tradeoff.tradeoff(many.summary(count), runs, **ABOUT),
        "typical_atypical": lambda: tradeoff.typical_atypical(many.summary(count), runs, **ABOUT),
        "overfitting": lambda: tradeoff.overfitting(many.summary(count), runs, **ABOUT),
        "differences": lambda: differences.differences(many.comparisons(count), runs, **SAID),
        "controls": lambda: differences.controls(many.comparisons(count), runs, **SAID),
        "influence": lambda: tradeoff.influence(many.per_sample(few), runs, tier="fast", threat="L2 1"),
        "curves": lambda: training.curves(
            many.histories(few), runs, typical=929, atypical=68, attack="PGD-10", threat="L2 1"
        ),
        "weights": lambda: training.weights(many.weights(few), runs),
        "finding_a": lambda: findings.finding_a(many.summary(count), many.histories(0, OF_A), runs, **ABOUT),
        "finding_b": lambda: findings.finding_b(many.comparisons(count), runs, *many.effects(), **SAID),
    }
    return drawn[name]()


ONE = [(name, 3) for name in ("controls", "finding_a", "finding_b")]
FEW = [(name, count) for name in ("influence", "curves", "weights") for count in (2, 8)]
ANY = [
    (name, count)
    for name in ("tradeoff", "typical_atypical", "overfitting", "differences")
    for count in (2, 3, 8, 19, 20)
]


@pytest.mark.parametrize(("name", "count"), ONE + FEW + ANY)
def test_texts_are_whole_and_apart_and_all_intervals_in_sight(name: str, count: int) -> None:
    figure = drawing(name, count)
    assert artists.misplaced(figure) == []
    assert artists.out_of_sight(figure) == []


def test_what_is_clipped_or_overlaps_is_found() -> None:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    assert artists.misplaced(figure) == artists.out_of_sight(figure) == []
    axes.text(0.5, 0.5, "one")
    axes.text(0.52, 0.5, "two")
    axes.text(1.1, 0.5, "a long text that leaves")
    error_bars(axes, 0.5, 0.5, x_range=(0.2, 1.01), label="wide")
    assert artists.misplaced(figure) == ["'a long text that leaves' leaves the page", "'one' over 'two'"]
    assert artists.out_of_sight(figure) == ["wide in '': [1.01]"]


# -- one helper for all error bars


@given(right=st.integers(0, 997), of=st.integers(1, 997), seeds=st.integers(1, 9))
@settings(max_examples=60)
def test_a_range_of_equal_seeds_is_a_bar_of_no_length(right: int, of: int, seeds: int) -> None:
    values = pd.Series(seeds * [right / of])
    axes = Figure().add_subplot()
    # the mean of equal values may be a little off
    error_bars(axes, 3, values.mean(), x_range=(2, 5), y_range=(values.min(), values.max()))
    points = artists.bars(axes)[0][1][0]
    assert points == pytest.approx([3, right / of, 2, 5, right / of, right / of])
    assert points[2] <= points[0] <= points[3]
    assert points[4] <= points[1] <= points[5]


@given(st.lists(st.tuples(*3 * [st.floats(-1, 1)]), min_size=1, max_size=6))
@settings(max_examples=100)
def test_bars_end_where_the_range_does_or_at_a_point_outside_of_it(rows: list[tuple[float, float, float]]) -> None:
    value, one, other = np.array(rows).T
    low, high = np.minimum(one, other), np.maximum(one, other)
    axes = Figure().add_subplot()
    error_bars(axes, value, np.arange(len(rows)), x_range=(low, high))
    error_bars(axes, np.arange(len(rows)), value, y_range=(low, high), label="y")
    for (_, points), place in zip(artists.bars(axes), (2, 4), strict=True):
        expected = np.column_stack([np.minimum(low, value), np.maximum(high, value)])
        assert points[:, place : place + 2] == pytest.approx(expected, abs=1e-12)


def test_no_bar_where_an_end_is_unknown_and_no_error_bar_but_by_the_helper() -> None:
    axes = Figure().add_subplot()
    error_bars(axes, [0, 1], [0.5, 0.5], y_range=([np.nan, 0.4], [np.nan, 0.7]))
    assert artists.bars(axes)[0][1][1] == pytest.approx([1, 0.5, np.nan, np.nan, 0.4, 0.7], nan_ok=True)
    sources = Path(style.__file__).parent.glob("*.py")
    assert {path.stem for path in sources if ".errorbar(" in path.read_text(encoding="utf-8")} == {"style"}


ONE_RUN = many.runs(3).query("method == 'bat'")


def by_seed(right: int, of: int, seeds: int) -> pd.DataFrame:
    """Per-sample results in which each seed is right on the same share of the samples."""
    rows = [
        {"method": "bat", "seed": seed, "test_index": j, "max_influence": 0.2, "clean_correct": j < right}
        for seed in range(seeds)
        for j in range(of)
    ]
    return pd.DataFrame(rows).assign(robust_correct=True)


@pytest.mark.parametrize(
    ("right", "of", "seeds"), [(7, 997, 5), (8, 997, 5), (2, 3, 3), (1, 10, 3), (0, 4, 2), (4, 4, 1)]
)
def test_influence_is_drawn_where_all_seeds_agree(right: int, of: int, seeds: int) -> None:
    figure = tradeoff.influence(by_seed(right, of, seeds), ONE_RUN, tier="fast", threat="L2 1")
    points = artists.bars(figure.axes[0])[0][1][0]
    share = 100 * right / of
    assert points[[0, 1, 4, 5]] == pytest.approx([4, share, share, share])


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (-0.0, 0),
        (0.1 + 0.2 - 0.3, 0),
        (0.05, 1),
        (0.7 - 0.65, 1),
        (0.45 - 0.3, 3),
        (0.9 - 0.75, 3),
        (0.1500001, 4),
        (0.3, 4),
        (0.1 + 0.2, 4),
    ],
)
def test_an_influence_at_the_end_of_a_bin_stays_in_it(value: float, place: int) -> None:
    figure = tradeoff.influence(by_seed(1, 2, 1).assign(max_influence=value), ONE_RUN, tier="fast", threat="L2 1")
    assert artists.bars(figure.axes[0])[0][1][:, 0] == pytest.approx([place])
    counts = [label.get_text().split("n = ")[1] for label in figure.axes[0].get_xticklabels()]
    assert counts == ["2" if number == place else "0" for number in range(6)]


def test_the_front_does_not_depend_on_rounding() -> None:
    runs = many.runs(3)
    for shift in (0.0, 1e-16, -1e-16):
        table = many.summary(3)
        last = (table["checkpoint"] == "last") & (table["group"] == "all")
        for metric, values in {"clean": (0.9, 0.5 + shift, 0.5), "robust": (0.4, 0.7, 0.7 + shift)}.items():
            for method, value in zip(many.NAMES[:3], values, strict=True):
                table.loc[last & (table["metric"] == metric) & (table["method"] == method), "accuracy"] = value
        axes = tradeoff.tradeoff(table, runs, **ABOUT).axes[0]
        front = next(line for line in axes.lines if line.get_drawstyle().startswith("steps"))
        assert front.get_xydata() == pytest.approx(np.array([[70, 50], [40, 90]]))


@pytest.mark.parametrize("threshold", [0.15, 0.12, 0.3, 0.0, 0.25])
def test_no_bar_of_the_histogram_is_of_typical_and_atypical_samples(threshold: float) -> None:
    values = np.array([-0.21, -0.05, 0.0, threshold, threshold - 1e-17, threshold + 1e-6, 0.999, 1.0, np.nan])
    table = pd.DataFrame({"memorization": values, "atypical": values > threshold + 1e-9})
    typical, atypical = memorization.memorization(table, threshold=threshold, models=9).axes[0].containers
    heights = [[bar.get_height() for bar in bars_] for bars_ in (typical, atypical)]
    assert [sum(each) for each in heights] == [5, 3]
    assert not any(one and other for one, other in zip(*heights, strict=True))
    edge = next(bar.get_x() for bar in atypical if bar.get_height())
    assert edge == pytest.approx(threshold, abs=1e-8)


def test_limits_hold_means_and_intervals_with_half_a_point_at_least() -> None:
    table = many.summary(3).query("group == 'all' and checkpoint == 'last' and metric != 'pgd'")
    robust = table["metric"] == "robust"
    table.loc[robust, ["accuracy", "ci_low", "ci_high"]] = [0.5, 0.2, 0.4]  # of a low confidence
    table.loc[~robust, ["accuracy", "ci_low", "ci_high"]] = [0.5, 0.51, 0.52]
    axes = tradeoff.tradeoff(table, many.runs(3), **ABOUT).axes[0]
    assert axes.get_xlim() == pytest.approx((20 - 1.8, 50 + 1.8))
    assert axes.get_ylim() == pytest.approx((50 - 0.5, 52 + 0.5))


def test_where_none_is_near_the_others_all_are_drawn() -> None:
    table = many.summary(3).query("group == 'all'")
    clean = {"natural": 0.9, "pgd_at": 0.3, "bat": 0.2}
    table["accuracy"] = table["method"].map(clean).where(table["metric"] == "clean", 1 - table["method"].map(clean))
    figure = tradeoff.tradeoff(table, many.runs(3), **ABOUT)
    assert set(bars(figure.axes[0])) == {"natural", "pgd_at", "bat"}
    assert "Too far" not in figure.get_supxlabel()


def test_methods_that_are_too_far_are_told_one_after_the_other() -> None:
    table = many.summary(3).query("group == 'all'")
    table["accuracy"] = table["method"].map({"natural": 0.1, "pgd_at": 0.0, "bat": 0.8})
    table[["ci_low", "ci_high"]] = [-0.0001, 0.25]
    figure = tradeoff.tradeoff(table, many.runs(3), **ABOUT)
    assert " Too far to be drawn: natural (clean 10.0 [0.0, 25.0], robust 10.0 [0.0, 25.0]); pgd_at (clean 0.0 " in (
        " ".join(figure.get_supxlabel().split())
    )


# -- what is missing


def scored(count: int, known: int) -> pd.DataFrame:
    """Training samples of which the first have a score, a tiny negative one among them, and no interval."""
    value = np.where(np.arange(count) < known, np.linspace(-1e-9, 0.9, count), np.nan)
    table = pd.DataFrame({"train_index": np.arange(count), "label": 0, "memorization": value})
    return table.assign(ci_low=np.nan, ci_high=np.nan, atypical=table["memorization"] > 0.15)


def gallery(count: int, known: int, pairs: int = 0, models: int = 0, name: str = "a") -> Figure:
    influence = pd.DataFrame({"train_index": np.arange(pairs), "influenced_index": count - 1})
    influence = influence.assign(influence=-1e-9, standard_error=np.nan, significant=False)
    image = np.zeros((1, 4, 4), np.float32)
    table = scored(count, known).assign(taken_for=0, taken_for_share=0.5, file=None)
    table.loc[0, "file"] = f"a/{name}.png"
    return memorization.gallery(
        lambda row: image,
        table,
        influence,
        nearest=lambda row, most: [other for other in range(count) if other != row][:most],
        class_names=[name],
        models=models,
    )


def no_weights() -> Figure:
    columns = ["method", "seed", "epoch", "train_index", "weight"]
    return training.weights(pd.DataFrame({name: pd.Series(dtype=float) for name in columns}), RUNS)


def unknown_effects() -> Figure:
    found, harmful = many.effects()
    return findings.finding_b(many.comparisons(3), RUNS, found.assign(robust_standard_error=np.nan), harmful, **SAID)


def of_one(count: int = 3) -> pd.DataFrame:
    return many.summary(count).query("method == 'bat'")


TYPICAL = many.summary(3).query("group != 'atypical'")
ONE_SEED = many.histories(3).query("seed == 0")
MISSING = many.histories(0, OF_A).assign(**dict.fromkeys((name for name in ONE_SEED if "accuracy" in name), np.nan))
NO_PAIR = many.comparisons(3)[:0]
GROUNDLESS_ALL = many.comparisons(3).assign(verdict=FAILED, difference=np.nan, ci_low=np.nan, ci_high=np.nan)
NO_EFFECT = [table[:0] for table in many.effects()]
EDGES: dict[str, Callable[[], Figure]] = {
    "tradeoff, one method, seed and sample": lambda: tradeoff.tradeoff(
        of_one().assign(samples=1, seeds=1), ONE_RUN, **ABOUT
    ),
    "tradeoff, all failed": lambda: tradeoff.tradeoff(many.summary(3), many.runs(3), **ABOUT, failed=many.NAMES),
    "typical_atypical, none atypical": lambda: tradeoff.typical_atypical(TYPICAL, many.runs(3), **ABOUT),
    "overfitting, one method": lambda: tradeoff.overfitting(of_one(), ONE_RUN, **ABOUT),
    "differences, none": lambda: differences.differences(NO_PAIR, many.runs(3), **SAID),
    "differences, none atypical": lambda: differences.differences(
        many.comparisons(3).query("group != 'atypical'"), many.runs(3), **SAID
    ),
    "differences, groundless": lambda: differences.differences(GROUNDLESS_ALL, many.runs(3), **SAID),
    "controls, none": lambda: differences.controls(NO_PAIR, many.runs(3), **SAID),
    "finding_a": lambda: findings.finding_a(TYPICAL, MISSING, RUNS, **ABOUT),
    "finding_a, one seed": lambda: findings.finding_a(
        many.summary(3), many.histories(0, OF_A).query("seed == 0"), RUNS, **ABOUT
    ),
    "finding_b, none typical": lambda: findings.finding_b(
        many.comparisons(3).query("group == 'all'"), RUNS, None, many.effects()[1], **SAID
    ),
    "finding_b without effects": lambda: findings.finding_b(many.comparisons(3), RUNS, *NO_EFFECT, **SAID),
    "finding_b, groundless": lambda: findings.finding_b(GROUNDLESS_ALL, RUNS, None, NO_EFFECT[1], **SAID),
    "finding_b, no error": unknown_effects,
    "no harmful": lambda: sheet(0, 3),
    "nothing atypical": lambda: sheet(0, 0),
    "influence, one sample": lambda: tradeoff.influence(by_seed(1, 1, 1), ONE_RUN, tier="fast", threat="L2 1"),
    "influence, none": lambda: tradeoff.influence(
        by_seed(1, 3, 2).assign(max_influence=np.nan), ONE_RUN, tier="fast", threat="L2 1"
    ),
    "memorization, no score": lambda: memorization.memorization(scored(4, 0), threshold=0.15, models=0),
    "memorization, one score": lambda: memorization.memorization(scored(4, 1), threshold=0.15, models=3),
    "gallery, no score": lambda: gallery(4, 0),
    "gallery, one score": lambda: gallery(1, 1, pairs=1),
    "gallery, nothing near": lambda: gallery(1, 1),
    "gallery, few scores": lambda: gallery(5, 3, models=9),
    "gallery, other letters": lambda: gallery(9, 9, models=9, name="\u4e2d\u6587$_{" + 30 * "\u5b57"),
    "weights, none": no_weights,
    "curves, one seed, no atypical": lambda: training.curves(
        ONE_SEED.assign(**{name: np.nan for name in ONE_SEED if "atypical" in name}),
        many.runs(3),
        typical=4,
        atypical=0,
        attack="PGD-2",
        threat="L2 1",
    ),
}
# one of each function
AGAIN = (
    "tradeoff, all failed",
    "typical_atypical, none atypical",
    "overfitting, one method",
    "differences, groundless",
    "controls, none",
    "finding_a",
    "finding_b, none typical",
    "no harmful",
    "influence, one sample",
    "memorization, one score",
    "gallery, few scores",
    "weights, none",
    "curves, one seed, no atypical",
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edge", EDGES)
def test_what_is_missing_stops_no_figure_and_the_bytes_are_the_same_again(edge: str, tmp_path: Path) -> None:
    figure = EDGES[edge]()
    style.save(figure, [tmp_path / "first.svg"])
    if edge in AGAIN:
        style.save(EDGES[edge](), [tmp_path / "again.svg"])
        assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    assert not re.search(r"\bnan\b|-0\.0+\b(?!\d)", " ".join(artists.texts(figure)))
    assert artists.misplaced(figure) == []
