"""Stage figure on tables made by hand: what is drawn, where, and by which name."""

from itertools import product
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

import bat.report.figures.style
from bat.io.tables import read_table_with_facts

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
    monkeypatch.setattr(bat.report.figures.style, "save", lambda figure, paths: drawn.append(figure))

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
    assert figure.get_suptitle() == "12 of 100 training samples are atypical (12.0 %)"
    assert figure.get_supxlabel() == "100 samples with a score, 200 subset models."
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
    indices = [shown(axes) for axes in drawn]
    assert indices[:7] == [65, 8, 11, 5, 2, 64, 7]
    titles = [axes.get_title() for axes in drawn]
    # 0.2 + 65 / 200, with an interval from 0.11 below it to 0.07 above
    assert titles[0].replace("0.53", "0.52").startswith("0.52\n[0.4")
    assert titles[0].endswith(", 0.60]") or titles[0].endswith(", 0.59]")
    assert titles[1:5] == ["\n0.60 ± 0.03*", "\n0.40 ± 0.04*", "\n0.20 ± 0.05", "\n0.17 ± 0.06"]
    assert titles[6] == "\n0.30*"  # its error is not known
    # nothing influences the others: beside them are those of their class with the nearest brightness
    for number, index in enumerate((63, 62, 61, 60, 58, 47)):
        one, *near = indices[7 + 5 * number : 12 + 5 * number]
        assert (one, set(near)) == (index, {index - 3, index + 3, index - 6, index + 6})
        assert titles[8 + 5 * number : 12 + 5 * number] == ["\nnear"] * 4
    beside, below = zip(
        *([text.get_text() for text in axes.texts] for axes in drawn if axes.get_title()[0] == "0"), strict=True
    )
    assert beside[:4] == ("2", "1", "0", "2")
    assert below[:2] == ("65\ntaken for 0,\n50 %", "64\ntaken for 0,\n50 %")
    assert [axes.texts[0].get_text() for axes in drawn[1:5]] == ["8", "11", "5", "2"]
    assert figure.get_suptitle() == "The 8 most memorized training samples"
    assert "200 subset models" in figure.get_supxlabel()


def test_the_gallery_names_files(made: Made, draw: Any, tmp_path: Path) -> None:
    table, facts = read_table_with_facts(made[0] / "memorization.parquet", "memorization")
    table.loc[table["train_index"] == 65, "file"] = "a/cat.png"
    write(made[0], "memorization", table, "named.parquet", spec=facts["spec"], models=facts["models"])
    inputs = {"data": "data.safetensors", "train_influence": "train_influence.parquet"}
    figure = draw("gallery", **inputs, memorization="named.parquet")
    drawn = [axes for axes in figure.axes if axes.images]
    assert drawn[0].texts[1].get_text() == "65\ncat.png\ntaken for 0,\n50 %"
    assert drawn[5].texts[1].get_text() == "64\ntaken for 0,\n50 %"


def test_curves(made: Made, draw: Any) -> None:
    figure = draw("curves", histories=of(made, "histories", MAIN), test_groups="test_groups.parquet")
    columns = [(split, group) for split in (1, 0) for group in ("typical", "atypical")]
    for number, axes in enumerate(figure.axes):
        metric, (split, group) = number // 4, columns[number % 4]
        column = 6 * split + 2 * ("all", "typical", "atypical").index(group) + metric
        drawn = {str(line.get_label()): line for line in axes.lines if line.get_label() != "_key"}
        assert set(drawn) == set(MAIN)
        for place, (run, line) in enumerate(drawn.items()):
            assert list(line.get_xdata()) == [2, 4, 6]
            expected = [100 * learned(run, 1, epoch, column) for epoch in (2, 4, 6)]
            assert line.get_ydata() == pytest.approx(expected)
            band = axes.collections[place].get_paths()[0].get_extents()
            ends = 100 * learned(run, 0, 2, column), 100 * learned(run, 2, EPOCHS, column)
            assert (band.y0, band.y1) == pytest.approx(ends)
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["clean accuracy, %", "PGD-2 accuracy, %"]
    named = {text.get_text() for axes in figure.axes[3::4] for text in axes.texts}
    assert named == set(MAIN)
    assert "Mean over 3 seeds" in figure.get_supxlabel()
    assert "L2 0.3, PGD-2" in figure.get_supxlabel()
    train, test = (100 * learned("pgd_at", 1, EPOCHS, 6 * split + 5) for split in (0, 1))
    said = f"At the end pgd_at is right under PGD-2 on {train:.0f} % of atypical training samples, "
    assert figure.get_suptitle() == f"{said}on {test:.0f} % of atypical test samples"


def test_weights(made: Made, draw: Any) -> None:
    runs = ("bat", "pgd_at")  # the second gives no weights
    names = [
        write(made[0], "training_samples", by_hand.training_samples(run, seed), f"{run}-{seed}.samples")
        for run in runs
        for seed in SEEDS
    ]
    figure = draw("weights", samples=names)
    left, right = figure.axes
    assert set(lines(left)) == set(lines(right)) == {"bat", "_key"}
    for run in runs[:1]:
        mean = [(10 + 2 * (0.9 - 0.1 * epoch - 0.05 - 0.01 * len(run))) / 12 for epoch in range(1, 5)]
        assert lines(left)[run] == [pytest.approx(point) for point in zip(range(1, 5), mean, strict=True)]
        assert lines(right)[run] == [(epoch, pytest.approx(200 / 12)) for epoch in range(1, 5)]
    assert (left.get_ylabel(), right.get_ylabel()) == ("mean weight in the loss", "share with a weight under 1, %")
    assert figure.get_suptitle() == f"bat gives atypical samples a mean weight of {mean[-1]:.2f} in the last epoch"
    assert figure.get_supxlabel() == "12 atypical training samples. Mean over 3 seeds, band: their range."


def hundred(*values: float) -> list[float]:
    return [100 * value for value in values]


def test_tradeoff(made: Made, draw: Any) -> None:
    figure = draw("tradeoff", summary="summary.parquet")
    (axes,) = figure.axes
    found = dict(bars(axes))
    assert list(found) == ["pgd_at", "bat"]  # natural is hardly robust: it is told of
    for run, points in found.items():
        x, y = (accuracy(run, "last", "all", metric) for metric in ("robust", "clean"))
        ends = [end for metric in ("robust", "clean") for end in interval(made, run, "last", "all", metric)]
        assert points[0] == pytest.approx(hundred(x, y, *ends))
    told = " ".join(figure.get_supxlabel().split())
    low, high = hundred(*interval(made, "natural", "last", "all", "robust"))
    assert f"robust {100 * accuracy('natural', 'last', 'all', 'robust'):.1f} [{low:.1f}, {high:.1f}])" in told
    assert told.startswith("L2 0.3, robust under AutoAttack fast. 90 test samples, mean over 3 seeds, 95 % intervals ")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("robust accuracy, %", "clean accuracy, %")
    assert {text.get_text() for text in axes.texts} == {"bat", "pgd_at"}
    front = next(line for line in axes.lines if line.get_drawstyle().startswith("steps"))
    # pgd_at 82 and 33 of 90, bat 82 and 56
    assert front.get_xydata() == pytest.approx(np.array([[56, 82]]) / 0.9)
    # the same clean accuracy: the first in the order of the config
    assert figure.get_suptitle() == "Highest means: robust bat, 62.2 %; clean pgd_at, 91.1 %"
    assert "failed" not in told


def test_differences(made: Made, draw: Any) -> None:
    figure = draw("differences", comparisons="comparisons.parquet")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["natural", "bat", "bat − natural"]
    value = 100 * (accuracy("bat", "last", "all", "robust") - accuracy("pgd_at", "last", "all", "robust"))
    assert figure.get_suptitle() == f"bat minus pgd_at: clean +0.0, robust +{value:.1f} points on all test samples"
    value = 100 * (accuracy("bat", "last", "atypical", "clean") - accuracy("pgd_at", "last", "atypical", "clean"))
    drawn = {round(points[0, 1], 1): points[0, 0] for _, points in bars(figure.axes[2])}
    assert drawn[0.8] == pytest.approx(value)


def test_overfitting(made: Made, draw: Any) -> None:
    figure = draw("overfitting", summary="summary.parquet")
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        assert axes.get_xlabel() == f"{metric} accuracy, %"
        drawn = iter(bars(axes))
        for place, run in enumerate(MAIN[1:]):
            for checkpoint, shift in (("best", -0.12), ("last", 0.12)):
                points = next(drawn)[1]
                value, ends = accuracy(run, checkpoint, "all", metric), interval(made, run, checkpoint, "all", metric)
                assert points[0, [0, 2, 3]] == pytest.approx(hundred(value, *ends))
                assert points[0, 1] == pytest.approx(place + shift)
        fills = [container.lines[0].get_markerfacecolor() == "white" for container in axes.containers]
        assert fills == 2 * [True, False]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(MAIN[1:])
    assert "90 test samples, mean over 3 seeds" in " ".join(figure.get_supxlabel().split())
    lost = 100 * (accuracy("pgd_at", "best", "all", "robust") - accuracy("pgd_at", "last", "all", "robust"))
    title = f"From its best to its last epoch pgd_at loses {lost:.1f} points of robust accuracy"
    assert figure.get_suptitle().replace("\n", " ") == title


def test_influence(made: Made, draw: Any) -> None:
    figure = draw("influence", per_sample="per_sample.parquet")
    for axes, metric in zip(figure.axes, ("clean", "robust"), strict=True):
        assert axes.get_title() == f"{metric} accuracy, %"
        drawn = ["natural", "bat", "pgd_at"]
        drawn.sort(key=lambda run: run != "natural" and 1 + MAIN.index(run))
        assert [run for run, _ in bars(axes)] == drawn
        for number, (run, points) in enumerate(bars(axes)):
            # of influence -0.1 and 0.2
            for row, place, group in ((0, 0, "typical"), (1, 4, "atypical")):
                mean, one = accuracy(run, "last", group, metric), 1 / GROUPS[group]
                assert points[row, 0] == pytest.approx(place + 0.08 * (number - 1))
                assert points[row, [1, 4, 5]] == pytest.approx(hundred(mean, mean - one, mean + one))
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert [label.split("n = ")[1] for label in labels] == ["60", "0", "0", "0", "30", "0"]
    assert {text.get_text() for text in figure.axes[1].texts} == set(MAIN)


def test_finding_a(made: Made, draw: Any) -> None:
    cases = ["atypical", "top_0_1", "random_atypical", "random_top_0_1"]
    runs = ["pgd_at", *(f"pgd_at_without_{case}" for case in cases)]
    names = [f"{run}-{seed}.history" for run in runs for seed in SEEDS]
    figure = draw("finding_a", summary="summary.parquet", histories=names)
    for axes, metric in zip(figure.axes[::2], ("clean", "robust"), strict=True):
        assert axes.get_ylabel() == f"{metric} accuracy, %"
        found = dict(bars(axes))
        assert len(found) == 4
        for group in ("typical", "atypical"):
            for kind, prefix, shift in (("memorized", "", -0.12), ("random", "random_", 0.12)):
                points = found[f"{group}, without {kind}"]
                drawn = ["pgd_at", *(f"pgd_at_without_{prefix}{case}" for case in ("top_0_1", "atypical"))]
                for row, run, share in zip(points, drawn, (0, 10 + shift, 12 + shift), strict=True):
                    value, ends = accuracy(run, "last", group, metric), interval(made, run, "last", group, metric)
                    assert row[0] == pytest.approx(share)
                    assert row[[1, 4, 5]] == pytest.approx(hundred(value, *ends))
    for axes, metric in zip(figure.axes[1::2], (0, 1), strict=True):
        found = lines(axes)
        assert len(found) == 7  # with the keys of the labels
        cases = {
            "all samples": "",
            "atypical left out": "_without_atypical",
            "random left out": "_without_random_atypical",
        }
        for (split, name), (said, case) in product(((1, "test"), (0, "training")), cases.items()):
            expected = [
                (epoch, 100 * learned(f"pgd_at{case}", 1, epoch, 6 * split + 4 + metric)) for epoch in (2, 4, 6)
            ]
            assert found[f"{name}, {said}"] == [pytest.approx(point) for point in expected]
    assert "60 typical and 30 atypical test samples. L2 0.3" in figure.get_supxlabel()
    lost = 100 * (
        accuracy("pgd_at_without_atypical", "last", "atypical", "clean")
        - accuracy("pgd_at", "last", "atypical", "clean")
    )
    title = f"Without the 12 % most memorized: clean accuracy on atypical test samples {lost:.1f} points"
    assert figure.get_suptitle() == title.replace("-", "−")


def test_finding_b(made: Made, draw: Any) -> None:
    tables = {name: f"{name}.parquet" for name in ("comparisons", "harmful", "robust_effects")}
    figure = draw("finding_b", **tables)
    names = [text.get_text().replace("\n", " ") for text in figure.axes[0].get_yticklabels()]
    pairs = []
    for case in ("harmful", "benign"):
        out, twin = f"pgd_at_without_{case}", f"pgd_at_without_random_{case}"
        pairs += [(out, "pgd_at"), (out, twin), (twin, "pgd_at")]
        expected = names[len(pairs) - 3 : len(pairs)]
        assert expected == [
            f"without {case} samples − all samples",
            f"without {case} samples − as many random",
            f"without as many random as {case} samples − all samples",
        ]
    comparisons = pd.read_parquet(made[0] / "comparisons.parquet").query("checkpoint == 'last' and group == 'typical'")
    comparisons = comparisons.set_index(["method", "baseline", "metric"])
    for axes, metric in zip(figure.axes[:2], ("clean", "robust"), strict=True):
        assert axes.get_title() == f"{metric} accuracy,\ntypical test samples"
        for place, ((_, points), runs) in enumerate(zip(bars(axes), pairs, strict=True)):
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
    assert "60 test samples, 3 seeds" in figure.get_supxlabel()
    assert "Right: 80 robust subset models" in figure.get_supxlabel()
    assert figure.get_suptitle() == "Without harmful samples: clean +6.7, robust +30.0 points on typical test samples"


def test_harmful(draw: Any) -> None:
    figure = draw("harmful", data="data.safetensors", harmful="harmful.parquet")
    drawn = [axes for axes in figure.axes if axes.images]
    # the harmful ones from the most wrong on, the benign ones from the least wrong on
    assert [shown(axes) for axes in drawn] == [*HARMFUL, *sorted(set(RARE) - set(HARMFUL), reverse=True)]
    assert drawn[1].get_title() == "2\n0.27, 0.86"  # 14: class 2, 0.2 + 14 / 200, 1 - 14 / 100
    assert drawn[5].get_title().startswith("2\n0.5")
    assert figure.get_suptitle() == "5 of 12 atypical training samples are harmful"
    beside = [axes.texts[0].get_text() for axes in (figure.axes[0], figure.axes[16])]
    assert beside == ["harmful: 5 of 5", "benign: 7 of 7"]
    assert drawn[1].texts[-1].get_text() == "14"


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
    assert said in " ".join(figure.get_supxlabel().split())
    for name in ("overfitting", "typical_atypical"):
        assert said in " ".join(draw(name, failed[0], summary="summary.parquet").get_supxlabel().split())
    histories = [f"{run}-{seed}.history" for run in ("pgd_at", "pgd_at_without_atypical") for seed in SEEDS]
    histories += [f"pgd_at_without_random_atypical-{seed}.history" for seed in SEEDS]
    figure = draw("finding_a", failed[0], summary="summary.parquet", histories=histories)
    assert said in " ".join(figure.get_supxlabel().split())
    figure = draw("finding_b", failed[0], comparisons="comparisons.parquet", harmful="harmful.parquet")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == "without harmful samples −\nall samples\nno comparison: a training failed"
    assert names[1] == "without harmful samples −\nas many random"
    assert [points[0, 1] for _, points in bars(figure.axes[0])] == [1, 4]  # the twins alone
