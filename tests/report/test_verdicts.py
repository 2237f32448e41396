"""The rules behind the words shown, not shown and too small to tell, case by case, and the tables they stand beside."""

import textwrap
from typing import Any

import pandas as pd
import pytest
from by_hand import proxy_agreement, runs_table

from bat.evaluation.comparison import EQUAL, GROUNDLESS, HIGHER, LOWER, NOT_SHOWN, UNCORRECTED
from bat.report.page import MORE, markdown_page
from bat.report.tables import LATEX, MARKDOWN, accuracy_table, agreement_table, difference_table, training_table
from bat.report.verdicts import SHOWN, TOO_SMALL, Verdict, better, points, verdict_a, verdict_b

CASES = ("atypical", "top_0_1", "top_0_2", "harmful", "benign")
RUNS = runs_table("m", *(f"m_without_{random}{case}" for random in ("", "random_") for case in CASES))
NARROW = 0.002
EXCLUDED = "not shown: gains of 1 point or more excluded"


def row(method: str, baseline: str, metric: str, value: float, verdict: str, **more: Any) -> dict[str, Any]:
    """A comparison of five seeds; the interval reaches ``half`` to both sides of its value."""
    half = more.pop("half", NARROW)
    base = {"question": "removal", "checkpoint": "last", "group": "typical", "seeds": 5}
    found = {"difference": value, "ci_low": value - half, "ci_high": value + half, "verdict": verdict}
    return base | {"method": method, "baseline": baseline, "metric": metric} | found | more


def removal(case: str, clean: tuple[float, str], twin: tuple[float, str], robust: Any, **more: Any) -> list[Any]:
    """Rows of a removal, its twin and all samples; robust: a difference, or also a verdict (against all)."""
    name, random = f"m_without_{case}", f"m_without_random_{case}"
    robust = robust if isinstance(robust, tuple) else (robust, NOT_SHOWN)
    rows = [row(name, "m", "clean", *clean, **more), row(name, random, "clean", *twin, **more)]
    rows += [
        row(name, "m", "robust", *robust, **more),
        row(name, random, "robust", robust[0], more.pop("robust_twin", NOT_SHOWN), **more),
    ]
    return [*rows, *(row(random, "m", metric, 0.0, NOT_SHOWN, **more) for metric in ("clean", "robust"))]


def answers_a(*rows: dict[str, Any]) -> list[str]:
    found = verdict_a(pd.DataFrame(rows), RUNS, base="m", robust_accuracy=0.4, margin=0.01)
    return [verdict.answer for verdict in found]


FAR = {"group": "atypical"}
QUESTIONS = (
    "(a) memorizing atypical samples raises clean accuracy on atypical test samples",
    "(a) it raises their robust accuracy less",
)


@pytest.mark.parametrize(
    ("clean", "twin", "robust", "half", "answers"),
    [
        ((-0.2, LOWER), (-0.15, LOWER), -0.01, NARROW, ["shown (clean)", SHOWN]),
        # the robust loss is no smaller
        ((-0.2, LOWER), (-0.15, LOWER), -0.2, NARROW, ["shown (clean)", TOO_SMALL]),
        # not against as many random samples
        ((-0.2, LOWER), (-0.15, UNCORRECTED), -0.01, NARROW, [TOO_SMALL, TOO_SMALL]),
        ((-0.2, NOT_SHOWN), (-0.15, LOWER), -0.01, 0.3, [TOO_SMALL, TOO_SMALL]),
        # what memorizing raises in clean accuracy it takes from the robust one
        (
            (-0.2, LOWER),
            (-0.15, LOWER),
            (0.1, HIGHER),
            NARROW,
            ["a trade: clean higher, robust lower", SHOWN],
        ),
        # a loss of a point is outside the interval, in the middle of it, at its end, and a little outside
        ((-0.001, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, NARROW, [EXCLUDED, TOO_SMALL]),
        ((-0.001, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, 0.02, [TOO_SMALL, TOO_SMALL]),
        ((-0.001, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, 0.009, [TOO_SMALL, TOO_SMALL]),
        ((-0.001, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, 0.00899, [EXCLUDED, TOO_SMALL]),
        # the other end says nothing of a loss
        ((0.02, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, 0.025, [EXCLUDED, TOO_SMALL]),
    ],
)
def test_finding_a(
    clean: tuple[float, str], twin: tuple[float, str], robust: Any, half: float, answers: list[str]
) -> None:
    assert answers_a(*removal("atypical", clean, twin, robust, half=half, **FAR)) == answers


@pytest.mark.parametrize(
    ("robust", "half", "answer"),
    [
        (-0.19, 0.004, SHOWN),
        (-0.19, 0.005, TOO_SMALL),  # the intervals touch
        (-0.19, 0.006, TOO_SMALL),  # or overlap, and only the differences are apart
        (-0.2, 0.001, TOO_SMALL),
        (-0.3, 0.001, TOO_SMALL),
    ],
)
def test_that_robust_accuracy_falls_less_needs_intervals_apart(robust: float, half: float, answer: str) -> None:
    rows = removal("atypical", (-0.2, LOWER), (-0.15, LOWER), robust, half=half, **FAR)
    assert answers_a(*rows) == ["shown (clean)", answer]


def test_finding_a_says_where_robustness_had_no_more_to_lose() -> None:
    rows = pd.DataFrame(removal("atypical", (-0.2, LOWER), (-0.15, LOWER), -0.01, **FAR))
    for accuracy, answer in (
        (0.19, "shown, but with all samples it is only 19.0 %"),
        (0.2, SHOWN),
        (0.1 + 0.1 - 1e-17, SHOWN),
        (0.21, SHOWN),
    ):
        assert verdict_a(rows, RUNS, base="m", robust_accuracy=accuracy, margin=0.01)[1].answer == answer


def test_finding_a_looks_at_the_largest_loss_and_at_no_other_case() -> None:
    weak = removal("atypical", (-0.01, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, **FAR)
    strong = removal("top_0_1", (-0.3, LOWER), (-0.3, LOWER), 0.0, **FAR)
    harmful = removal("harmful", (-0.9, LOWER), (-0.9, LOWER), 0.0, **FAR)
    assert answers_a(*weak, *strong, *harmful) == ["shown (clean)", SHOWN]
    assert answers_a(*weak, *harmful)[0] == TOO_SMALL
    found = verdict_a(pd.DataFrame([*weak, *strong]), RUNS, base="m", robust_accuracy=0.4, margin=0.01)
    assert found == [
        (
            QUESTIONS[0],
            "shown (clean)",
            "`m_without_top_0_1`: -30.0 [-30.2, -29.8] against all, -30.0 [-30.2, -29.8] against random",
        ),
        (QUESTIONS[1], SHOWN, "robust 0.0 [-0.2, +0.2], clean -30.0 [-30.2, -29.8]"),
    ]
    # of equal losses the first one is looked at
    tie = [removal(case, (-0.3, LOWER), (-0.3, LOWER), 0.0, **FAR) for case in ("top_0_2", "top_0_1", "atypical")]
    found = verdict_a(
        pd.DataFrame([row for rows in tie for row in rows]), RUNS, base="m", robust_accuracy=0.4, margin=0.01
    )
    assert found[0].evidence.startswith("`m_without_top_0_2`")


def test_without_atypical_test_samples_finding_a_has_nothing_to_test() -> None:
    nothing = "nothing to test: no atypical test sample"
    assert answers_a(*removal("atypical", (-0.3, LOWER), (-0.3, LOWER), 0.0)) == [nothing, nothing]
    rows = pd.DataFrame(removal("atypical", (-0.3, LOWER), (-0.3, LOWER), 0.0))
    found = verdict_a(rows, RUNS, base="m", robust_accuracy=0.4, margin=0.01)
    assert found == [(question, nothing, "") for question in QUESTIONS]


@pytest.mark.parametrize("groundless", GROUNDLESS)
def test_finding_a_passes_over_removals_that_say_nothing(groundless: str) -> None:
    strong = removal("top_0_1", (-0.3, LOWER), (-0.3, groundless), -0.3, **FAR)
    weak = removal("atypical", (-0.2, LOWER), (-0.2, LOWER), -0.01, **FAR)
    assert answers_a(*strong, *weak) == ["shown (clean)", SHOWN]
    assert answers_a(*strong) == [groundless, groundless]
    strong = removal("top_0_1", (-0.3, groundless), (-0.3, LOWER), -0.3, **FAR)
    found = verdict_a(pd.DataFrame(strong), RUNS, base="m", robust_accuracy=0.4, margin=0.01)
    thirty = "-30.0 [-30.2, -29.8]"
    assert found == [
        (QUESTIONS[0], groundless, f"`m_without_top_0_1`: {thirty} against all, {thirty} against random"),
        (QUESTIONS[1], groundless, f"robust {thirty}, clean {thirty}"),
    ]


@pytest.mark.parametrize(
    ("clean", "twin", "half", "answer"),
    [
        ((0.02, HIGHER), (0.02, HIGHER), NARROW, "shown (clean)"),
        ((0.02, HIGHER), (0.02, NOT_SHOWN), NARROW, TOO_SMALL),
        ((0.02, NOT_SHOWN), (0.02, HIGHER), NARROW, TOO_SMALL),
        ((0.0, NOT_SHOWN), (0.0, NOT_SHOWN), NARROW, EXCLUDED),
        ((0.0, NOT_SHOWN), (0.0, NOT_SHOWN), 0.02, TOO_SMALL),
        # the interval, not the difference, has to be under a point; at a point it is not
        ((0.005, NOT_SHOWN), (0.0, NOT_SHOWN), 0.005, TOO_SMALL),
        ((0.005, NOT_SHOWN), (0.0, NOT_SHOWN), 0.00499, EXCLUDED),
        ((-0.05, LOWER), (-0.05, LOWER), NARROW, EXCLUDED),
        *(((0.0, word), (0.0, NOT_SHOWN), NARROW, word) for word in GROUNDLESS),
        *(((0.5, HIGHER), (0.5, word), NARROW, word) for word in GROUNDLESS),
    ],
)
def test_finding_b(clean: tuple[float, str], twin: tuple[float, str], half: float, answer: str) -> None:
    rows = removal("harmful", clean, twin, 0.0, half=half) + removal("benign", (0.9, HIGHER), (0.9, HIGHER), 0.9)
    found = verdict_b(pd.DataFrame(rows), RUNS, base="m", margin=0.01)
    against_all, against_random = (points(value, value - half, value + half) for value in (clean[0], twin[0]))
    robust = points(0.0, -half, half)
    assert found == (
        "(b) fitting harmful atypical samples hurts typical ones",
        answer,
        f"`m_without_harmful`: clean {against_all} against all, {against_random} against random; "
        f"robust {robust} against all, {robust} against random",
    )


@pytest.mark.parametrize(
    ("clean", "robust", "robust_twin", "answer"),
    [
        (NOT_SHOWN, HIGHER, HIGHER, "shown (robust)"),
        (HIGHER, HIGHER, HIGHER, "shown (clean and robust)"),
        (HIGHER, NOT_SHOWN, NOT_SHOWN, "shown (clean)"),
        # the other may be lower against neither
        (HIGHER, LOWER, NOT_SHOWN, "a trade: clean higher, robust lower"),
        (HIGHER, NOT_SHOWN, LOWER, "a trade: clean higher, robust lower"),
        (LOWER, HIGHER, HIGHER, "a trade: robust higher, clean lower"),
    ],
)
def test_finding_b_names_what_gained_and_needs_the_other_not_to_lose(
    clean: str, robust: str, robust_twin: str, answer: str
) -> None:
    rows = removal("harmful", (0.02, clean), (0.02, clean), (0.02, robust), robust_twin=robust_twin)
    assert verdict_b(pd.DataFrame(rows), RUNS, base="m", margin=0.01).answer == answer


def test_without_typical_test_samples_finding_b_has_nothing_to_test() -> None:
    rows = removal("harmful", (0.9, HIGHER), (0.9, HIGHER), 0.9, **FAR)
    found = verdict_b(pd.DataFrame(rows), RUNS, base="m", margin=0.01)
    hurts = "(b) fitting harmful atypical samples hurts typical ones"
    assert found == (hurts, "nothing to test: no typical test sample", "")


@pytest.mark.parametrize(
    ("clean", "robust", "answer"),
    [
        (HIGHER, NOT_SHOWN, "shown (clean)"),
        (NOT_SHOWN, HIGHER, "shown (robust)"),
        (HIGHER, HIGHER, "shown (clean and robust)"),
        (HIGHER, LOWER, "a trade: clean higher, robust lower"),
        (LOWER, HIGHER, "a trade: robust higher, clean lower"),
        (LOWER, NOT_SHOWN, "not shown: clean lower"),
        (LOWER, LOWER, "not shown: clean and robust lower"),
        (NOT_SHOWN, UNCORRECTED, EXCLUDED),
        *((word, word, word) for word in GROUNDLESS),
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
    best = better(table, "methods", "bat", "m", checkpoint="best", margin=0.01)
    assert best.answer == "not shown: clean and robust lower"
    assert best.question == "best epoch: `bat` has a better trade-off than `m`"
    assert best.evidence == "clean +0.1 [-0.1, +0.3], robust +0.1 [-0.1, +0.3]"
    wide = pd.DataFrame(rows).assign(ci_high=0.5, verdict=NOT_SHOWN)
    assert better(wide, "methods", "bat", "m", checkpoint="last", margin=0.01).answer == TOO_SMALL


@pytest.mark.parametrize(
    ("high", "answer"), [(0.0199, "not shown: gains of 2 points or more excluded"), (0.02, TOO_SMALL)]
)
@pytest.mark.parametrize("metric", ["clean", "robust"])
def test_either_accuracy_may_gain_as_much_as_its_interval_holds(metric: str, high: float, answer: str) -> None:
    about = {"question": "methods", "group": "all"}
    rows = [row("bat", "m", each, 0.0, NOT_SHOWN, **about) for each in ("clean", "robust")]
    table = pd.DataFrame(rows)
    table.loc[table["metric"] == metric, "ci_high"] = high
    assert better(table, "methods", "bat", "m", checkpoint="last", margin=0.02).answer == answer


@pytest.mark.parametrize(("seeds", "said"), [(1, " (only 1 seed)"), (2, " (only 2 seeds)"), (3, ""), (5, "")])
def test_few_seeds_are_said(seeds: int, said: str) -> None:
    about = {"question": "methods", "group": "all", "seeds": seeds}
    table = pd.DataFrame([row("bat", "m", metric, 0.1, HIGHER, **about) for metric in ("clean", "robust")])
    found = better(table, "methods", "bat", "m", checkpoint="last", margin=0.01).answer
    assert found == f"shown (clean and robust){said}"
    rows = removal("harmful", (0.0, NOT_SHOWN), (0.0, NOT_SHOWN), 0.0, seeds=seeds)
    assert verdict_b(pd.DataFrame(rows), RUNS, base="m", margin=0.01).answer == EXCLUDED + said
    far = removal("atypical", (-0.2, LOWER), (-0.15, LOWER), -0.01, seeds=seeds, **FAR)
    assert answers_a(*far) == [f"shown (clean){said}", f"shown{said}"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((-0.0004, -0.0004, 0.0004), "0.0 [0.0, 0.0]"),
        ((0.0, -0.0, 0.0), "0.0 [0.0, 0.0]"),
        ((-0.0006, -0.012, 0.0106), "-0.1 [-1.2, +1.1]"),
    ],
)
def test_what_rounds_to_zero_has_no_sign(values: tuple[float, float, float], text: str) -> None:
    assert points(*values) == text


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


@pytest.mark.parametrize("groundless", GROUNDLESS)
def test_a_difference_that_says_nothing_is_not_written(groundless: str) -> None:
    rows = [row("a", "b", metric, 0.5, groundless) for metric in ("clean", "robust")]
    line = difference_table(pd.DataFrame(rows), "removal", "last").splitlines()[2]
    assert [cell.strip() for cell in line.strip("|").split("|")][1:3] == [groundless, groundless]


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


def test_a_group_without_samples_has_no_accuracy_in_the_table_of_training() -> None:
    columns = [f"{split}_all_pgd" for split in ("train", "validation")]
    columns += [f"train_{group}_{metric}" for group in ("typical", "atypical") for metric in ("clean", "pgd")]
    epoch = {"method": "m", "seed": 0, "epoch": 1, "best": True, "trained_samples": 9}
    values = {f"{name}_accuracy": float("nan") if "_typical_" in name else 0.5 for name in columns}
    text = training_table(pd.DataFrame([epoch | values]))
    assert "nan" not in text
    assert "| no sample / no sample " in text
    assert "| 50.0 / 50.0 " in text


def test_page_holds_facts_answers_and_parts_in_order() -> None:
    answers = [Verdict("better?", SHOWN, "+1.0")]
    text = markdown_page("digits", ["n is 3"], ["one failed"], answers, ["finding_a"], {"Numbers": "| a |"})
    places = [
        text.index(part)
        for part in (
            "## digits",
            "- n is 3",
            "\n> one failed\n",
            "better?",
            "![finding a](figures/finding_a.svg)",
            "### Numbers",
            "| a |",
        )
    ]
    assert places == sorted(places)


# -- whole texts


def said(text: str) -> str:
    return textwrap.dedent(text).strip()


def test_a_table_of_accuracies_as_a_whole() -> None:
    table = summary()
    # the order is that of the runs given, and of the table's groups
    table = pd.concat([table[table["group"] == "atypical"], table[table["group"] == "all"]])
    table = table.replace({"method": {"natural": "007"}})  # a name is text, also where it could be a number
    table.loc[table["method"] == "007", "accuracy"] += 0.1
    assert accuracy_table(table, ["pgd_at", "007"], form=MARKDOWN) == said(
        """
        | method   | test samples   | clean             | PGD               | fast              |
        |----------|----------------|-------------------|-------------------|-------------------|
        | pgd_at   | atypical (4)   | 50.0 [40.0, 60.0] | 51.0 [40.0, 60.0] | 52.0 [40.0, 60.0] |
        | pgd_at   | all (30)       | 50.0 [40.0, 60.0] | 51.0 [40.0, 60.0] | 52.0 [40.0, 60.0] |
        | 007      | atypical (4)   | 60.0 [40.0, 60.0] | 61.0 [40.0, 60.0] | 62.0 [40.0, 60.0] |
        | 007      | all (30)       | 60.0 [40.0, 60.0] | 61.0 [40.0, 60.0] | 62.0 [40.0, 60.0] |
        """
    )
    assert accuracy_table(table, ["007"], form=MARKDOWN).splitlines()[2].startswith("| 007      |")


def test_a_table_of_differences_as_a_whole() -> None:
    far = {"group": "atypical"}
    rows = [row("b", "a", "clean", 0.05, HIGHER), row("b", "a", "robust", -0.01, UNCORRECTED)]
    rows += [row("b", "a", "clean", -0.2, LOWER, **far), row("a", "c", "robust", 0.0, NOT_SHOWN, **far)]
    rows += [row("a", "c", "clean", 0.1, EQUAL), row("d", "e", "clean", 0.5, HIGHER, checkpoint="best")]
    assert difference_table(pd.DataFrame(rows), "removal", "last") == said(
        """
        | compared   | typical, clean               | typical, robust   | atypical, clean       | atypical, robust   |
        |------------|------------------------------|-------------------|-----------------------|--------------------|
        | b - a      | +5.0 [+4.8, +5.2]*           | -1.0 [-1.2, -0.8] | -20.0 [-20.2, -19.8]* | no sample          |
        | a - c      | no comparison: equal results | no sample         | no sample             | 0.0 [-0.2, +0.2]   |
        """
    )


def test_a_table_of_agreement_as_a_whole() -> None:
    table = proxy_agreement().query("metric != 'precision' or score == 'hard'")
    table.loc[table["metric"] == "precision", ["value", "ci_low", "ci_high"]] = [-0.001, -0.2, 0.001]
    lines = agreement_table(table).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["proxy", "hard, Spearman", "hard, AUC", "hard, precision at n", "soft, Spearman", "soft, AUC"]
    assert set(lines[1]) == set("|-")
    none = "0.00 [-0.20, 0.00]"
    assert cells[2:] == [
        ["csl", "0.10 [-0.10, 0.21]", "0.14 [-0.06, 0.25]", none, "0.22 [0.02, 0.33]", "0.26 [0.06, 0.37]"],
        ["lt_iqr", "0.34 [0.14, 0.45]", "0.38 [0.18, 0.49]", none, "0.46 [0.26, 0.57]", "0.50 [0.30, 0.61]"],
        [
            "half of the subset models",
            *("0.58 [0.38, 0.69]", "0.62 [0.42, 0.73]", none, "0.70 [0.50, 0.81]", "0.74 [0.54, 0.85]"),
        ],
    ]


def test_a_table_of_training_as_a_whole() -> None:
    columns = [f"{split}_all_pgd" for split in ("train", "validation")]
    columns += [f"train_{group}_{metric}" for group in ("typical", "atypical") for metric in ("clean", "pgd")]
    rows = [
        {"method": run, "seed": 0, "epoch": epoch, "best": epoch == 1, "trained_samples": trained}
        | {f"{name}_accuracy": (10 * place + epoch) / 100 for place, name in enumerate(columns)}
        for run, trained in (("m", 100), ("a", 90))
        for epoch in (1, 2)
    ]
    head, rule, *lines = training_table(pd.DataFrame(rows)).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "run",
        "trained on",
        "best epoch",
        "robust, training: best, last",
        "robust, validation: best, last",
        "typical training, clean / robust",
        "atypical training, clean / robust",
    ]
    assert set(rule) == set("|-")
    assert len(head) == len(rule) == len(lines[0])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    values = ["1 of 2", "1.0, 2.0", "11.0, 12.0", "22.0 / 32.0", "42.0 / 52.0"]
    assert cells == [["m", "100", *values], ["a", "90", *values]]
    assert lines[0].startswith("| m     | 100          | 1 of 2       |")  # texts, also where they are numbers


def test_a_page_as_a_whole() -> None:
    answers = [("better?", SHOWN, "+1.0 [0.5, 1.5]", "+2.0"), ("worse?", TOO_SMALL, "", "")]
    parts = {"Numbers": "| a |", "More": "text"}
    figures = ["finding_a", "curves", "weights"]
    head = ["question", "answer", "last epoch: differences in points", "best epoch: differences in points"]
    rows = [head, ["-"] * 4, *map(list, answers)]
    text = markdown_page("digits", ["n is 3", "m is 4"], ["one failed", "two"], answers, figures, parts)
    lines = [line for line in text.splitlines() if line]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[5:9]]
    table[1] = [cell[:1] for cell in table[1]]
    assert table == rows
    assert lines[:5] + lines[9:] == [
        "## digits",
        "- n is 3",
        "- m is 4",
        "> one failed",
        "> two",
        "![finding a](figures/finding_a.svg)",
        "![curves](figures/curves.svg)",
        MORE,
        "![weights](figures/weights.svg)",
        "### Numbers",
        "| a |",
        "### More",
        "text",
    ]
    assert text.endswith("text\n")
