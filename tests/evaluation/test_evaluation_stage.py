"""Stages evaluate and summary on made-up models and tables: what is attacked when, what is written, what is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from methods import BAT, NATURAL, PGD_AT
from refusals import refusal
from stubs import Lines, written
from torch import Tensor, nn

import bat.evaluation.direct
import bat.evaluation.stage
from bat.attacks.ensemble import STANDARD
from bat.config import ApgdCe, EvaluationPgd, Run, SizedModel, Threat
from bat.config.specs import EvaluateSpec, SummarySpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.errors import BatError
from bat.evaluation.comparison import FAILED, comparison_table
from bat.evaluation.flags import Probe
from bat.evaluation.stage import evaluate, summary
from bat.evaluation.summary import accuracies_by_seed, run_table, summary_table
from bat.evaluation.under_attack import BATCH_FORMAT, sample_table
from bat.io.files import provenance
from bat.io.tables import read_table, read_table_with_facts
from bat.io.tensors import read_tensors, write_tensors
from bat.models import build

MODEL = SizedModel(name="mlp", width=2)
APGD = ApgdCe(name="apgd_ce", steps=2, restarts=1, rho=0.75)
SPEC = EvaluateSpec(
    model=MODEL,
    threat=Threat(norm="linf", eps=0.1),
    seed=5,
    batch_size=4,
    pgd=EvaluationPgd(name="pgd", steps=1, step_size=0.1, restarts=1),
    ensemble=(APGD,),
)


def part(n: int, first: int) -> Part:
    pixels = torch.arange(first, first + 4 * n).view(n, 1, 2, 2).to(torch.uint8)
    return Part(pixels, torch.arange(n) % 2, torch.arange(n) + first, pixel_max=255)


DATA = DataSet(part(4, 0), part(3, 50), part(6, 100), classes=2)
TRAINING = {"method": {"name": "bat"}, "seed": 3, "model": asdict(MODEL)}


# -- evaluate


class Attacks:
    """Stand for what looks at a model and attacks it, and keep what they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, raised: tuple[bool, ...] = (False,)) -> None:
        self.attacked: list[tuple[float, list[int], dict[str, Any]]] = []
        self.probed: list[tuple[float, int, int]] = []
        self.flagged: list[dict[str, Any]] = []
        self.raised = raised
        for name, function in (("probe", self.probe), ("attack_samples", self.attack)):
            monkeypatch.setattr(bat.evaluation.stage, name, function)
        monkeypatch.setattr(bat.evaluation.direct, "find_flags", self.flags)

    def probe(self, model: nn.Module, part: Part, batch_size: int) -> Probe:
        self.probed.append((bias(model), len(part), batch_size))
        return Probe(torch.full((6, 2), bias(model)), 0.0, 0.0)

    def attack(self, model: nn.Module, part: Part, rows: Tensor, **given: Any) -> dict[str, Tensor]:
        self.attacked.append((bias(model), rows.tolist(), given))
        return {
            "predicted": part.labels[rows],
            "pgd_correct": rows % 2 == 0,
            "broken_by": torch.where(rows < 3, 0, -1),
            "margin": rows + bias(model),
            "x_adv": part.images(rows) + bias(model),
            "nonfinite": rows == 1,
        }

    def flags(self, model: nn.Module, part: Part, table: pd.DataFrame, **given: Any) -> pd.DataFrame:
        self.flagged.append(given | {"bias": bias(model), "samples": len(part), "rows": table["label"].tolist()})
        rows = [("a_flag", 0.123456789, 0.01, raised, "means something") for raised in self.raised]
        return pd.DataFrame(rows, columns=["flag", "value", "limit", "raised", "meaning"])


def bias(model: Any) -> float:
    return float(model.head.bias.detach()[0])


def trained(path: Path, bias: float, **changed: Any) -> None:
    weights = build(MODEL, DATA.train, classes=2, seed=0).state_dict() | {"head.bias": torch.tensor([bias, 0.0])}
    facts: dict[str, Any] = {"spec": TRAINING, "data": DATA.digest(), "epoch": 1} | changed
    write_tensors(path, weights, provenance("model", **facts))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_data(tmp_path / "data", DATA, provenance("data"))
    trained(tmp_path / "best", 1.0)
    trained(tmp_path / "last", 2.0, epoch=2)
    return tmp_path


def evaluated(folder: Path, spec: EvaluateSpec = SPEC, **more: Any) -> Lines:
    journal, names = Lines(), ("data", "best", "last", "attacked", "flags")
    evaluate(journal, spec=spec, **{name: folder / name for name in names}, **more)  # type: ignore[arg-type]
    return journal


def test_both_checkpoints_are_attacked_batch_by_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = Attacks(monkeypatch)
    journal = evaluated(folder, images=folder / "images")
    given = {"threat": SPEC.threat, "pgd_attack": SPEC.pgd, "ensemble": (APGD,), "seed": 5}
    assert attacks.attacked == [(which, rows, given) for which in (1, 2) for rows in ([0, 1, 2, 3], [4, 5])]
    assert attacks.probed == [(1, 6, 4), (2, 6, 4)]
    for which, flagged in zip((1, 2), attacks.flagged, strict=True):
        assert float(flagged.pop("before").logits.mean()) == which
        assert flagged.pop("ensemble") == (APGD,)
        assert flagged == {"batch_size": 4, "nonfinite": 1, "bias": which, "samples": 6, "rows": [0, 1] * 3}
    assert (journal.lines, journal.bars, journal.worked) == ([], [(2, "batches")] * 2, 2)
    table, facts = read_table_with_facts(folder / "attacked", "attacked")
    about = {"spec": json.loads(json.dumps(asdict(SPEC))), "training": TRAINING, "data": DATA.digest()}
    assert {name: facts[name] for name in about} == about
    assert "weights" not in facts
    assert table["checkpoint"].tolist() == ["best"] * 6 + ["last"] * 6
    assert set(table[["method", "seed", "tier"]].itertuples(index=False, name=None)) == {
        ("bat", 3, "apgd_ce (steps 2)")
    }
    found = {name: values + 0 for name, values in attacks.attack(Model(1.0), DATA.test, torch.arange(6)).items()}
    of_best: Any = sample_table(DATA.test, found, (APGD,)).to_dict("list")
    expected = read_table(written(folder / "through", "attacked", {}, **of_best), "attacked")[list(of_best)]
    pd.testing.assert_frame_equal(table.iloc[:6][list(of_best)], expected)
    assert table["margin"].tolist() == [row + which for which in (1, 2) for row in range(6)]
    flags, flagged_facts = read_table_with_facts(folder / "flags", "flags")
    assert flags["checkpoint"].tolist() == ["best", "last"]
    assert set(flags[["method", "seed", "flag"]].itertuples(index=False, name=None)) == {("bat", 3, "a_flag")}
    images, image_facts = read_tensors(folder / "images", "images")
    assert image_facts | {"kind": ""} == flagged_facts | {"kind": ""} == facts | {"kind": ""}
    for name, which in (("best", 1), ("last", 2)):
        assert torch.equal(images[name], DATA.test.images() + which)
    assert not (folder / "attacked.parts").exists()


class Model(nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.head.bias.data[0] = bias


def test_equal_weights_are_attacked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(folder / "last", 1.0, epoch=2)
    attacks = Attacks(monkeypatch)
    evaluated(folder, images=folder / "images")
    assert len(attacks.attacked) == 2
    assert len(attacks.flagged) == 1
    table = read_table(folder / "attacked", "attacked")
    best, last = (table[table["checkpoint"] == name].drop(columns="checkpoint") for name in ("best", "last"))
    pd.testing.assert_frame_equal(best, last.reset_index(drop=True))
    images, _ = read_tensors(folder / "images", "images")
    assert torch.equal(images["best"], images["last"])


def test_no_images_are_kept_but_where_they_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Attacks(monkeypatch)
    evaluated(folder)
    assert {path.name for path in folder.iterdir()} == {"data", "best", "last", "attacked", "flags"}


def test_raised_flags_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Attacks(monkeypatch, raised=(True, False))
    assert evaluated(folder).lines == ["flag a_flag: 0.123457 is over 0.01: means something"] * 2


def leave_parts(patched: pytest.MonkeyPatch) -> None:
    """Let the stage keep what it removes when it is done."""
    rmtree = shutil.rmtree
    patched.setattr(shutil, "rmtree", lambda path, **how: None if path.suffix == ".parts" else rmtree(path, **how))


def test_finished_batches_are_taken_up_again_where_all_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        leave_parts(patched)
        evaluated_by = Attacks(patched)
        evaluated(folder)
    assert len(evaluated_by.attacked) == 4
    kept = {checkpoint: sorted((folder / "attacked.parts" / checkpoint).iterdir()) for checkpoint in ("best", "last")}
    assert [path.name for path in kept["best"]] == ["0000.safetensors", "0001.safetensors"]
    for checkpoint, paths in kept.items():
        _, facts = read_tensors(paths[0], "part")
        digest = hashlib.sha256((folder / checkpoint).read_bytes()).hexdigest()
        wanted = {"training": TRAINING, "data": DATA.digest(), "weights": digest, "format": BATCH_FORMAT}
        assert {name: facts[name] for name in wanted} == wanted
    kept["last"][1].unlink()
    attacks = Attacks(monkeypatch)
    assert evaluated(folder).lines == []
    assert [(which, rows) for which, rows, _ in attacks.attacked] == [(2, [4, 5])]


def test_batches_by_another_spec_are_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        leave_parts(patched)
        Attacks(patched)
        evaluated(folder)
    attacks = Attacks(monkeypatch)
    lines = evaluated(folder, replace(SPEC, seed=6)).lines
    assert len(attacks.attacked) == 4
    first = folder / "attacked.parts" / "best" / "0000.safetensors"
    assert lines[0] == f"{first}: of another spec, or from other inputs: made anew"


@pytest.mark.parametrize(("ensemble", "members", "tier"), [("fast", 2, "fast"), ("standard", 4, "standard")])
def test_a_tier_is_said_by_its_name(
    ensemble: Any, members: int, tier: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = Attacks(monkeypatch)
    evaluated(folder, replace(SPEC, ensemble=ensemble))
    assert attacks.attacked[0][2]["ensemble"] == STANDARD[:members]
    assert read_table(folder / "attacked", "attacked")["tier"].unique().tolist() == [tier]


def test_what_is_wrong_with_a_model_names_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Attacks(monkeypatch)

    def fails(*_: Any) -> Probe:
        raise BatError("outputs are NaN")

    monkeypatch.setattr(bat.evaluation.stage, "probe", fails)
    assert refusal(evaluated, folder) == f"{folder / 'best'}: outputs are NaN"
    trained(folder / "last", 2.0, spec=TRAINING | {"seed": 4})
    assert refusal(evaluated, folder) == (
        f"{folder / 'best'} and {folder / 'last'} are not of one training: run stage train again"
    )
    trained(folder / "last", 2.0, data="other")
    assert refusal(evaluated, folder) == (
        f"{folder / 'last'}: trained on other data than {folder / 'data'}: remove it and run stage train again"
    )
    trained(folder / "best", 1.0, data="other")
    assert refusal(evaluated, folder).startswith(f"{folder / 'best'}: trained on other data")


# -- summary

ATYPICAL = [True, False, False, True]
METHODS = {"bat": BAT, "pgd_at": PGD_AT, "natural": NATURAL}
QUESTIONS = {"methods": (("bat", "pgd_at"), ("bat", "natural"))}
SUMMARY = SummarySpec(
    seed=1,
    confidence=0.9,
    bootstrap=100,
    runs=tuple(Run(method=method, without=None, base=name, role="method") for name, method in METHODS.items()),
    questions=QUESTIONS,
)
EVALUATED = {"spec": json.loads(json.dumps(asdict(SPEC))), "data": "d"}


def attacked(path: Path, name: str, seed: int, **changed: Any) -> Path:
    random = np.random.default_rng([len(name), seed])
    columns: dict[str, Any] = {"method": [name] * 8, "seed": [seed] * 8, "checkpoint": ["best"] * 4 + ["last"] * 4}
    columns |= {"test_index": [3, 5, 7, 9] * 2, "label": [0, 1, 0, 1] * 2, "tier": ["apgd_ce (steps 2)"] * 8}
    columns |= {f"{kind}_correct": (random.random(8) < 0.6).tolist() for kind in ("clean", "pgd", "robust")}
    return written(path, "attacked", EVALUATED | changed, **columns)


def history(path: Path, name: str, seed: int, accuracy: float = 0.9, **changed: Any) -> Path:
    facts = {"spec": {"method": {"objective": METHODS[name].objective}}, "data": "d"} | changed
    columns = {f"train_all_{attack}_accuracy": [0.5, accuracy] for attack in ("clean", "pgd")}
    columns["train_all_pgd_accuracy"] = [0.1, 0.2 + 0.3 * seed if name == "natural" else 0.3]
    trained_on: list[Any] = [6, 6]
    return written(
        path, "history", facts, method=[name] * 2, seed=[seed] * 2, epoch=[1, 2], trained_samples=trained_on, **columns
    )


def inputs(folder: Path) -> dict[str, Any]:
    pairs = [(name, seed) for name in METHODS for seed in (0, 1)]
    scored = {"max_influence": [0.1, 0.2, 0.3, 0.4], "memorization": [0.5, 0.6, 0.7, 0.8], "atypical": ATYPICAL}
    groups: dict[str, Any] = {"test_index": [3, 5, 7, 9], "label": [0, 1, 0, 1]} | scored
    labels = {"split": ["train"] * 6 + ["test"] * 2, "label": [0, 0, 0, 1, 1, 1, 0, 0]}
    raised = {"flag": ["one", "two"], "raised": [True, False], "limit": [0.5, 0.25]}
    return {
        "test_groups": written(folder / "groups", "test_groups", {"data": "d"}, **groups),
        "files": written(folder / "files", "files", {"data": "d"}, **labels),
        "attacked": [attacked(folder / f"a-{name}-{seed}", name, seed) for name, seed in pairs],
        "flags": [
            written(folder / f"f-{name}-{seed}", "flags", EVALUATED, method=[name] * 2, seed=[seed] * 2, **raised)
            for name, seed in pairs
        ],
        "histories": [history(folder / f"h-{name}-{seed}", name, seed) for name, seed in pairs],
    }


@cache
def inputs_once() -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the names of the summary's inputs, and what is in them."""
    with TemporaryDirectory() as folder:
        given = inputs(Path(folder))
        return given, {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    paths, contents = inputs_once()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {
        key: [tmp_path / path.name for path in value] if isinstance(value, list) else tmp_path / value.name
        for key, value in paths.items()
    }


@pytest.fixture
def few(given: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of three runs, for what is refused before they are counted."""
    return {key: value[:3] if isinstance(value, list) else value for key, value in given.items()}


def summed(given: dict[str, Any], folder: Path, **changed: Any) -> Lines:
    journal = Lines()
    outputs = ("per_sample", "by_seed", "summary", "comparisons", "runs", "all_flags", "raised")
    written_to = {name: folder / f"{name}.out" for name in outputs}
    summary(journal, **{"spec": SUMMARY} | given | written_to | changed)
    return journal


def through_a_file(table: pd.DataFrame, folder: Path, kind: str) -> pd.DataFrame:
    columns: Any = table.to_dict("list")
    return read_table(written(folder / "through", kind, {}, **columns), kind)


def test_the_summary_writes_what_its_functions_return(given: dict[str, Any], tmp_path: Path) -> None:
    journal = summed(given, tmp_path)
    assert (journal.lines, journal.worked) == ([], 1)
    read: Callable[[str, str], Any] = lambda file, kind: read_table_with_facts(tmp_path / f"{file}.out", kind)  # noqa: E731
    samples, facts = read("per_sample", "per_sample")
    every = pd.concat([read_table(path, "attacked") for path in given["attacked"]], ignore_index=True)
    pd.testing.assert_frame_equal(samples[list(every)], every)
    groups = read_table(given["test_groups"], "test_groups").set_index("test_index")
    for column in ("atypical", "max_influence", "memorization"):
        assert samples[column].tolist() == groups.loc[samples["test_index"], column].tolist()
    assert (facts["spec"], facts["data"], "tier" in facts) == (EVALUATED["spec"], "d", False)
    about = {
        "spec": json.loads(json.dumps(asdict(SUMMARY))),
        "evaluation": EVALUATED["spec"],
        "tier": "apgd_ce (steps 2)",
        "failed": {},
        "data": "d",
    }
    drawn: Any = {"confidence": 0.9, "bootstrap": 100, "seed": 1}
    left_out = dict.fromkeys(METHODS, 0)
    for name, kind, expected in (
        ("by_seed", "by_seed", accuracies_by_seed(samples, confidence=0.9).assign(tier="apgd_ce (steps 2)")),
        ("summary", "summary", summary_table(samples, **drawn).assign(tier="apgd_ce (steps 2)")),
        (
            "comparisons",
            "comparisons",
            comparison_table(samples, QUESTIONS, **drawn, left_out=left_out).assign(tier="apgd_ce (steps 2)"),
        ),
        ("runs", "runs", run_table(SUMMARY.runs, SUMMARY.questions)),
        ("all_flags", "flags", pd.concat([read_table(path, "flags") for path in given["flags"]], ignore_index=True)),
    ):
        table, facts = read(name, kind)
        pd.testing.assert_frame_equal(table, through_a_file(expected[list(table)], tmp_path, kind))
        assert {key: facts[key] for key in about} == about
    lines = (tmp_path / "raised.out").read_text().splitlines()
    assert lines[0] == "method,seed,checkpoint,flag,value,limit,meaning"
    assert lines[1:] == [f"{name},{seed},x,one,0.5,0.5,x" for name in METHODS for seed in (0, 1)]


def test_what_a_failed_training_is_in_is_not_compared(given: dict[str, Any], tmp_path: Path) -> None:
    history(given["histories"][3], "pgd_at", 1, accuracy=0.5)
    reason = (
        "seed 1 did not train (50.0 %, chance 50.0 %); seed 0 is far from the others (clean 90.0 %, median of the "
        "seeds 70.0 %)"
    )
    assert summed(given, tmp_path).lines == [f"pgd_at: {reason}; no comparison with it counts"]
    table, facts = read_table_with_facts(tmp_path / "comparisons.out", "comparisons")
    assert facts["failed"] == {"pgd_at": reason}
    assert ((table["verdict"] == FAILED) == (table["baseline"] == "pgd_at")).all()


def test_samples_that_are_left_out_are_counted(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def compared(*_: Any, **options: Any) -> pd.DataFrame:
        asked.append(options)
        return comparison_table(*_, **options)

    monkeypatch.setattr(bat.evaluation.stage, "comparison_table", compared)
    table = read_table(given["histories"][0], "history")
    columns: Any = table.assign(trained_samples=[4, 5]).to_dict("list")
    facts = {"spec": {"method": {"objective": "bat"}}, "data": "d"}
    written(given["histories"][0], "history", facts, **columns)
    summed(given, tmp_path)
    assert asked[0]["left_out"] == {"bat": 2, "pgd_at": 0, "natural": 0}


def test_a_group_without_samples_is_told(given: dict[str, Any], tmp_path: Path) -> None:
    groups = {"test_index": [3, 5, 7, 9], "label": [0, 1, 0, 1], "atypical": [False] * 4}
    written(given["test_groups"], "test_groups", {"data": "d"}, **groups)  # type: ignore[arg-type]
    assert summed(given, tmp_path).lines == ["no test sample is atypical: the summary has no rate of that group"]


@pytest.mark.parametrize("kind", ["attacked", "flags"])
def test_evaluations_by_two_specs_are_refused(kind: str, few: dict[str, Any], tmp_path: Path) -> None:
    path = few[kind][1]
    facts = EVALUATED | {"spec": EVALUATED["spec"] | {"seed": 6}}
    table: Any = read_table(path, kind).to_dict("list")
    written(path, kind, facts, **table)
    assert refusal(summed, few, tmp_path) == (
        f"{few['attacked'][0]} and {path} were evaluated by different specs: evaluate both again"
    )


@pytest.mark.parametrize("kind", ["files", "attacked", "flags", "histories"])
def test_tables_of_other_data_are_refused(kind: str, few: dict[str, Any], tmp_path: Path) -> None:
    path = few[kind] if kind == "files" else few[kind][-1]
    name = {"histories": "history"}.get(kind, kind)
    table, facts = read_table_with_facts(path, name)
    columns: Any = table.to_dict("list")
    written(path, name, {"spec": facts.get("spec"), "data": "e"}, **columns)
    assert refusal(summed, few, tmp_path) == (
        f"{few['test_groups']} and {path} are of different data: remove the one that is out of date, and run its "
        "stage again"
    )


@pytest.mark.parametrize("checkpoint", [0, 4])
@pytest.mark.parametrize("column", ["test_index", "label"])
def test_groups_of_other_samples_are_refused(column: str, checkpoint: int, few: dict[str, Any], tmp_path: Path) -> None:
    table = read_table(few["attacked"][2], "attacked")
    table.loc[checkpoint + 1, column] = 8
    columns: Any = table.to_dict("list")
    written(few["attacked"][2], "attacked", EVALUATED, **columns)
    found = "sample 8 with label 1" if column == "test_index" else "sample 5 with label 8"
    assert refusal(summed, few, tmp_path) == (
        f"{few['test_groups']}: row 1 is sample 5 with label 1, but the data has {found}: it is of other data"
    )


@pytest.mark.parametrize("kind", ["attacked", "flags", "histories"])
def test_each_run_is_given_once(kind: str, few: dict[str, Any], tmp_path: Path) -> None:
    again = few[kind][1].with_name("again")
    again.write_bytes(few[kind][1].read_bytes())
    assert refusal(lambda: summed(few, tmp_path, **{kind: [*few[kind], again]})) == (
        f"{few[kind][1]} and {again} are both of bat, seed 1: give each run once"
    )


@pytest.mark.parametrize("kind", ["flags", "histories"])
def test_a_run_without_its_flags_or_history_is_refused(kind: str, few: dict[str, Any], tmp_path: Path) -> None:
    assert refusal(lambda: summed(few, tmp_path, **{kind: few[kind][:1]})) == (
        f"--{kind}: none of bat, seed 1, which is in --attacked: give that too"
    )
    fewer = few | {other: few[other][:1] for other in ("attacked", "flags", "histories") if other != kind}
    assert refusal(lambda: summed(few, tmp_path, **fewer)) == (
        f"--attacked: none of bat, seed 1, which is in --{kind}: give that too"
    )


def test_a_run_of_the_spec_that_was_not_attacked_is_refused(few: dict[str, Any], tmp_path: Path) -> None:
    missing = "--attacked: none of natural, a run of the spec: give that too"
    assert refusal(summed, few, tmp_path) == missing
    assert refusal(lambda: summed(few, tmp_path, spec=replace(SUMMARY, runs=()))) == missing


@pytest.mark.parametrize(
    ("method", "clean_alone"),
    [
        ({"objective": "natural"}, True),
        ({"objective": "bat", "inner": None}, True),
        ({"objective": "bat", "inner": {"name": "pgd"}}, False),
        ({"objective": "bat"}, False),
    ],
)
def test_a_run_without_an_inner_problem_is_one_on_clean_images_alone(
    method: dict[str, Any], clean_alone: bool, few: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(histories: pd.DataFrame, *, chance: float, natural: set[str]) -> None:
        raise BatError(f"{len(histories)} epochs, chance {chance}, {sorted(natural)}")

    monkeypatch.setattr(bat.evaluation.stage, "failures", asked)
    history(few["histories"][0], "bat", 0, spec={"method": {"objective": "natural"}})
    history(few["histories"][2], "pgd_at", 0, spec={"method": method})
    expected = ["bat", "pgd_at"][: 1 + clean_alone]
    spec = replace(SUMMARY, runs=SUMMARY.runs[:2], questions={})
    assert refusal(lambda: summed(few, tmp_path, spec=spec)) == f"6 epochs, chance 0.5, {expected}"


def test_one_run_alone_is_summed_up(few: dict[str, Any], tmp_path: Path) -> None:
    one = {key: value[:1] if isinstance(value, list) else value for key, value in few.items()}
    assert summed(one, tmp_path, spec=replace(SUMMARY, runs=SUMMARY.runs[:1], questions={})).lines == []
    assert set(read_table(tmp_path / "summary.out", "summary")["method"]) == {"bat"}
    assert len(read_table(tmp_path / "comparisons.out", "comparisons")) == 0
    for kind in ("attacked", "flags"):
        table: Any = read_table(one[kind][0], kind).to_dict("list")
        written(one[kind][0], kind, {"spec": EVALUATED["spec"] | {"batch_size": 0}, "data": "d"}, **table)
    assert refusal(summed, one, tmp_path) == f"{one['attacked'][0]}: batch_size: 0 is under 1, the least: raise it"
