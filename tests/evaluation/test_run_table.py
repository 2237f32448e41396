"""The table of runs: what each is for, its twin, and what it is compared with."""

from dataclasses import replace
from typing import Any

from methods import BAT, GAIRAT, NATURAL, PGD_AT

from bat.config import Run, Without
from bat.evaluation.summary import run_table

COLUMNS = ["method", "base", "role", "objective", "weighted", "removed", "fraction", "twin", "compared_with"]


def case(name: str, what: Any = "top", fraction: float | None = None, *, random: bool = False, base: str = "") -> Run:
    without = Without(what=what, fraction=fraction, random=random)
    role: Any = "random" if random else "removal"
    return Run(method=replace(PGD_AT, name=name), without=without, base=base or "pgd_at", role=role)


def test_runs_with_their_twins_and_what_they_are_compared_with() -> None:
    runs = [
        Run(method=PGD_AT, without=None, base="pgd_at", role="method"),
        Run(method=replace(BAT, name="bat_2"), without=None, base="bat", role="variant"),
        Run(method=NATURAL, without=None, base="natural", role="method"),
        Run(method=GAIRAT, without=None, base="gairat", role="method"),
        case("top", fraction=0.05),
        case("other_base", fraction=0.05, random=True, base="bat"),
        case("other_fraction", fraction=0.1, random=True),
        case("other_samples", "atypical", random=True),
        case("random_top", fraction=0.05, random=True),
        case("harmful", "harmful"),
        case("random_harmful", "harmful", random=True),
    ]
    pairs = {
        "methods": [("pgd_at", "natural"), ("bat_2", "pgd_at")],
        "removal": [("top", "pgd_at"), ("top", "random_top")],
    }
    pairs["pairs"] = [("pgd_at", "gairat")]
    table = run_table(runs, pairs)
    assert list(table) == COLUMNS
    rows = table.astype(object).where(table.notna(), None)
    assert rows.to_numpy().tolist() == [
        ["pgd_at", "pgd_at", "method", "pgd_at", False, None, None, None, "natural, gairat"],
        ["bat_2", "bat", "variant", "bat", True, None, None, None, "pgd_at"],
        ["natural", "natural", "method", "natural", False, None, None, None, ""],
        ["gairat", "gairat", "method", "gairat", False, None, None, None, ""],
        ["top", "pgd_at", "removal", "pgd_at", False, "top", 0.05, "random_top", "pgd_at, random_top"],
        ["other_base", "bat", "random", "pgd_at", False, "top", 0.05, None, ""],
        ["other_fraction", "pgd_at", "random", "pgd_at", False, "top", 0.1, None, ""],
        ["other_samples", "pgd_at", "random", "pgd_at", False, "atypical", None, None, ""],
        ["random_top", "pgd_at", "random", "pgd_at", False, "top", 0.05, "top", ""],
        ["harmful", "pgd_at", "removal", "pgd_at", False, "harmful", None, "random_harmful", ""],
        ["random_harmful", "pgd_at", "random", "pgd_at", False, "harmful", None, "harmful", ""],
    ]
