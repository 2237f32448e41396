"""How figures look: each artist of small ones, as text."""

from itertools import product
from pathlib import Path

import artists
import matplotlib
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

import bat.report.figures.differences
import bat.report.figures.findings
import bat.report.figures.memorization
import bat.report.figures.tradeoff
import bat.report.figures.training
from bat.evaluation.comparison import FAILED
from bat.report.figures import style


def summary() -> pd.DataFrame:
    """Of three methods, the second a variant of the first, on a group of test samples."""
    rows = pd.DataFrame(
        list(product(["bat", "bat_2", "pgd_at"], ["best", "last"], ["all"], ["clean", "robust"])),
        columns=["method", "checkpoint", "group", "metric"],
    )
    accuracy = np.array([0.8, 0.5, 0.7, 0.6, 0.82, 0.51, 0.72, 0.61, 0.9, 0.4, 0.92, 0.42])
    return rows.assign(accuracy=accuracy, ci_low=accuracy - 0.1, ci_high=accuracy + 0.05, samples=90, seeds=3)


def tradeoff(failed: tuple[str, ...] = ()) -> Figure:
    return bat.report.figures.tradeoff.tradeoff(
        summary(), methods(), tier="fast", threat="L2 1", confidence=0.95, failed=failed
    )


RUNS = pd.DataFrame(
    [
        ("bat", "bat", "method", None, "bat", "pgd_at"),
        ("bat_2", "bat", "variant", None, "bat", "pgd_at"),
        ("pgd_at", "pgd_at", "method", None, "pgd_at", ""),
        ("pgd_at_without_atypical", "pgd_at", "removal", "atypical", "pgd_at", "pgd_at"),
        ("pgd_at_without_random_atypical", "pgd_at", "random", "atypical", "pgd_at", "pgd_at"),
        ("pgd_at_without_harmful", "pgd_at", "removal", "harmful", "pgd_at", "pgd_at"),
        ("pgd_at_without_benign", "pgd_at", "removal", "benign", "pgd_at", "pgd_at"),
        ("pgd_at_without_random_benign", "pgd_at", "random", "benign", "pgd_at", "pgd_at"),
    ],
    columns=["method", "base", "role", "removed", "objective", "compared_with"],
)


def methods() -> pd.DataFrame:
    return RUNS[RUNS["removed"].isna()]


def finding_a() -> Figure:
    """Of two seeds, the last epoch without a measurement."""
    runs = ["pgd_at", "pgd_at_without_atypical", "pgd_at_without_random_atypical"]
    rows = summary().query("method == 'pgd_at'").assign(group="typical")
    histories = [
        {"method": method, "seed": seed, "epoch": epoch, "trained_samples": 90 if number else 100}
        | {"loss": np.nan}
        | {
            f"{split}_atypical_{metric}_accuracy": 0.1 * epoch + 0.2 * place - 0.03 * number + 0.02 * seed
            if epoch < 4
            else np.nan
            for place, (split, metric) in enumerate(product(("train", "test"), ("clean", "pgd")))
        }
        for (number, method), seed, epoch in product(enumerate(runs), (0, 1), (1, 2, 3, 4))
    ]
    every = [rows.assign(method=method, accuracy=rows["accuracy"] - 0.01 * place) for place, method in enumerate(runs)]
    return bat.report.figures.findings.finding_a(
        pd.concat(every),
        pd.DataFrame(histories),
        RUNS,
        tier="fast",
        threat="L2 1",
        confidence=0.95,
    )


def finding_b() -> Figure:
    pairs = [("pgd_at_without_harmful", "pgd_at"), ("pgd_at_without_benign", "pgd_at_without_random_benign")]
    columns = ["method", "baseline", "metric"]
    rows = [(*pair, metric) for pair, metric in product(pairs, ("clean", "robust"))]
    found = pd.DataFrame(rows, columns=columns).assign(
        question="removal",
        checkpoint="last",
        group="typical",
        difference=[0.1, 0.2, 0.3, 0.4],
        ci_low=-0.1,
        ci_high=0.5,
        samples=70,
        seeds=3,
        tier="fast",
        verdict=["higher", "higher", FAILED, FAILED],
    )
    effects = pd.DataFrame({"train_index": [4, 5, 6], "robust_effect": [0.01, -0.03, 0.02]})
    effects = effects.assign(robust_standard_error=0.001, models=9, robust_significant=[True, True, False])
    harmful = pd.DataFrame({"train_index": [4, 5, 6], "harmful": [False, True, False]})
    return bat.report.figures.findings.finding_b(found, RUNS, effects, harmful, threat="L2 1", confidence=0.95)


def differences() -> Figure:
    pairs = [("methods", "bat", "pgd_at"), ("methods", "bat_2", "pgd_at"), ("pairs", "bat_2", "bat")]
    rows = [
        (*pair, *cell) for pair, cell in product(pairs, product(["last", "best"], ["typical"], ["clean", "robust"]))
    ]
    found = pd.DataFrame(rows, columns=["question", "method", "baseline", "checkpoint", "group", "metric"]).assign(
        difference=[0.1, -2.0, 0.1, -1.9, 0.05, 0.1, 0.05, 0.1, 0.0, 0.0, 0.0, 0.0],
        ci_low=[0.0, -2.1, 0.0, -2.0, -0.1, 0.0, -0.1, 0.0, -0.1, -0.1, -0.1, -0.1],
        ci_high=[0.2, -1.9, 0.2, -1.8, 0.1, 0.2, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1],
        verdict=["higher", "lower"] + 2 * ["no difference shown"] + 4 * ["no difference shown"] + 4 * [FAILED],
        samples=70,
        seeds=3,
        tier="fast",
    )
    return bat.report.figures.differences.differences(found, RUNS, threat="L2 1", confidence=0.95)


def overfitting() -> Figure:
    return bat.report.figures.tradeoff.overfitting(
        summary(), methods(), tier="standard", threat="L2 1", confidence=0.9, failed=["bat"]
    )


def weights() -> Figure:
    """Of two methods and seeds, over nine epochs."""
    keys = list(product(["bat", "bat_2"], range(2), range(1, 10), range(2)))
    samples = pd.DataFrame(keys, columns=["method", "seed", "epoch", "train_index"])
    weight = 1.05 - 0.1 * (samples["seed"] + 1) * samples["train_index"] - 0.02 * samples["epoch"]
    weight -= 0.2 * (samples["method"] == "bat_2")
    return bat.report.figures.training.weights(samples.assign(weight=weight), RUNS)


def memorization(models: int) -> Figure:
    table = pd.DataFrame({"memorization": [0.0, 0.02, 0.5], "atypical": [False, False, True]})
    return bat.report.figures.memorization.memorization(table, threshold=0.15, models=models)


def shade(number: int) -> np.ndarray:
    return np.full((1, 1, 1), number / 8, np.float32)


def gallery(influence: bool, models: int) -> Figure:
    """Of one sample of a file, and one other, without a file."""
    table = pd.DataFrame({"train_index": [7, 4], "label": [0, 1], "memorization": [0.5, np.nan]})
    table = table.assign(
        ci_low=0.4, ci_high=0.6, taken_for=1, taken_for_share=0.75, file=["a/b_$x$_and_more.png", None]
    )
    pairs = pd.DataFrame({"influenced_index": [7], "train_index": [4], "influence": [0.25]})
    return bat.report.figures.memorization.gallery(
        shade,
        table,
        pairs.assign(standard_error=0.125, significant=True)[: int(influence)],
        nearest=lambda row, most: [1],
        class_names=["abc" if influence else "ab", "$b$"],
        models=models,
        rows=1,
        neighbours=1,
    )


def harmful() -> Figure:
    table = pd.DataFrame({"train_index": [3, 5], "label": [0, 1], "harmful": [True, False]})
    table = table.assign(memorization=0.5, wrong_probability=0.25)
    return bat.report.figures.memorization.harmful_gallery(shade, table, class_names=["ant", "bee"], most=4)


DRAWN = {
    "tradeoff": tradeoff,
    "tradeoff, one failed": lambda: tradeoff(("pgd_at",)),
    "differences": differences,
    "overfitting": overfitting,
    "finding_a": finding_a,
    "finding_b": finding_b,
    "weights": weights,
    "memorization": lambda: memorization(200),
    "memorization, from a file": lambda: memorization(0),
    "gallery": lambda: gallery(influence=True, models=200),
    "gallery, the nearest": lambda: gallery(influence=False, models=0),
    "harmful": harmful,
}
LOOKS = yaml.safe_load((Path(__file__).parent / "looks.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_looks_as_written_down(name: str) -> None:
    assert artists.looks(DRAWN[name]()).splitlines() == LOOKS[name].splitlines()


def test_title_and_caption_of_images_are_at_the_edges() -> None:
    figure = harmful()
    above, below = figure._suptitle, figure._supxlabel
    assert above
    assert below
    assert (above.get_position(), above.get_va()) == ((0.01, 1 - 0.08 / 6.9), "top")
    assert (below.get_position(), below.get_va()) == ((0.01, 0.01), "bottom")


def test_robust_accuracies_are_said_by_their_attacks() -> None:
    assert [style.attacks(tier) for tier in ("fast", "standard", "pgd, square")] == [
        "AutoAttack fast",
        "AutoAttack standard",
        "pgd, square",
    ]


def test_failed_trainings_are_named_in_a_line() -> None:
    assert style.about_failures([]) == ""
    assert style.about_failures(["a", "b"]) == " The training of a, b failed: no comparison."


def test_images_are_dark_on_white_where_they_are_grey_and_in_their_colours_else() -> None:
    random = np.random.default_rng(0)
    for channels, colours in ((1, "gray_r"), (3, matplotlib.rcParams["image.cmap"])):
        axes, image = Figure().add_subplot(), random.random((channels, 2, 3), dtype=np.float32)
        style.show(axes, image)
        (drawn,) = axes.images
        assert np.array_equal(drawn.get_array(), image[0] if channels == 1 else np.moveaxis(image, 0, 2))
        assert (drawn.get_cmap().name, drawn.get_clim()) == (colours, (0, 1))


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_files_are_of_their_ending_in_the_style_and_without_a_date(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{ending}"
    figure = Figure(figsize=(1, 0.5))
    figure.text(0.5, 0.5, "words")
    style.save(figure, [path])
    content = path.read_bytes()
    assert content.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[ending])
    assert b"Date" not in content
    assert b"dc:date" not in content
    if ending == "png":
        assert content[16:24] == bytes([0, 0, 0, 200, 0, 0, 0, 100])  # 200 dots an inch
    if ending == "pdf":
        assert b"/Type0" in content  # TrueType: fonttype 42
