"""Stage figure on tables made by hand: what is drawn, where, and by which name."""

from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pandas as pd
import pytest
from artists import bars, texts
from by_hand import ATYPICAL, EPOCHS, HARMFUL, MAIN, RARE, SEEDS, TYPICAL, accuracy, learned, make, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stages import PGD_AT, SCORES, TRAIN, call

import bat.report.figures

Made = tuple[Path, dict[str, list[str]]]
GROUPS = {"all": TYPICAL + ATYPICAL, "typical": TYPICAL, "atypical": ATYPICAL}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("drawn")
    names = make(folder)
    by_hand.summarize(folder, names)
    return folder, names


@pytest.fixture
def draw(made: Made, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a stage of a figure, and return the figure that it would write."""
    drawn: list[Figure] = []
    monkeypatch.setattr(bat.report.figures, "save", lambda figure, paths: drawn.append(figure))

    def one(name: str, folder: Path = made[0], **flags: Any) -> Figure:
        call("figures", folder, runs="runs.parquet", **flags, out=[f"{name}.svg"])
        return drawn.pop()

    return one


def of(made: Made, kind: str, runs: Any) -> list[str]:
    return [name for name in made[1][kind] if name.split(".")[0].rpartition("-")[0] in runs]


def interval(made: Made, run: str, checkpoint: str, group: str, metric: str) -> list[float]:
    table = pd.read_parquet(made[0] / "summary.parquet").set_index(["method", "checkpoint", "group", "metric"])
    low, high = table.loc[(run, checkpoint, group, metric), ["ci_low", "ci_high"]]
    return [low, high]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {str(line.get_label()): list(zip(*line.get_data(), strict=True)) for line in axes.lines}  # type: ignore[arg-type]


def test_memorization(made: Made, draw: Any) -> None:
    figure = draw("memorization", memorization="memorization.parquet")
    (axes,) = figure.axes
    typical, atypical = axes.containers
    named = zip(axes.get_legend().get_patches(), axes.get_legend().get_texts(), strict=True)
    assert {text.get_text(): patch.get_facecolor() for patch, text in named} == {
        "typical": typical[0].get_facecolor(),
        "atypical": atypical[0].get_facecolor(),
    }
    assert typical[0].get_facecolor() != atypical[0].get_facecolor()
    table = pd.read_parquet(made[0] / "memorization.parquet")
    for bars_, kind in ((typical, False), (atypical, True)):
        values = table.loc[table["atypical"] == kind, "memorization"]
        for bar in bars_:
            left, right = bar.get_x(), bar.get_x() + bar.get_width()
            least = values.min() if bar is bars_[0] else left + 1e-12
            assert bar.get_height() == ((values >= least) & (values <= right)).sum()
        assert sum(bar.get_height() for bar in bars_) == len(values)
    # nothing that is typical over the threshold, nothing atypical under it
    assert sum(bar.get_height() for bar in typical if bar.get_x() > 0.149) == 0
    assert sum(bar.get_height() for bar in atypical if bar.get_x() < 0.149) == 0
    assert axes.lines[0].get_xdata() == pytest.approx([SCORES["threshold"]] * 2)
    assert axes.get_title() == "100 training samples, 200 subset models: 12 atypical (12.0%)"
    assert "t = 0.15" in " ".join(texts(figure))


def shown(axes: Axes) -> int:
    """The index of the training sample whose image is drawn."""
    return round(float(axes.images[0].get_array()[0, 0]) * 255 / 2)


def test_gallery(draw: Any) -> None:
    figure = draw(
        "gallery",
        data="data.safetensors",
        memorization="memorization.parquet",
        train_influence="train_influence.parquet",
    )
    drawn = [axes for axes in figure.axes if axes.images]
    # two samples side by side: the most memorized, and what influences it most, then the next
    assert [shown(axes) for axes in drawn] == [65, 8, 11, 5, 2, 64, 7, 63, 62, 61, 60, 58, 47]
    titles = [axes.get_title() for axes in drawn]
    # 0.2 + 65 / 200, with an interval from 0.11 below it to 0.07 above
    assert titles[0].replace("0.53", "0.52").startswith("0.52\n[0.4")
    assert titles[0].endswith(", 0.60]") or titles[0].endswith(", 0.59]")
    assert titles[1:5] == ["\n0.60 ± 0.03*", "\n0.40 ± 0.04*", "\n0.20 ± 0.05", "\n0.17 ± 0.06"]
    assert titles[6] == "\n0.30*"  # its error is not known
    assert [axes.texts[0].get_text() for axes in drawn if axes.get_title()[0] == "0"][:4] == ["2", "1", "0", "2"]
    assert "the 8 most memorized training samples" in figure.get_suptitle()
    assert "200 subset models" in figure.get_suptitle()


def test_curves(made: Made, draw: Any) -> None:
    figure = draw("curves", histories=of(made, "histories", MAIN), test_groups="test_groups.parquet")
    panels = [("typical", 0), ("atypical", 0), ("typical", 1), ("atypical", 1)]
    for axes, (group, metric) in zip(figure.axes, panels, strict=True):
        assert axes.get_title() == f"{group} ({GROUPS[group]} test samples)"
        for number, run in enumerate(MAIN):
            test, train = axes.lines[2 * number : 2 * number + 2]
            assert test.get_label() == run
            assert (test.get_linestyle(), train.get_linestyle()) == ("-", ":")
            for line, split in ((test, 1), (train, 0)):
                column = 6 * split + 2 * ("all", "typical", "atypical").index(group) + metric
                assert list(line.get_xdata()) == [2, 4, 6]
                assert line.get_ydata() == pytest.approx([learned(run, 1, epoch, column) for epoch in (2, 4, 6)])
            band = axes.collections[number].get_paths()[0].get_extents()
            column = 6 + 2 * ("all", "typical", "atypical").index(group) + metric
            assert (band.y0, band.y1) == pytest.approx((learned(run, 0, 2, column), learned(run, 2, EPOCHS, column)))
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["clean accuracy", "PGD-2 accuracy"]
    assert legend(figure) == list(MAIN)
    assert "Mean over 3 seeds" in figure.get_suptitle()
    assert "L2 0.3, PGD-2" in figure.get_suptitle()


def test_weights(made: Made, draw: Any) -> None:
    runs = ("bat", "pgd_at")  # the second gives no weights
    names = [
        write(made[0], "training_samples", by_hand.training_samples(run, seed), f"{run}-{seed}.samples")
        for run in runs
        for seed in SEEDS
    ]
    figure = draw("weights", samples=names)
    left, right = figure.axes
    assert set(lines(left)) == set(lines(right)) == {"bat"}
    for run in runs[:1]:
        mean = [(10 + 2 * (0.9 - 0.1 * epoch - 0.05 - 0.01 * len(run))) / 12 for epoch in range(1, 5)]
        assert lines(left)[run] == [pytest.approx(point) for point in zip(range(1, 5), mean, strict=True)]
        assert lines(right)[run] == [(epoch, pytest.approx(2 / 12)) for epoch in range(1, 5)]
    assert (left.get_ylabel(), right.get_ylabel()) == ("mean weight in the loss", "share with a weight under 1")
    assert figure.get_suptitle().startswith("Weights of the 12 atypical training samples. Mean over 3 seeds")


def test_tradeoff(made: Made, draw: Any) -> None:
    figure = draw("tradeoff", summary="summary.parquet")
    assert len(figure.axes) == 6  # natural is hardly robust, and left out below
    for axes, group in zip(figure.axes, [*GROUPS, *GROUPS], strict=True):
        found = bars(axes)
        assert [run for run, _ in found] == list(MAIN if axes in figure.axes[:3] else MAIN[1:])
        assert axes.get_title() == f"{group} ({GROUPS[group]} test samples)"
        for run, points in found:
            x, y = (accuracy(run, "last", group, metric) for metric in ("robust", "clean"))
            ends = [end for metric in ("robust", "clean") for end in interval(made, run, "last", group, metric)]
            assert points[0] == pytest.approx([x, y, *ends])
        dotted = [line.get_xydata()[1] for line in axes.lines if line.get_linestyle() == ":"]
        for (run, _), end in zip(found, dotted, strict=True):
            assert end == pytest.approx([accuracy(run, "best", group, metric) for metric in ("robust", "clean")])
    assert (figure.axes[3].get_xlabel(), figure.axes[3].get_ylabel()) == ("robust accuracy", "clean accuracy")
    assert legend(figure) == list(MAIN)
    assert figure.get_suptitle().startswith(
        "L2 0.3, robust under AutoAttack fast. Last epoch, mean over 3 seeds with 95% intervals"
    )
    front = next(line for line in figure.axes[0].lines if line.get_drawstyle().startswith("steps"))
    # natural 86 and 5 of 90, pgd_at 82 and 33, bat 82 and 56
    assert front.get_xydata() == pytest.approx(np.array([[56, 82], [5, 86]]) / 90)
    assert "failed" not in figure.get_suptitle()


def test_overfitting(made: Made, draw: Any) -> None:
    figure = draw("overfitting", summary="summary.parquet")
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        assert axes.get_xlabel() == f"{metric} accuracy"
        drawn = iter(bars(axes))
        for place, run in enumerate(MAIN):
            for checkpoint in ("best", "last"):
                label, points = next(drawn)
                ends = interval(made, run, checkpoint, "all", metric)
                assert points[0, :4] == pytest.approx([accuracy(run, checkpoint, "all", metric), place, *ends])
                assert label == f"{checkpoint} epoch" or (place and label.startswith("_"))
        fills = [container.lines[0].get_markerfacecolor() for container in axes.containers]
        assert fills == len(MAIN) * ["white", "black"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(MAIN)
    assert legend(figure) == ["best epoch", "last epoch"]
    assert "90 test samples, mean over 3 seeds" in figure.get_suptitle()


def test_influence(made: Made, draw: Any) -> None:
    figure = draw("influence", per_sample="per_sample.parquet")
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        assert axes.get_title() == f"{metric} accuracy"
        assert [run for run, _ in bars(axes)] == list(MAIN)
        for number, (run, points) in enumerate(bars(axes)):
            # of influence -0.1 and 0.2
            for row, place, group in ((0, 0, "typical"), (1, 4, "atypical")):
                mean = accuracy(run, "last", group, metric)
                expected = [place + 0.06 * (number - 1), mean, mean - 1 / GROUPS[group], mean + 1 / GROUPS[group]]
                assert points[row, [0, 1, 4, 5]] == pytest.approx(expected)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert [label.split("n = ")[1] for label in labels] == ["60", "0", "0", "0", "30", "0"]
    assert legend(figure) == list(MAIN)


def test_finding_a(made: Made, draw: Any) -> None:
    cases = ["atypical", "top_0_1", "random_atypical", "random_top_0_1"]
    runs = ["pgd_at", *(f"pgd_at_without_{case}" for case in cases)]
    names = [f"{run}-{seed}.history" for run in runs for seed in SEEDS]
    figure = draw("finding_a", summary="summary.parquet", histories=names)
    for axes, metric in zip(figure.axes[::2], ("clean", "robust"), strict=True):
        assert axes.get_ylabel() == f"{metric} accuracy"
        found = dict(bars(axes))
        assert len(found) == 4
        for group in ("typical", "atypical"):
            for kind, prefix in (("memorized", ""), ("random", "random_")):
                points = found[f"{GROUPS[group]} {group} test samples, without {kind}"]
                drawn = ["pgd_at", *(f"pgd_at_without_{prefix}{case}" for case in ("top_0_1", "atypical"))]
                for row, run, share in zip(points, drawn, (0, 0.1, 0.12), strict=True):
                    shift = 0.001 if prefix else 0
                    ends = interval(made, run, "last", group, metric)
                    expected = [share + shift, accuracy(run, "last", group, metric), *ends]
                    assert row[[0, 1, 4, 5]] == pytest.approx(expected)
    for axes, metric in zip(figure.axes[1::2], (0, 1), strict=True):
        found = lines(axes)
        assert len(found) == 6
        for split, name in ((1, "test"), (0, "train")):
            for run in ("pgd_at", "pgd_at_without_atypical", "pgd_at_without_random_atypical"):
                expected = [(epoch, learned(run, 1, epoch, 6 * split + 4 + metric)) for epoch in (2, 4, 6)]
                assert found[f"atypical {name}, {run}"] == [pytest.approx(point) for point in expected]
    assert figure.axes[0].get_title() == "last epoch (robust: AutoAttack fast)"
    assert figure.get_suptitle().startswith("Finding (a): pgd_at without memorized samples. L2 0.3. Mean over 3 seeds")


def test_finding_b(made: Made, draw: Any) -> None:
    tables = {name: f"{name}.parquet" for name in ("comparisons", "harmful", "robust_effects")}
    figure = draw("finding_b", **tables)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [
        f"{one} − {other}"
        for case in ("harmful", "benign")
        for one, other in ((case, "all"), (case, f"random {case}"), (f"random {case}", "all"))
    ]
    comparisons = pd.read_parquet(made[0] / "comparisons.parquet").query("checkpoint == 'last' and group == 'typical'")
    comparisons = comparisons.set_index(["method", "baseline", "metric"])
    for axes, metric in zip(figure.axes[:2], ("clean", "robust"), strict=True):
        assert axes.get_title() == f"{metric} accuracy,\ntypical test samples"
        for place, ((_, points), name) in enumerate(zip(bars(axes), names, strict=True)):
            runs = [
                "pgd_at" if case == "all" else f"pgd_at_without_{case.replace(' ', '_')}" for case in name.split(" − ")
            ]
            value = 100 * (accuracy(runs[0], "last", "typical", metric) - accuracy(runs[1], "last", "typical", metric))
            ends = 100 * comparisons.loc[(*runs, metric), ["ci_low", "ci_high"]].to_numpy(float)
            assert points[0, :4] == pytest.approx([value, place, *ends])
    effects = by_hand.robust_effects().sort_values("robust_effect", ignore_index=True)
    drawn = bars(figure.axes[2])
    assert [label for label, _ in drawn] == ["benign (7)", "harmful (5)"]
    for (_, points), bad in zip(drawn, (False, True), strict=True):
        mine = effects[effects["train_index"].isin(HARMFUL) == bad]
        value = 100 * mine["robust_effect"]
        expected = np.column_stack([mine.index, value, value - 0.8, value + 0.8])
        assert points[:, [0, 1, 4, 5]] == pytest.approx(expected)
    assert "3 of 12 significantly negative" in figure.axes[2].get_title()
    assert "60 test samples, 3 seeds" in figure.get_suptitle()
    assert "Right: 80 robust subset models" in figure.get_suptitle()


def test_harmful(draw: Any) -> None:
    figure = draw("harmful", data="data.safetensors", harmful="harmful.parquet")
    drawn = [axes for axes in figure.axes if axes.images]
    # the harmful ones from the most wrong on, the benign ones from the least wrong on
    assert [shown(axes) for axes in drawn] == [*HARMFUL, *sorted(set(RARE) - set(HARMFUL), reverse=True)]
    assert drawn[1].get_title() == "2\n0.27, 0.86"  # 14: class 2, 0.2 + 14 / 200, 1 - 14 / 100
    assert drawn[5].get_title().startswith("2\n0.5")
    assert [half.get_suptitle()[:24] for half in figure.subfigs] == [
        "5 of 12 atypical trainin",
        "7 of 12 atypical trainin",
    ]


# -- what nothing can be said of


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same with a seed of pgd_at near chance."""
    folder = tmp_path_factory.mktemp("failed")
    names = make(folder)
    table = by_hand.history("pgd_at", 2).assign(train_all_clean_accuracy=0.35)
    facts = {"spec": TRAIN | {"method": PGD_AT | {"name": "pgd_at"}, "threat": by_hand.THREAT}}
    write(folder, "history", table, "pgd_at-2.history", **facts)
    by_hand.summarize(folder, names)
    return folder, names


def test_figures_name_a_training_that_failed(failed: Made, draw: Any) -> None:
    said = "The training of pgd_at failed: no comparison."
    figure = draw("tradeoff", failed[0], summary="summary.parquet")
    assert said in figure.get_suptitle()
    assert said in draw("overfitting", failed[0], summary="summary.parquet").get_suptitle()
    histories = [f"{run}-{seed}.history" for run in ("pgd_at", "pgd_at_without_atypical") for seed in SEEDS]
    histories += [f"pgd_at_without_random_atypical-{seed}.history" for seed in SEEDS]
    assert said in draw("finding_a", failed[0], summary="summary.parquet", histories=histories).get_suptitle()
    figure = draw("finding_b", failed[0], comparisons="comparisons.parquet", harmful="harmful.parquet")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == "harmful − all\nno comparison: a training failed"
    assert names[1] == "harmful − random harmful"
    assert [points[0, 1] for _, points in bars(figure.axes[0])] == [1, 4]  # the twins alone
