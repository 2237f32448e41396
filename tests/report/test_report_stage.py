"""Stages figures and results around figures and a page that are made up: what is drawn, written, told and refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal
from stubs import Lines, ascii_by_default, written

import bat.report.figures.style
import bat.report.given
import bat.report.stage
from bat.config import OneCycle, Recipe, SizedModel
from bat.config.specs import ResultsSpec
from bat.errors import BatError
from bat.io.tables import read_table
from bat.report.stage import figures, results
from bat.report.tables import LATEX, MARKDOWN, accuracy_table


def test_the_page_of_results_needs_no_matplotlib() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import bat.report.stage"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- figures

INPUTS = {
    "data": "data",
    "memorization": "memorization",
    "train_influence": "train_influence",
    "test_groups": "test_groups",
    "harmful": "harmful",
    "robust_effects": "robust_effects",
    "histories": "history",
    "samples": "training_samples",
    "per_sample": "per_sample",
    "summary": "summary",
    "comparisons": "comparisons",
    "runs": "runs",
    "images": "images",
}


class Drawn:
    """Stands for files that are read, figures that are drawn, and what is saved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **figures: Callable[[Any], Any]) -> None:
        self.saved: list[tuple[Any, list[Path]]] = []
        self.given: Any = None
        monkeypatch.setattr(bat.report.given, "Given", self.take)
        monkeypatch.setattr(bat.report.stage, "FIGURES", figures)
        monkeypatch.setattr(bat.report.stage, "drawing", figures.__getitem__)
        monkeypatch.setattr(bat.report.figures.style, "save", lambda figure, paths: self.saved.append((figure, paths)))

    def take(self, files: Any) -> Any:
        self.given = files
        return files


def fails(given: Any) -> Any:
    raise KeyError("a column")


def refuses(given: Any) -> Any:
    raise BatError("--summary is needed")


def test_each_input_is_given_as_the_kind_of_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, journal = Drawn(monkeypatch, one=lambda given: ("one", given)), Lines()
    lists = ("histories", "samples", "images")
    given: dict[str, Any] = {name: [Path(name)] if name in lists else Path(name) for name in INPUTS}
    figures(journal, **given, out=[Path("one.svg")])  # type: ignore[arg-type]
    assert drawn.given == {kind: given[name] for name, kind in INPUTS.items()}
    assert drawn.saved == [(("one", drawn.given), [Path("one.svg")])]
    assert (journal.lines, journal.bars, journal.worked) == ([], [(1, "figures")], 1)


def test_what_is_not_given_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch, one=lambda given: "one")
    figures(Lines(), summary=Path("s"), histories=[], out=[Path("one.svg")])  # type: ignore[arg-type]
    assert drawn.given == {"summary": Path("s")}


def test_a_figure_is_drawn_once_for_all_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, journal = Drawn(monkeypatch, one=lambda given: "one", two=lambda given: "two"), Lines()
    out = [Path("one.svg"), Path("a/two.pdf"), Path("b/one.png")]
    figures(journal, out=out)  # type: ignore[arg-type]
    assert drawn.saved == [("one", [out[0], out[2]]), ("two", [out[1]])]
    assert journal.bars == [(2, "figures")]


def test_a_name_of_no_figure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch, one=lambda given: "one", two=lambda given: "two")
    message = refusal(lambda: figures(Lines(), out=[Path("one.svg"), Path("x/three.svg")]))  # type: ignore[arg-type]
    assert message == "--out x/three.svg: no such figure: take of one, two"
    assert drawn.saved == []


def test_a_figure_that_cannot_be_drawn_keeps_no_other_from_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, journal = Drawn(monkeypatch, one=fails, two=lambda given: "two", three=fails), Lines()
    out = [Path(f"{name}.svg") for name in ("one", "two", "three")]
    assert refusal(lambda: figures(journal, out=out)) == (  # type: ignore[arg-type]
        "one, three cannot be drawn, see the log; the other 1 can"
    )
    assert drawn.saved == [("two", [Path("two.svg")])]
    assert journal.lines == [f"figure {name} cannot be drawn with its traceback" for name in ("one", "three")]


def test_a_missing_input_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, journal = Drawn(monkeypatch, one=lambda given: "one", two=refuses), Lines()
    out = [Path("one.svg"), Path("two.svg")]
    assert refusal(lambda: figures(journal, out=out)) == "--summary is needed"  # type: ignore[arg-type]
    assert (drawn.saved, journal.lines) == ([], [])


# -- results

RECIPE = Recipe(
    epochs=2,
    batch_size=4,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=0.0,
    schedule=OneCycle(name="one_cycle", warmup=0.5),
    crop_padding=0,
    flip=False,
    label_smoothing=0.0,
    ema_decay=0.0,
)
SPEC = ResultsSpec(experiment="trial", data="digits", model=SizedModel(name="mlp", width=2), recipe=RECIPE, margin=0.01)
FACTS = {"data": "d", "spec": {"margin": 1}}
RUN = ("summary", "comparisons", "runs", "flags")
SCORED = ("memorization", "test_groups")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tmp_path = tmp_path_factory.mktemp("tables")
    accuracies: dict[str, list[Any]] = {
        "method": ["pgd_at"] * 3,
        "metric": ["clean", "pgd", "robust"],
        "checkpoint": ["last"] * 3,
        "group": ["all"] * 3,
        "samples": [9] * 3,
        "accuracy": [0.5, 0.25, 0.125],
    }
    tables = {"summary": written(tmp_path / "summary", "summary", FACTS | {"tier": "fast"}, **accuracies)}
    tables["flags"] = written(tmp_path / "flags", "flags", FACTS | {"tier": "fast"}, seed=[7])
    tables["comparisons"] = written(tmp_path / "comparisons", "comparisons", FACTS | {"tier": "fast"}, question=["q"])
    tables["runs"] = written(
        tmp_path / "runs", "runs", FACTS | {"tier": "fast"}, method=["pgd_at", "natural"], removed=[None, "top"]
    )
    tables |= {name: written(tmp_path / name, name, FACTS | {"models": 3}, label=[4]) for name in SCORED}
    histories = [written(tmp_path / f"h{seed}", "history", FACTS, seed=[seed]) for seed in (1, 2)]
    return tables | {"histories": histories}


@pytest.fixture
def given(tables: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    outputs = {name: tmp_path / f"{name}.out" for name in ("markdown", "latex", "page")}
    return tables | outputs | {"benchmarks": tmp_path / "benchmarks"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the page is made of."""
    found: list[Any] = []

    def page(*of: Any) -> str:
        found.append(of)
        return "the page: é\n"

    monkeypatch.setattr(bat.report.stage, "results_page", page)
    monkeypatch.setattr(
        bat.report.stage, "warnings_of", lambda tables: [f"a warning of {tables.runs.method[0]}", "another"]
    )
    return found


def made(given: dict[str, Any], **more: Any) -> Lines:
    journal = Lines()
    results(journal, spec=SPEC, **given | more)  # type: ignore[arg-type]
    return journal


def test_the_tables_and_the_page_are_written(given: dict[str, Any], asked: list[Any]) -> None:
    with ascii_by_default():
        journal = made(given)
    told = ["a warning of pgd_at", "another"]
    assert (journal.lines, journal.worked) == (told, 1)
    ((tables, spec, warnings, benchmarks),) = asked
    assert (spec, warnings, benchmarks) == (SPEC, told, given["benchmarks"])
    assert tables.about["tier"] == "fast"
    assert tables.scored["models"] == 3
    means = read_table(given["summary"], "summary")
    assert tables.summary.equals(means)
    assert tables.comparisons["question"].tolist() == ["q"]
    assert tables.runs["method"].tolist() == ["pgd_at", "natural"]
    assert tables.flags["seed"].tolist() == [7]
    assert tables.memorization["label"].tolist() == tables.test_groups["label"].tolist() == [4]
    assert "train_index" in tables.memorization
    assert "test_index" in tables.test_groups
    assert tables.histories["seed"].tolist() == [1, 2]
    assert tables.histories.index.tolist() == [0, 1]
    assert (tables.null_pairs, tables.harmful, tables.robust_effects) == (None, None, None)
    assert (tables.proxy_agreement, tables.duplicates) == (None, None)
    for name, form in (("markdown", MARKDOWN), ("latex", LATEX)):
        assert given[name].read_text() == accuracy_table(means, ["pgd_at"], form=form) + "\n"
    assert given["page"].read_bytes() == "the page: é\n".encode()


def test_further_tables_are_read_where_they_are_given(given: dict[str, Any], asked: list[Any], tmp_path: Path) -> None:
    null_pairs = written(tmp_path / "null_pairs", "null_pairs", FACTS, shuffle=[5])
    more = {name: written(tmp_path / name, name, FACTS, label=[6]) for name in ("harmful", "robust_effects")}
    agreement = written(tmp_path / "proxy_agreement", "proxy_agreement", FACTS, proxy=["csl"])
    repeated = written(tmp_path / "duplicates", "duplicates", FACTS, near_duplicates=[3])
    made(given, null_pairs=null_pairs, proxy_agreement=agreement, duplicates=repeated, **more)
    tables = asked[0][0]
    assert tables.null_pairs["shuffle"].tolist() == [5]
    assert tables.harmful["label"].tolist() == tables.robust_effects["label"].tolist() == [6]
    assert "wrong_share" in tables.harmful
    assert "n_out" in tables.robust_effects
    assert tables.proxy_agreement["proxy"].tolist() == ["csl"]
    assert tables.duplicates["near_duplicates"].tolist() == [3]


@pytest.mark.parametrize(
    "kind", [*RUN[1:], *SCORED, "histories", "null_pairs", "harmful", "robust_effects", "proxy_agreement", "duplicates"]
)
def test_tables_of_other_data_are_refused(kind: str, given: dict[str, Any], asked: list[Any], tmp_path: Path) -> None:
    name = {"histories": "history"}.get(kind, kind)
    columns = {"null_pairs": "pairs", "proxy_agreement": "proxy", "runs": "method", "comparisons": "method"}
    one: dict[str, list[Any]] = {columns.get(kind, "seed" if kind in ("flags", "histories") else "label"): [None]}
    path = written(tmp_path / "other", name, FACTS | {"data": "e"}, **one)
    assert refusal(lambda: made(given, **{kind: [path] if kind == "histories" else path})) == (
        f"{given['summary']} and {path} are of different data: remove the one that is out of date, and run its stage "
        "again"
    )
    assert not given["page"].exists()


@pytest.mark.parametrize(("kind", "first"), [*((kind, "summary") for kind in RUN[1:]), ("test_groups", "memorization")])
def test_tables_of_two_runs_of_a_stage_are_refused(
    kind: str, first: str, given: dict[str, Any], asked: list[Any], tmp_path: Path
) -> None:
    one: dict[str, list[Any]] = {"flags": {"seed": [1]}, "test_groups": {"label": [1]}}.get(kind, {"method": ["m"]})  # type: ignore[assignment]
    path = written(tmp_path / "other", kind, FACTS | {"spec": {"margin": 2}}, **one)
    assert refusal(lambda: made(given, **{kind: path})) == (
        f"{given[first]} and {path} are not of one run of their stage: run it again"
    )
