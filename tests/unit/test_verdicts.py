"""The rules behind the words shown, not shown and too small to tell, case by case, and the tables they stand beside."""

from typing import Any

import pandas as pd
import pytest

from bat.comparison import HIGHER, LOWER, NOT_SHOWN, UNCORRECTED
from bat.report import LATEX, MARKDOWN, accuracy_table, difference_table, page, training_table
from bat.verdicts import SHOWN, TOO_SMALL, Verdict, better, finding_a, finding_b

NARROW = 0.002


def row(method: str, baseline: str, metric: str, value: float, verdict: str, **more: Any) -> dict[str, Any]:
    """A comparison; the interval reaches ``half`` to both sides of its value."""
    half = more.pop("half", NARROW)
    base = {"question": "removal", "checkpoint": "last", "group": "typical"}
    found = {"difference": value, "ci_low": value - half, "ci_high": value + half, "verdict": verdict}
    return base | {"method": method, "baseline": baseline, "metric": metric} | found | more


def removal(case: str, clean: tuple[float, str], twin: tuple[float, str], robust: float, **more: Any) -> list[Any]:
    name, random = f"m_without_{case}", f"m_without_random_{case}"
    rows = [row(name, "m", "clean", *clean, **more), row(name, random, "clean", *twin, **more)]
    rows += [
        row(name, "m", "robust", robust, NOT_SHOWN, **more),
        row(name, random, "robust", robust, NOT_SHOWN, **more),
    ]
    return [*rows, *(row(random, "m", metric, 0.0, NOT_SHOWN, **more) for metric in ("clean", "robust"))]


def answers_a(*rows: dict[str, Any]) -> list[str]:
    found = finding_a(pd.DataFrame(rows), base="m", robust_accuracy=0.4, margin=0.01)
    return [verdict.answer for verdict in found]


FAR = {"group": "atypical"}


@pytest.mark.parametrize(
    ("clean", "twin", "robust", "half", "answers"),
    [
        ((-0.2, LOWER), (-0.15, LOWER), -0.01, NARROW, [SHOWN, SHOWN]),
        # the robust loss is no smaller
        ((-0.2, LOWER), (-0.15, LOWER), -0.2, NARROW, [SHOWN, TOO_SMALL]),
        # not against as many random samples
        ((-0.2, LOWER), (-0.15, UNCORRECTED), -0.01, NARROW, [TOO_SMALL, TOO_SMALL]),
        ((-0.2, NOT_SHOWN), (-0.15, LOWER), -0.01, 0.3, [TOO_SMALL, TOO_SMALL]),
        # a loss of a point is outside the interval
        ((-0.001, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, NARROW, ["not shown: 1 points or more excluded", TOO_SMALL]),
    ],
)
def test_finding_a(
    clean: tuple[float, str], twin: tuple[float, str], robust: float, half: float, answers: list[str]
) -> None:
    assert answers_a(*removal("atypical", clean, twin, robust, half=half, **FAR)) == answers


def test_finding_a_says_where_robustness_had_no_more_to_lose() -> None:
    rows = pd.DataFrame(removal("atypical", (-0.2, LOWER), (-0.15, LOWER), -0.01, **FAR))
    for accuracy, answer in ((0.19, "shown, but with all samples it is only 19.0 %"), (0.21, SHOWN)):
        assert finding_a(rows, base="m", robust_accuracy=accuracy, margin=0.01)[1].answer == answer


def test_finding_a_looks_at_the_largest_loss_and_at_no_other_case() -> None:
    weak = removal("atypical", (-0.01, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, **FAR)
    strong = removal("top_0_1", (-0.3, LOWER), (-0.3, LOWER), 0.0, **FAR)
    harmful = removal("harmful", (-0.9, LOWER), (-0.9, LOWER), 0.0, **FAR)
    assert answers_a(*weak, *strong, *harmful) == [SHOWN, SHOWN]
    assert answers_a(*weak, *harmful)[0] == TOO_SMALL
    assert answers_a(*removal("atypical", (-0.3, LOWER), (-0.3, LOWER), 0.0)) == [TOO_SMALL, TOO_SMALL]


@pytest.mark.parametrize(
    ("clean", "twin", "half", "answer"),
    [
        ((0.02, HIGHER), (0.02, HIGHER), NARROW, SHOWN),
        ((0.02, HIGHER), (0.02, NOT_SHOWN), NARROW, TOO_SMALL),
        ((0.0, NOT_SHOWN), (0.0, NOT_SHOWN), NARROW, "not shown: 1 points or more excluded"),
        ((0.0, NOT_SHOWN), (0.0, NOT_SHOWN), 0.02, TOO_SMALL),
        ((-0.05, LOWER), (-0.05, LOWER), NARROW, "not shown: 1 points or more excluded"),
    ],
)
def test_finding_b(clean: tuple[float, str], twin: tuple[float, str], half: float, answer: str) -> None:
    rows = removal("harmful", clean, twin, 0.0, half=half) + removal("benign", (0.9, HIGHER), (0.9, HIGHER), 0.9)
    found = finding_b(pd.DataFrame(rows), base="m", margin=0.01)
    assert found.answer == answer
    assert f"{100 * clean[0]:+.1f}" in found.evidence


def test_finding_b_without_typical_samples_is_too_small() -> None:
    rows = removal("harmful", (0.9, HIGHER), (0.9, HIGHER), 0.9, **FAR)
    assert finding_b(pd.DataFrame(rows), base="m", margin=0.01).answer == TOO_SMALL


@pytest.mark.parametrize(
    ("clean", "robust", "answer"),
    [
        (HIGHER, NOT_SHOWN, SHOWN),
        (NOT_SHOWN, HIGHER, SHOWN),
        (HIGHER, LOWER, "a trade: one accuracy higher, the other lower"),
        (LOWER, NOT_SHOWN, "not shown: lower"),
        (NOT_SHOWN, UNCORRECTED, "not shown: 1 points or more excluded"),
    ],
)
def test_better(clean: str, robust: str, answer: str) -> None:
    about = {"question": "methods", "group": "all"}
    rows = [row("bat", "m", "clean", 0.001, clean, **about), row("bat", "m", "robust", 0.001, robust, **about)]
    rows += [
        row("bat", "m", metric, -0.9, LOWER, question="methods", group="typical") for metric in ("clean", "robust")
    ]
    rows += [{**worse, "checkpoint": "best", "verdict": LOWER} for worse in rows]
    table = pd.DataFrame(rows)
    assert better(table, "methods", "bat", "m", checkpoint="last", margin=0.01).answer == answer
    assert better(table, "methods", "bat", "m", checkpoint="best", margin=0.01).answer == "not shown: lower"
    wide = pd.DataFrame(rows).assign(ci_high=0.5, verdict=NOT_SHOWN)
    assert better(wide, "methods", "bat", "m", checkpoint="last", margin=0.01).answer == TOO_SMALL


def summary() -> pd.DataFrame:
    rows = [
        {
            "method": method,
            "checkpoint": checkpoint,
            "group": group,
            "metric": metric,
            "samples": samples,
            "tier": "fast",
        }
        | {"accuracy": 0.5 + place / 100, "ci_low": 0.4, "ci_high": 0.6}
        for method in ("natural", "pgd_at")
        for checkpoint in ("best", "last")
        for group, samples in (("all", 30), ("atypical", 4))
        for place, metric in enumerate(("clean", "pgd", "robust"))
    ]
    return pd.DataFrame(rows)


def test_accuracies_are_in_percent_of_the_last_epoch() -> None:
    table = summary()
    table.loc[table["checkpoint"] == "best", "accuracy"] = 0.0
    lines = accuracy_table(table, ["pgd_at", "natural"], form=MARKDOWN).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["method", "test samples", "clean", "PGD", "fast"]
    assert cells[2] == ["pgd_at", "all (30)", "50.0 [40.0, 60.0]", "51.0 [40.0, 60.0]", "52.0 [40.0, 60.0]"]
    assert [row[:2] for row in cells[3:]] == [
        ["pgd_at", "atypical (4)"],
        ["natural", "all (30)"],
        ["natural", "atypical (4)"],
    ]
    latex = accuracy_table(table, ["pgd_at"], form=LATEX)
    assert r"pgd\_at" in latex
    assert latex.count(r"\\") == 3


def test_differences_have_a_star_where_they_are_named() -> None:
    rows = [row("a", "b", "clean", 0.05, HIGHER), row("a", "b", "robust", -0.01, UNCORRECTED)]
    rows += [
        row("a", "b", "clean", 0.5, HIGHER, checkpoint="best"),
        row("a", "b", "clean", 0.5, HIGHER, question="other"),
    ]
    lines = difference_table(pd.DataFrame(rows), "removal", "last").splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert len(lines) == 3
    assert cells == ["a - b", "+5.0 [+4.8, +5.2]*", "-1.0 [-1.2, -0.8]", "no sample", "no sample"]


def test_training_is_shown_at_the_best_and_the_last_epoch() -> None:
    # seed 1 stopped early; its accuracies are a fifth of a point higher
    epochs = [(0, 1, False), (0, 2, True), (0, 3, False), (1, 1, True), (1, 2, False)]
    columns = ["train_all_pgd", "validation_all_pgd"]
    columns += [f"train_{group}_{metric}" for group in ("typical", "atypical") for metric in ("clean", "pgd")]
    rows = [
        {"method": "m", "seed": seed, "epoch": epoch, "best": best, "trained_samples": 90}
        | {f"{name}_accuracy": (10 * place + epoch + seed / 5) / 100 for place, name in enumerate(columns)}
        for seed, epoch, best in epochs
    ]
    line = training_table(pd.DataFrame(rows)).splitlines()[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # best: epochs 2 and 1, last: epochs 3 and 2
    assert cells == ["m", "90", "2 of 2", "1.6, 2.6", "11.6, 12.6", "22.6 / 32.6", "42.6 / 52.6"]


def test_page_holds_facts_answers_and_parts_in_order() -> None:
    text = page("digits", ["n is 3"], [Verdict("better?", SHOWN, "+1.0")], ["finding_a"], {"Numbers": "| a |"})
    places = [
        text.index(part)
        for part in ("## digits", "- n is 3", "better?", "![finding a](figures/finding_a.svg)", "### Numbers", "| a |")
    ]
    assert places == sorted(places)
