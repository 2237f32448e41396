"""Stages summary and results on tables made by hand: the numbers on the page are those of the tables."""

import re
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pandas as pd
import pytest
from by_hand import ATYPICAL, LEFT_OUT, MAIN, PAIRS, RIGHT, TYPICAL, accuracy, history, make, per_sample, write
from stages import PGD_AT, SCORES, TRAIN, fails

from bat.evaluation.comparison import EQUAL, FAILED, HIGHER, LOWER, NOTHING_LEFT_OUT, UNFAIR
from bat.io.tables import read_table_with_facts
from bat.report.page import _proxies, _repeated

Made = tuple[Path, dict[str, list[str]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("by_hand")
    names = make(folder)
    by_hand.summarize(folder, names)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "a.tsv").write_text("s\tcpu_time\n90\tNA\n")
    by_hand.page(folder, names)
    return folder, names


@pytest.fixture(scope="module")
def text(made: Made) -> str:
    return (made[0] / "results.md").read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def section(text: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading, by their first cell (and the second, if that is needed)."""
    table = text.split(f"### {heading}")[1].split("###")[0]
    rows = [cells(line) for line in table.splitlines() if line.startswith("|")][2:]
    firsts = [row[0] for row in rows]
    return {row[0] if firsts.count(row[0]) == 1 else " ".join(row[:2]): row for row in rows}


def answers(text: str) -> dict[str, tuple[str, str]]:
    return {question: (row[1], row[2]) for question, row in section(text, "Answers").items()}


def short(text: str) -> dict[str, list[str]]:
    """The answers above the line that divides the page: answer, and the evidence of the last and of the best epoch."""
    head = text.partition("\n<!-- all tables -->\n")[0]
    rows = [cells(line) for line in head.splitlines() if line.startswith("|")][2:]
    return {row[0]: row[1:] for row in rows}


def values(folder: Path, kind: str, **keys: str) -> "pd.Series[Any]":
    table = pd.read_parquet(folder / f"{kind}.parquet")
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_summary_has_each_accuracy_in_its_place(made: Made) -> None:
    table = pd.read_parquet(made[0] / "summary.parquet")
    assert len(table) == len(RIGHT) * 2 * 3 * 3
    for row in table.itertuples():
        assert row.accuracy == pytest.approx(accuracy(row.method, row.checkpoint, row.group, row.metric))
        assert row.ci_low < row.accuracy < row.ci_high
        assert (row.seeds, row.tier) == (3, "fast")
        assert row.samples == {"all": 90, "typical": TYPICAL, "atypical": ATYPICAL}[row.group]
    by_seed = pd.read_parquet(made[0] / "by_seed.parquet")
    for row in by_seed.itertuples():
        moved = (row.seed - 1) * (2 if row.group == "all" else 1) / row.samples
        assert row.accuracy == pytest.approx(accuracy(row.method, row.checkpoint, row.group, row.metric) + moved)


def test_comparisons_have_each_difference_in_its_place(made: Made) -> None:
    table = pd.read_parquet(made[0] / "comparisons.parquet")
    assert len(table) == sum(map(len, PAIRS.values())) * 2 * 3 * 3
    for row in table.itertuples():
        first, second = (accuracy(run, row.checkpoint, row.group, row.metric) for run in (row.method, row.baseline))
        assert row.difference == pytest.approx(first - second)
        assert (row.method, row.baseline) in PAIRS[row.question]
    facts = read_table_with_facts(made[0] / "comparisons.parquet", "comparisons")[1]
    assert facts["failed"] == {}


def difference(folder: Path, method: str, baseline: str, group: str, metric: str, checkpoint: str = "last") -> str:
    row = values(
        folder, "comparisons", method=method, baseline=baseline, group=group, metric=metric, checkpoint=checkpoint
    )
    numbers = [f"{100 * row[name]:+.1f}" for name in ("difference", "ci_low", "ci_high")]
    value, low, high = ("0.0" if number in ("+0.0", "-0.0") else number for number in numbers)
    return f"{value} [{low}, {high}]"


def test_answers_are_those_of_the_tables(made: Made, text: str) -> None:
    folder, found = made[0], answers(text)
    a, less, b, last, last_pair, *others = found.items()
    name = "pgd_at_without_atypical"
    assert a[0] == "(a) memorizing atypical samples raises clean accuracy on atypical test samples"
    assert a[1] == (
        "shown (clean)",
        f"`{name}`: {difference(folder, name, 'pgd_at', 'atypical', 'clean')} against all, "
        f"{difference(folder, name, 'pgd_at_without_random_atypical', 'atypical', 'clean')} against random",
    )
    assert a[1][1].startswith("`pgd_at_without_atypical`: -73.3 [")
    # 3 of 30 at the last epoch; 15 at the best
    assert less[1] == (
        "shown, but with all samples it is only 10.0 %",
        f"robust {difference(folder, name, 'pgd_at', 'atypical', 'robust')}, "
        f"clean {difference(folder, name, 'pgd_at', 'atypical', 'clean')}",
    )
    assert less[1][1].startswith("robust -3.3 [")
    assert b[0] == "(b) fitting harmful atypical samples hurts typical ones"
    assert b[1][0] == "shown (robust)"
    name = "pgd_at_without_harmful"
    for metric, with_all, with_twin in (("clean", "+6.7", "+13.3"), ("robust", "+30.0", "+35.0")):
        pairs = [difference(folder, name, other, "typical", metric) for other in ("pgd_at", RANDOM)]
        assert f"{metric} {pairs[0]} against all, {pairs[1]} against random" in b[1][1]
        assert [pair.split(" [")[0] for pair in pairs] == [with_all, with_twin]
    assert last[0] == "last epoch: `bat` has a better trade-off than `pgd_at`"
    assert last[1][0] == "shown (robust)"
    assert last[1][1].startswith("clean 0.0 [")
    assert ", robust +25.6 [" in last[1][1]
    best = found["best epoch: `bat` has a better trade-off than `pgd_at`"]
    assert best[0] == "not shown: clean and robust lower"
    assert best[1].startswith("clean -26.7 [")
    assert last_pair[0] == "best epoch: `bat` has a better trade-off than `pgd_at`"
    assert [question for question, _ in others] == [
        f"{epoch} epoch: `bat` has a better trade-off than `natural`" for epoch in ("last", "best")
    ]


RANDOM = "pgd_at_without_random_harmful"


def test_facts_are_those_of_the_tables(text: str) -> None:
    lines = text.split("\n\n")[1].splitlines()
    assert (
        lines[0] == "- 100 training and 90 test samples of digits; mlp, width 16; 12 epochs; 3 seeds per method, paired"
    )
    assert lines[1] == "- threat: L2 0.3; robust accuracy (tier): fast"
    assert lines[2] == "- 12 training and 30 test samples are atypical (200 subset models)"
    assert lines[3] == (
        "- subset models are right on 87.0% of what they were trained on and on 60.0% of what they were not; 6 "
        "training samples are wrong in most models trained on them, which hides their memorization: raise "
        "memorization.recipe.epochs"
    )
    assert lines[4].endswith(
        ": 40 of 360; with the models' results shuffled 1.50 (mean of 2 shuffles), where the threshold alone would "
        "take 40"
    )
    assert lines[5] == "- 5 of 12 atypical training samples are harmful"
    assert lines[6] == (
        "- robust subset models (80): of 12 atypical training samples 3 lower and 1 raise the robust accuracy of "
        "typical test samples significantly"
    )
    assert lines[7] == "- signs of overestimated robustness: masked on 2 models (bat)"
    assert lines[8].startswith(
        "- 1 jobs of one thread, 2 minutes one after the other with waiting and pauses, at least 0 of them"
    )
    assert lines[9].startswith("- intervals: 95%, ")
    assert "\n> " not in text  # nothing to be warned of
    figures = [re.findall(r"!\[.*\]\(figures/(\w+)\.svg\)", part) for part in text.split("<!-- all tables -->")]
    assert figures == [["differences", "finding_a"], ["typical_atypical", "overfitting", "tradeoff", "finding_b"]]


def test_in_short_the_last_and_the_best_epoch_are_side_by_side(made: Made, text: str) -> None:
    found, full = short(text), answers(text)
    findings = [question for question in full if question.startswith("(")]
    methods = [question.removeprefix("last epoch: ") for question in full if question.startswith("last epoch: ")]
    assert list(found) == findings + methods
    for question in methods:
        (last, last_numbers), (best, best_numbers) = (full[f"{epoch} epoch: {question}"] for epoch in ("last", "best"))
        answer = last if last == best else f"last: {last}; best: {best}"
        assert found[question] == [answer, last_numbers, best_numbers]
    assert found["`bat` has a better trade-off than `pgd_at`"][0] == (
        "last: shown (robust); best: not shown: clean and robust lower"
    )
    for question in findings:
        assert found[question][:2] == list(full[question])
    name, twin = "pgd_at_without_harmful", RANDOM
    numbers = [
        f"{metric} {difference(made[0], name, 'pgd_at', 'typical', metric, 'best')} against all, "
        f"{difference(made[0], name, twin, 'typical', metric, 'best')} against random"
        for metric in ("clean", "robust")
    ]
    assert found[findings[2]][2] == f"`{name}`: {'; '.join(numbers)}"
    # what goes to RESULTS.md: a few dozen lines
    assert len(text.partition("<!-- all tables -->")[0].splitlines()) < 45


def test_accuracies_are_those_of_the_last_epoch(made: Made, text: str) -> None:
    rows = section(text, "Accuracy in percent, 95% intervals")
    assert list(rows) == [f"{run} {group}" for run in MAIN for group in ("all (90)", "typical (60)", "atypical (30)")]
    for row in rows.values():
        for metric, cell in zip(("clean", "pgd", "robust"), row[2:], strict=True):
            group = row[1].split()[0]
            found = values(made[0], "summary", method=row[0], checkpoint="last", group=group, metric=metric)
            assert cell.split(" [")[0] == f"{100 * accuracy(row[0], 'last', group, metric):.1f}"
            assert cell.endswith(f" [{100 * found['ci_low']:.1f}, {100 * found['ci_high']:.1f}]")
    assert (made[0] / "summary.md").read_text() in text
    latex = (made[0] / "summary.tex").read_text()
    assert f"{100 * accuracy('bat', 'last', 'atypical', 'robust'):.1f} [" in latex


@pytest.mark.parametrize("checkpoint", ["last", "best"])
@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("methods", "Methods minus the baseline"),
        ("pairs", "Further pairs"),
        ("removal", "Training without some samples"),
    ],
)
def test_differences_stand_under_their_heading(
    made: Made, text: str, question: str, heading: str, checkpoint: str
) -> None:
    rows = section(text, f"{heading}, {checkpoint} epoch: differences in points")
    assert list(rows) == [f"{method} - {baseline}" for method, baseline in PAIRS[question]]
    stars = 0
    for (method, baseline), row in zip(PAIRS[question], rows.values(), strict=True):
        columns = [(group, metric) for group in ("typical", "atypical") for metric in ("clean", "robust")]
        for (group, metric), cell in zip(columns, row[1:], strict=True):
            keys = {"method": method, "baseline": baseline, "group": group, "metric": metric}
            verdict = values(made[0], "comparisons", **keys, checkpoint=checkpoint)["verdict"]
            star = "*" if verdict in (HIGHER, LOWER) else ""
            assert cell == difference(made[0], method, baseline, group, metric, checkpoint) + star
            stars += bool(star)
    assert stars > 0


def test_training_is_that_of_the_histories(text: str) -> None:
    rows = section(text, "Training, accuracies in percent, robust under the attack of training")
    assert list(rows) == list(RIGHT)
    for run, row in rows.items():
        best, last = (
            pd.concat([history(run, seed) for seed in by_hand.SEEDS]).query(f"epoch == {epoch}").mean(numeric_only=True)
            for epoch in (4, 6)
        )
        percent = [
            [f"{100 * each[f'{name}_accuracy']:.1f}" for each in epochs for name in names]
            for epochs, names in (
                ((best, last), ["train_all_pgd"]),
                ((best, last), ["validation_all_pgd"]),
                ((last,), ["train_typical_clean", "train_typical_pgd"]),
                ((last,), ["train_atypical_clean", "train_atypical_pgd"]),
            )
        ]
        assert row[1:3] == [str(100 - LEFT_OUT[run]), "4 of 6"]
        assert row[3:] == [", ".join(pair) for pair in percent[:2]] + [" / ".join(pair) for pair in percent[2:]]


# -- what nothing can be said of


def lost(folder: Path, run: str, seed: int, value: float = 0.35) -> None:
    """Make the history of a run and seed one that is near chance, which is 0.34."""
    table = history(run, seed)
    table["train_all_clean_accuracy"] = value
    facts = {"spec": TRAIN | {"method": PGD_AT | {"name": run}, "seed": seed}}
    write(folder, "history", table, f"{run}-{seed}.history", **facts)


def test_no_answer_stands_on_a_training_that_failed(tmp_path: Path) -> None:
    names = make(tmp_path)
    lost(tmp_path, "pgd_at", 2)
    by_hand.summarize(tmp_path, names)
    text = by_hand.page(tmp_path, names)
    warning = next(line for line in text.splitlines() if line.startswith("> "))
    reason = "seed 2 did not train (35.0 %, chance 34.0 %)"
    assert warning == f"> The training of `pgd_at` failed, so that no comparison with it counts: {reason}."
    assert text.index(warning) < text.index("| question")
    found = answers(text)
    assert {answer for question, (answer, _) in found.items() if "`natural`" not in question} == {FAILED}
    others = [answer for question, (answer, _) in found.items() if "`natural`" in question]
    assert others == 2 * ["a trade: robust higher, clean lower"]
    for checkpoint in ("last", "best"):
        rows = section(text, f"Methods minus the baseline, {checkpoint} epoch: differences in points")
        assert all(row[1:] == 4 * [FAILED] for row in rows.values())
    rows = section(text, "Training without some samples, last epoch: differences in points")
    twins = [row for name, row in rows.items() if not name.endswith("- pgd_at")]
    assert len(twins) == 4
    assert not any(FAILED in row for row in twins)
    for name in ("summary", "comparisons"):
        facts = read_table_with_facts(tmp_path / f"{name}.parquet", name)[1]
        assert facts["failed"] == {"pgd_at": reason}
    assert f"pgd_at: {reason}" in (tmp_path / "summary.log").read_text()


def test_a_method_that_failed_spoils_only_its_own_comparisons(tmp_path: Path) -> None:
    names = make(tmp_path)
    lost(tmp_path, "bat", 0)
    by_hand.summarize(tmp_path, names)
    found = answers(by_hand.page(tmp_path, names))
    assert [answer for answer, _ in found.values()][:3] == [
        "shown (clean)",
        "shown, but with all samples it is only 10.0 %",
        "shown (robust)",
    ]
    assert {answer for question, (answer, _) in found.items() if "`bat`" in question} == {FAILED}


def renamed(folder: Path, run: str, like: str, trained: int) -> None:
    """Give ``run`` the results of another run, and its history so many samples."""
    for seed in by_hand.SEEDS:
        table, facts = read_table_with_facts(folder / f"{like}-{seed}.parquet", "attacked")
        write(folder, "attacked", table.assign(method=run), f"{run}-{seed}.parquet", spec=facts["spec"])
        table = history(run, seed).assign(trained_samples=trained)
        facts = {"spec": TRAIN | {"method": PGD_AT | {"name": run}, "seed": seed}}
        write(folder, "history", table, f"{run}-{seed}.history", **facts)


def test_the_removal_of_no_sample_tests_nothing(tmp_path: Path) -> None:
    names = make(tmp_path)
    for random in ("", "random_"):
        renamed(tmp_path, f"pgd_at_without_{random}harmful", "pgd_at", 100)
    by_hand.summarize(tmp_path, names)
    text = by_hand.page(tmp_path, names)
    found = answers(text)
    assert found["(b) fitting harmful atypical samples hurts typical ones"][0] == NOTHING_LEFT_OUT
    assert found["(a) memorizing atypical samples raises clean accuracy on atypical test samples"][0] == "shown (clean)"
    rows = section(text, "Training without some samples, last epoch: differences in points")
    assert rows["pgd_at_without_harmful - pgd_at"][1:] == 4 * [NOTHING_LEFT_OUT]


def test_without_a_fair_twin_another_removal_answers(tmp_path: Path) -> None:
    names = make(tmp_path)
    renamed(tmp_path, "pgd_at_without_random_atypical", "pgd_at_without_random_atypical", 90)
    by_hand.summarize(tmp_path, names)
    found = answers(by_hand.page(tmp_path, names))
    evidence = found["(a) memorizing atypical samples raises clean accuracy on atypical test samples"]
    assert evidence[0] == "shown (clean)"
    assert evidence[1].startswith("`pgd_at_without_top_0_1`: -40.0 [")
    renamed(tmp_path, "pgd_at_without_random_top_0_1", "pgd_at_without_random_top_0_1", 91)
    by_hand.summarize(tmp_path, names)
    found = answers(by_hand.page(tmp_path, names))
    assert [answer for answer, _ in found.values()][:2] == [UNFAIR, UNFAIR]


def test_equal_runs_under_two_names_are_not_compared(tmp_path: Path) -> None:
    names = make(tmp_path)
    renamed(tmp_path, "bat", "pgd_at", 100)
    by_hand.summarize(tmp_path, names)
    found = answers(by_hand.page(tmp_path, names))
    assert found["last epoch: `bat` has a better trade-off than `pgd_at`"][0] == EQUAL
    # said once: neither accuracies nor other differences of the second name
    text = (tmp_path / "results.md").read_text()
    assert (
        "- `bat` is right and wrong on the same test samples as `pgd_at`, at the last and the best epoch: it is left"
        in text
    )
    assert not any("`natural`" in question for question in found)
    rows = section(text, "Accuracy in percent, 95% intervals")
    assert {row[0] for row in rows.values()} == {"natural", "pgd_at"}
    assert "Further pairs" in text
    assert section(text, "Further pairs, last epoch: differences in points") == {}


def test_without_atypical_test_samples_the_page_says_what_would_do(tmp_path: Path) -> None:
    names = make(tmp_path, atypical=0)
    by_hand.summarize(tmp_path, names)
    text = by_hand.page(tmp_path, names)
    warning = next(line for line in text.splitlines() if line.startswith("> "))
    # 4 atypical training samples of each class and 30 test samples: 360 pairs; Benjamini and Hochberg's level is 0.3
    assert warning.startswith("> No test sample is atypical, so nothing is said of such samples: none of 360 pairs")
    assert "with 200 models: raise memorization.subset_models to 523 or more" in warning
    found = answers(text)
    assert [answer for answer, _ in found.values()][:2] == 2 * ["nothing to test: no atypical test sample"]
    rows = section(text, "Methods minus the baseline, last epoch: differences in points")
    assert all(row[3:] == 2 * ["no sample"] for row in rows.values())
    assert "nan" not in text.replace("resonance", "")


def test_with_atypical_test_samples_alone_finding_b_has_nothing_to_test(tmp_path: Path) -> None:
    names = make(tmp_path, atypical=90)
    by_hand.summarize(tmp_path, names)
    text = by_hand.page(tmp_path, names)
    assert "\n> No test sample is typical, so nothing is said of such samples: raise memorization.threshold.\n" in text
    found = answers(text)
    assert (
        found["(b) fitting harmful atypical samples hurts typical ones"][0] == "nothing to test: no typical test sample"
    )


def test_the_page_has_each_agreement_in_its_place_and_what_proxies_are_no_measure_of(text: str) -> None:
    rows = section(text, "Proxies of memorization")
    table = by_hand.proxy_agreement()
    assert [*rows] == table["proxy"].unique().tolist()
    heads = [f"{score}, {metric}" for score in ("hard", "soft") for metric in ("Spearman", "AUC", "precision at n")]
    assert f"| proxy | {' | '.join(heads)} |" in re.sub(" +", " ", text)
    for proxy, row in rows.items():
        values = table[table["proxy"] == proxy]["value"]
        assert row[1:] == [f"{value:z.2f} [{value - 0.2:z.2f}, {value + 0.11:z.2f}]" for value in values]
    assert "From natural training alone, means over 4 runs; 95% bootstrap" in text
    assert "n: 12 (hard score) and 9 (soft score)." in text
    assert "Proxies do not follow how memorization changes with the size of a network (Lukasik et al." in text
    halves = "Half of the subset models against the other half says how far the scores agree with themselves."
    assert halves in text
    # of scores from a file
    assert halves not in _proxies(table[table["proxy"] == "csl"], "95%")


@pytest.mark.parametrize(
    ("near", "other", "influence", "said"),
    [
        ([0, 0, 0], 0, [np.nan] * 3, None),
        ([1, 1, 0], 0, [0.9, 0.1, np.nan], "2 training samples have a near-duplicate of their class, which may hide "
         "the memorization of 1; 0 have one with another label"),
        ([1, 1, 0], 1, [np.nan, 0.1, np.nan], "2 training samples have a near-duplicate of their class, which may hide "
         "the memorization of 0 (not known for 1); 1 have one with another label"),
    ],
)  # fmt: skip
def test_the_page_tells_of_near_duplicates_where_there_are_any(
    near: list[int], other: int, influence: list[float], said: str | None
) -> None:
    table = pd.DataFrame({"near_duplicates": near, "duplicates_influence": influence, "atypical": False})
    table = table.assign(hidden=table["duplicates_influence"] > 0.2, other_near_duplicate=[other == 1, False, False])
    assert _repeated(table) == ([said] if said else [])
    assert _repeated(None) == []


def test_with_the_least_there_can_be_a_page_is_written(tmp_path: Path) -> None:
    runs = ["pgd_at", "bat"]
    names = make(tmp_path, runs=runs)
    by_hand.summarize(tmp_path, names, questions={"methods": [("bat", "pgd_at")], "pairs": [], "removal": []})
    scored = {"spec": {"threshold": SCORES["threshold"], "format": "table"}, "models": 0}
    write(
        tmp_path,
        "memorization",
        by_hand.memorization().assign(memorization=float("nan"), atypical=False, p_in=float("nan")),
        **scored,
    )
    write(tmp_path, "test_groups", by_hand.groups(0), **scored)
    write(tmp_path, "null_pairs", pd.DataFrame({"shuffle": [0], "found": [3]}))
    nothing = ("harmful", "robust_effects", "proxy_agreement")
    text = by_hand.page(tmp_path, names, without=nothing)
    assert "nan" not in text
    assert "0 jobs of one thread" in text
    assert "Proxies" not in text
    assert "(scores from a file)" in text
    assert "subset models" not in text
    assert "> No test sample is atypical" in text
    assert len(answers(text)) == 2
    write(tmp_path, "harmful", by_hand.harmful()[:0])
    write(tmp_path, "robust_effects", by_hand.robust_effects()[:0])
    text = by_hand.page(tmp_path, names)
    assert "- 0 of 0 atypical training samples are harmful\n" in text
    assert "- robust subset models (0): of 0 atypical training samples 0 lower and 0 raise" in text


def test_a_run_of_unknown_training_is_refused(made: Made, capsys: Any) -> None:
    folder, names = made
    histories = [name for name in names["histories"] if name != "bat-1.history"]
    outputs = {
        name: f"again-{name}.parquet"
        for name in ("per_sample", "by_seed", "summary", "comparisons", "runs", "all_flags")
    }
    outputs |= {"raised": "again.csv"}
    spec = by_hand.SUMMARY | {"questions": PAIRS, "runs": by_hand.planned(by_hand.RIGHT)}
    inputs = {"files": "files.parquet", "flags": names["flags"], "attacked": names["attacked"]}
    inputs |= {"test_groups": "test_groups.parquet"}
    line = fails(capsys, "summary", folder, spec=spec, **inputs, histories=histories, **outputs)
    assert "--histories: none of bat, seed 1" in line
    assert per_sample("bat", 1)["method"].eq("bat").all()
