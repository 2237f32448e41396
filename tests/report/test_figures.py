"""Figures: what is drawn is what the tables say, also where a group or a case is missing."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import artists
import numpy as np
import pandas as pd
import pytest
from by_hand import runs_table
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from bat.evaluation.comparison import FAILED
from bat.report import figures
from bat.report.figures.style import error_bars

METHODS = ["natural", "pgd_at", "bat", "bat_alpha_2"]
BASES = {"natural": "natural", "pgd_at": "pgd_at", "bat": "bat", "bat_alpha_2": "bat"}
RUNS = [*METHODS, "pgd_at_without_atypical", "pgd_at_without_random_atypical"]
RUNS += ["pgd_at_without_top_0_2", "pgd_at_without_random_top_0_2"]
ABOUT = {"tier": "fast", "threat": "L-inf 0.1", "confidence": 0.95}


PLANNED = runs_table(
    "pgd_at",
    *(f"pgd_at_without_{random}{case}" for random in ("", "random_") for case in ("atypical", "top_0_2", "harmful")),
)


def summary(groups: tuple[str, ...] = ("all", "typical", "atypical")) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        list(product(RUNS, ("best", "last"), groups, ("clean", "pgd", "robust"))),
        columns=["method", "checkpoint", "group", "metric"],
    )
    accuracy = random.uniform(0.2, 0.9, len(rows))
    samples = rows["group"].map({"all": 90, "typical": 70, "atypical": 20})
    return rows.assign(accuracy=accuracy, ci_low=accuracy - 0.05, ci_high=accuracy + 0.08, samples=samples, seeds=3)


def histories(missing: bool = False) -> pd.DataFrame:
    random = np.random.default_rng(1)
    trained = {"pgd_at": 100, "pgd_at_without_atypical": 90, "pgd_at_without_random_atypical": 90}
    trained |= {"pgd_at_without_top_0_2": 80, "pgd_at_without_random_top_0_2": 80}
    rows = [
        {"method": run, "seed": seed, "epoch": epoch, "trained_samples": number}
        | {
            f"{split}_{group}_{metric}_accuracy": np.nan if epoch % 2 or missing else random.random()
            for split in ("train", "test")
            for group in ("typical", "atypical")
            for metric in ("clean", "pgd")
        }
        for run, number in trained.items()
        for seed in range(2)
        for epoch in range(1, 7)
    ]
    return pd.DataFrame(rows)


def bars(axes: Axes) -> dict[str, np.ndarray]:
    """The error bars of axes by label: rows of x, y, and the ends of the bar of y (or of x)."""
    return {
        container.get_label(): np.column_stack(
            [*container.lines[0].get_data(), *(np.array(container.lines[2][-1].get_segments())[:, :, 1].T)]
        )
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
    }


def cell(table: pd.DataFrame, **values: str) -> pd.Series:
    for column, value in values.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_tradeoff_draws_the_means_of_the_methods_and_of_no_other_run() -> None:
    table = summary()
    figure = figures.tradeoff(table, BASES, **ABOUT)
    for axes, group in zip(figure.axes[:3], ("all", "typical", "atypical"), strict=True):
        drawn = bars(axes)
        assert set(drawn) == set(METHODS)
        for method, points in drawn.items():
            x, y = (cell(table, method=method, checkpoint="last", group=group, metric=m) for m in ("robust", "clean"))
            assert points[0] == pytest.approx([x["accuracy"], y["accuracy"], y["ci_low"], y["ci_high"]])
    last = table[(table["checkpoint"] == "last") & (table["group"] == "all") & table["method"].isin(METHODS)]
    means = last.pivot(index="method", columns="metric", values="accuracy")
    beaten = [
        ((means["robust"] >= one["robust"]) & (means["clean"] >= one["clean"])).sum() > 1 for _, one in means.iterrows()
    ]
    front = next(line for line in figure.axes[0].lines if line.get_drawstyle().startswith("steps"))
    assert sorted(front.get_xdata()) == pytest.approx(sorted(means["robust"][~np.array(beaten)]))


def test_a_second_row_is_drawn_without_methods_that_are_hardly_robust() -> None:
    table = summary()
    robust = {"natural": 0.1, "pgd_at": 0.6, "bat": 0.29, "bat_alpha_2": 0.5}
    chosen = (table["metric"] == "robust") & (table["group"] == "all") & (table["checkpoint"] == "last")
    table.loc[chosen, "accuracy"] = table["method"].map(robust)
    table[["ci_low", "ci_high"]] = 0.0, 1.0
    figure = figures.tradeoff(table, BASES, **ABOUT)
    assert [set(bars(axes)) for axes in figure.axes] == 3 * [set(METHODS)] + 3 * [{"pgd_at", "bat_alpha_2"}]
    looks = [
        {container.get_label(): container.lines[0].get_color() for container in axes.containers}
        for axes in figure.axes[::3]
    ]
    assert looks[0].items() >= looks[1].items()
    # all robust alike, or one alone: nothing to be seen better
    for value in (0.6, 0.1):
        table.loc[chosen & (table["method"] != "pgd_at"), "accuracy"] = value
        assert len(figures.tradeoff(table, BASES, **ABOUT).axes) == 3


def test_variants_are_joined_to_their_method_in_its_colour() -> None:
    axes = figures.tradeoff(summary(), BASES, **ABOUT).axes[0]
    colours = {
        container.get_label(): container.lines[0].get_color()
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
    }
    assert colours["bat_alpha_2"] == colours["bat"] != colours["pgd_at"]


def test_overfitting_draws_best_and_last() -> None:
    table = summary()
    figure = figures.overfitting(table[table["method"].isin(METHODS)], tier="fast", threat="L2 1")
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        joined = [
            line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_color() == "#999999"
        ]
        for method, ends in zip(METHODS, joined, strict=True):
            expected = [
                cell(table, method=method, checkpoint=c, group="all", metric=metric)["accuracy"]
                for c in ("best", "last")
            ]
            assert ends == pytest.approx(expected)


def test_influence_draws_the_mean_of_each_bin() -> None:
    random = np.random.default_rng(2)
    influences = [-0.1, 0.02, 0.02, 0.12, 0.4, np.nan]
    table = pd.DataFrame(
        [
            {"method": method, "seed": seed, "test_index": j, "max_influence": influences[j]}
            | {"clean_correct": bool(random.integers(2)), "robust_correct": bool(random.integers(2))}
            for method in ("a", "b")
            for seed in range(4)
            for j in range(6)
        ]
    )
    figure = figures.influence(table, tier="fast", threat="L-inf 0.1")
    drawn = bars(figure.axes[0])["a"]
    chosen = table[(table["method"] == "a") & table["test_index"].isin([1, 2])]
    by_seed = chosen.groupby("seed")["clean_correct"].mean()
    assert drawn[1, 1:] == pytest.approx([by_seed.mean(), by_seed.min(), by_seed.max()])
    assert drawn[:, 0] == pytest.approx(np.array([0, 1, 3, 5]) - 0.03)
    assert [label.get_text().split("n = ")[1] for label in figure.axes[0].get_xticklabels()] == list("120101")
    assert "1 test samples whose class" in figure.get_suptitle()


def test_weights_are_means_over_samples_then_seeds() -> None:
    random = np.random.default_rng(3)
    table = pd.DataFrame(list(product(["bat"], range(2), range(1, 4), range(5))))
    table.columns = ["method", "seed", "epoch", "train_index"]
    table["weight"] = random.choice([1.0, 0.5, 0.9], len(table))
    left, right = figures.weights(table).axes
    for epoch in (1, 2, 3):
        rows = table[table["epoch"] == epoch]
        assert left.lines[0].get_ydata()[epoch - 1] == pytest.approx(rows["weight"].mean())
        assert right.lines[0].get_ydata()[epoch - 1] == pytest.approx((rows["weight"] < 1).mean())


def test_finding_a_draws_each_case_at_the_share_it_leaves_out() -> None:
    table = summary()
    figure = figures.finding_a(table, histories(), PLANNED, **ABOUT)
    drawn = bars(figure.axes[2])  # robust, last epoch
    memorized = next(points for label, points in drawn.items() if "20 atypical" in label and "memorized" in label)
    assert memorized[:, 0] == pytest.approx([0, 0.1, 0.2])
    for points, run in zip(memorized, ["pgd_at", "pgd_at_without_atypical", "pgd_at_without_top_0_2"], strict=True):
        found = cell(table, method=run, checkpoint="last", group="atypical", metric="robust")
        assert points[1:] == pytest.approx(found[["accuracy", "ci_low", "ci_high"]].to_list())
    over_epochs = figure.axes[1].lines[0]
    rows = histories().query("method == 'pgd_at' and epoch == 4")
    assert list(over_epochs.get_xdata()) == [2, 4, 6]
    assert over_epochs.get_ydata()[1] == pytest.approx(rows["test_atypical_clean_accuracy"].mean())


def comparisons(groups: tuple[str, ...] = ("all", "typical")) -> pd.DataFrame:
    pairs = [("pgd_at_without_harmful", "pgd_at"), ("pgd_at_without_harmful", "pgd_at_without_random_harmful")]
    pairs += [("pgd_at_without_random_harmful", "pgd_at"), ("pgd_at_without_top_0_2", "pgd_at")]
    rows = pd.DataFrame(
        [
            (*pair, checkpoint, group, metric)
            for pair, checkpoint, group, metric in product(pairs, ("best", "last"), groups, ("clean", "robust"))
        ],
        columns=["method", "baseline", "checkpoint", "group", "metric"],
    )
    value = np.random.default_rng(4).normal(0, 0.02, len(rows))
    return rows.assign(
        question="removal",
        difference=value,
        ci_low=value - 0.01,
        ci_high=value + 0.02,
        samples=70,
        seeds=3,
        tier="fast",
        verdict="no difference shown",
    )


def effects(count: int = 6) -> tuple[pd.DataFrame, pd.DataFrame]:
    value = np.random.default_rng(5).normal(0, 0.02, count)
    table = pd.DataFrame({"train_index": np.arange(count), "robust_effect": value, "robust_standard_error": 0.01})
    table = table.assign(models=100, robust_significant=value < -0.02)
    harmful = pd.DataFrame({"train_index": np.arange(count), "harmful": np.arange(count) < 2})
    return table, harmful


def test_finding_b_draws_differences_of_harmful_and_benign_cases_in_points() -> None:
    table, (found, harmful) = comparisons(), effects()
    figure = figures.finding_b(table, PLANNED, found, harmful, confidence=0.95)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["harmful − all", "harmful − random harmful", "random harmful − all"]
    drawn = [container.lines[0].get_xdata()[0] for container in figure.axes[1].containers]
    rows = table.query("checkpoint == 'last' and group == 'typical' and metric == 'robust'")
    assert drawn == pytest.approx(100 * rows["difference"].to_numpy()[:3])
    points = np.concatenate([container.lines[0].get_ydata() for container in figure.axes[2].containers])
    assert np.sort(points) == pytest.approx(np.sort(100 * found["robust_effect"]))
    assert f"{(found['robust_effect'] < -0.02).sum()} of 6" in figure.axes[2].get_title()


def sheet(harmful: int, benign: int) -> Figure:
    count = harmful + benign
    table = pd.DataFrame({"train_index": np.arange(count) + 7, "label": np.arange(count) % 2})
    table = table.assign(
        memorization=0.5, wrong_probability=np.linspace(1, 0, count), harmful=np.arange(count) < harmful
    )
    return figures.harmful_gallery(
        lambda index: np.full((1, 4, 4), index / 100, np.float32), table, class_names=["a", "b"]
    )


def test_sheet_shows_the_most_harmful_and_the_most_benign_first() -> None:
    figure = sheet(20, 5)
    shown = [round(float(axes.images[0].get_array()[0, 0]) * 100) for axes in figure.axes if axes.images]
    # 16 of 20 harmful from the highest, then 5 benign from the lowest
    assert shown == [*range(7, 23), *range(31, 26, -1)]


# -- one helper for all error bars


@given(right=st.integers(0, 997), of=st.integers(1, 997), seeds=st.integers(1, 9))
@settings(deadline=None, max_examples=300)
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
@settings(deadline=None, max_examples=100)
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
    sources = Path(figures.__file__).parent.glob("*.py")
    assert {path.stem for path in sources if ".errorbar(" in path.read_text(encoding="utf-8")} == {"style"}


def by_seed(right: int, of: int, seeds: int) -> pd.DataFrame:
    """Per-sample results in which each seed is right on the same share of the samples."""
    rows = [
        {"method": "a", "seed": seed, "test_index": j, "max_influence": 0.2, "clean_correct": j < right}
        for seed in range(seeds)
        for j in range(of)
    ]
    return pd.DataFrame(rows).assign(robust_correct=True)


@pytest.mark.parametrize(
    ("right", "of", "seeds"), [(7, 997, 5), (8, 997, 5), (2, 3, 3), (1, 10, 3), (0, 4, 2), (4, 4, 1)]
)
def test_influence_is_drawn_where_all_seeds_agree(right: int, of: int, seeds: int) -> None:
    figure = figures.influence(by_seed(right, of, seeds), tier="fast", threat="L2 1")
    points = artists.bars(figure.axes[0])[0][1][0]
    assert points[[0, 1, 4, 5]] == pytest.approx([4, right / of, right / of, right / of])


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
    figure = figures.influence(by_seed(1, 2, 1).assign(max_influence=value), tier="fast", threat="L2 1")
    assert artists.bars(figure.axes[0])[0][1][:, 0] == pytest.approx([place])
    counts = [label.get_text().split("n = ")[1] for label in figure.axes[0].get_xticklabels()]
    assert counts == ["2" if number == place else "0" for number in range(6)]


def test_the_front_does_not_depend_on_rounding() -> None:
    for shift in (0.0, 1e-16, -1e-16):
        table = summary()
        last = (table["checkpoint"] == "last") & (table["group"] == "all")
        for metric, values in {"clean": (0.9, 0.3 + shift, 0.3), "robust": (0.2, 0.7, 0.7 + shift)}.items():
            for method, value in zip(METHODS, values, strict=False):
                table.loc[last & (table["metric"] == metric) & (table["method"] == method), "accuracy"] = value
        methods = {name: name for name in METHODS[:3]}
        axes = figures.tradeoff(table, methods, **ABOUT).axes[0]
        front = next(line for line in axes.lines if line.get_drawstyle().startswith("steps"))
        assert front.get_xydata() == pytest.approx(np.array([[0.7, 0.3], [0.2, 0.9]]))


@pytest.mark.parametrize("threshold", [0.15, 0.12, 0.3, 0.0, 0.25])
def test_no_bar_of_the_histogram_is_of_typical_and_atypical_samples(threshold: float) -> None:
    values = np.array([-0.21, -0.05, 0.0, threshold, threshold - 1e-17, threshold + 1e-6, 0.999, 1.0, np.nan])
    table = pd.DataFrame({"memorization": values, "atypical": values > threshold + 1e-9})
    typical, atypical = figures.memorization(table, threshold=threshold, models=9).axes[0].containers
    heights = [[bar.get_height() for bar in bars_] for bars_ in (typical, atypical)]
    assert [sum(each) for each in heights] == [5, 3]
    assert not any(one and other for one, other in zip(*heights, strict=True))
    edge = next(bar.get_x() for bar in atypical if bar.get_height())
    assert edge == pytest.approx(threshold, abs=1e-8)


# -- what is missing


def scored(count: int, known: int) -> pd.DataFrame:
    """Training samples of which the first have a score, a tiny negative one among them, and no interval."""
    value = np.where(np.arange(count) < known, np.linspace(-1e-9, 0.9, count), np.nan)
    table = pd.DataFrame({"train_index": np.arange(count), "label": 0, "memorization": value})
    return table.assign(ci_low=np.nan, ci_high=np.nan, atypical=table["memorization"] > 0.15)


def gallery(count: int, known: int, pairs: int = 0) -> Figure:
    influence = pd.DataFrame({"train_index": np.arange(pairs), "influenced_index": count - 1})
    influence = influence.assign(influence=-1e-9, standard_error=np.nan, significant=False)
    image = np.zeros((1, 4, 4), np.float32)
    return figures.gallery(lambda row: image, scored(count, known), influence, class_names=["a"], models=0)


def no_weights() -> Figure:
    columns = ["method", "seed", "epoch", "train_index", "weight"]
    return figures.weights(pd.DataFrame({name: pd.Series(dtype=float) for name in columns}))


def unknown_effects() -> Figure:
    found, harmful = effects()
    return figures.finding_b(
        comparisons(), PLANNED, found.assign(robust_standard_error=np.nan), harmful, confidence=0.95
    )


def one_of_all() -> Figure:
    table = summary().query("method == 'bat'").assign(samples=1, seeds=1)
    return figures.tradeoff(table, {"bat": "bat"}, **ABOUT)


ONE_SEED = histories().query("seed == 0")
NONE_ATYPICAL = summary(("all", "typical"))
EDGES: dict[str, Callable[[], Figure]] = {
    "tradeoff": lambda: figures.tradeoff(NONE_ATYPICAL, BASES, **ABOUT),
    "tradeoff of many": lambda: figures.tradeoff(
        pd.concat([summary().query("method == 'bat'").assign(method=f"m{i}") for i in range(30)]),
        {f"m{i}": f"m{i}" for i in range(30)},
        **ABOUT,
    ),
    "finding_a": lambda: figures.finding_a(NONE_ATYPICAL, histories(missing=True), PLANNED, **ABOUT),
    "finding_b": lambda: figures.finding_b(comparisons(("all",)), PLANNED, None, effects()[1], confidence=0.95),
    "finding_b without effects": lambda: figures.finding_b(
        comparisons(), PLANNED, *(t[:0] for t in effects()), confidence=0.95
    ),
    "no harmful": lambda: sheet(0, 3),
    "nothing atypical": lambda: sheet(0, 0),
    "tradeoff, one method, seed and sample": one_of_all,
    "tradeoff, all failed": lambda: figures.tradeoff(summary(), BASES, **ABOUT, failed=METHODS),
    "overfitting": lambda: figures.overfitting(summary().query("method == 'bat'"), tier="fast", threat="L2 1"),
    "finding_a, one seed": lambda: figures.finding_a(summary(), ONE_SEED, PLANNED, **ABOUT),
    "finding_b, groundless": lambda: figures.finding_b(
        comparisons().assign(verdict=FAILED, difference=np.nan), PLANNED, None, effects()[1][:0], confidence=0.95
    ),
    "finding_b, no error": unknown_effects,
    "influence, one sample": lambda: figures.influence(by_seed(1, 1, 1), tier="fast", threat="L2 1"),
    "influence, none": lambda: figures.influence(
        by_seed(1, 3, 2).assign(max_influence=np.nan), tier="fast", threat="L2 1"
    ),
    "memorization, no score": lambda: figures.memorization(scored(4, 0), threshold=0.15, models=0),
    "memorization, one score": lambda: figures.memorization(scored(4, 1), threshold=0.15, models=3),
    "gallery, no score": lambda: gallery(4, 0),
    "gallery, one score": lambda: gallery(1, 1, pairs=1),
    "gallery, few scores": lambda: gallery(5, 3),
    "weights, none": no_weights,
    "curves, one seed, no atypical": lambda: figures.curves(
        ONE_SEED.assign(**{name: np.nan for name in ONE_SEED if "atypical" in name}),
        typical=4,
        atypical=0,
        attack="PGD-2",
        threat="L2 1",
    ),
}


@pytest.mark.parametrize("edge", EDGES)
def test_what_is_missing_stops_no_figure_and_the_bytes_are_the_same_again(edge: str, tmp_path: Path) -> None:
    for name in ("first", "again"):
        figures.save(EDGES[edge](), [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    written = " ".join(artists.texts(EDGES[edge]()))
    assert not re.search(r"\bnan\b|-0\.0+\b(?!\d)", written)
