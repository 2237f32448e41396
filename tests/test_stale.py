"""What an earlier run left is taken up only where it is of the same spec, data, weights, samples and version.

Everything else leads to new work, told in the log, or to one line that names the file.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stages
import torch
from stages import (
    BAT,
    EVALUATE,
    MODEL,
    NATURAL,
    RECIPE,
    SCORES,
    SUBSETS,
    SUMMARY,
    THREAT,
    TRAIN,
    call,
    digits,
    evaluation,
    fails,
    grouped,
    scores,
    summary,
    training,
)

import bat.io.files
from bat.cli import main
from bat.data.saved import read_data
from bat.io.files import provenance
from bat.io.tables import read_table_with_facts, write_table
from bat.io.tensors import read_tensors, write_tensors
from bat.training.checkpoints import Checkpoint

torch.set_num_threads(1)

SHORT = RECIPE | {"epochs": 2}
FEW = SUBSETS | {"first_model": 0, "models": 4, "recipe": SHORT}
PLAN = TRAIN | {"recipe": SHORT, "method": BAT | {"score": "robust_memorization"}}
WITHOUT = {"what": "harmful", "fraction": None, "random": False}
NULL = {"threshold": SCORES["threshold"], "false_discovery_rate": 0.2, "shuffles": 1, "seed": 0}
HARMFUL = {"spec": {"threshold": 0.5}, "memorization": "memorization.parquet"}
OTHER = "of another spec, or from other inputs"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("data", 0), ("other_data", 1)):
        call(
            "data", folder, **digits(split_seed=seed) | {"out": f"{name}.safetensors", "files": f"{name}-files.parquet"}
        )
    (folder / "data-files.parquet").rename(folder / "files.parquet")
    call("subsets", folder, spec=FEW, data="data.safetensors", shard="shard.parquet")
    call("scores", folder, **scores("shard.parquet"))
    table, facts = read_table_with_facts(folder / "memorization.parquet", "memorization")
    about = provenance("robust_memorization", **without_kind(facts))
    write_table(folder / "robust_memorization.parquet", "robust_memorization", table, about)
    call("train", folder, **training(spec=PLAN), robust_memorization="robust_memorization.parquet")
    call("groups", folder, **grouped())
    call("harmful", folder, **HARMFUL, records=["records.parquet"], out="harmful.parquet")
    call("evaluate", folder, **evaluation())
    call("summary", folder, **summary("attacked.parquet"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def without_kind(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("kind", "version")}


def rewrite(folder: Path, stem: str, to: str | None = None, change: Any = None, **facts: Any) -> None:
    """Write a table with other values or facts, under another name where ``to`` gives one."""
    path, name = folder / f"{stem}.parquet", STEMS.get(stem, stem)
    table = read_table_with_facts(path, name)[0]
    stages.rewrite(path, name, change(table) if change else table, folder / f"{to or stem}.parquet", **facts)


STEMS = {
    "shard": "subsets",
    "all_flags": "flags",
    "attacked_2": "attacked",
    "training_samples_2": "training_samples",
    "records_2": "records",
}


@pytest.fixture
def unfinished(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let stages keep what they remove when they are done, as if they had been killed just before."""
    rmtree = shutil.rmtree

    def unless_parts(folder: Path, ignore_errors: bool = False) -> None:
        if not str(folder).endswith(".parts"):
            rmtree(folder, ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", unless_parts)
        patched.setattr(Checkpoint, "remove", lambda self: None)
        yield patched


# -- parts of subset models

SUBSETS_CHANGED = {
    "seed": {"spec": FEW | {"seed": 1}},
    "recipe": {"spec": FEW | {"recipe": SHORT | {"learning_rate": 0.05}}},
    "network": {"spec": FEW | {"model": {"name": "mlp", "width": 17}}},
    "data": {"data": "other_data.safetensors"},
}


def shard(**changed: Any) -> dict[str, Any]:
    return {"spec": FEW, "data": "data.safetensors", "out": "kept.parquet", "log": "log"} | changed


@pytest.mark.parametrize("name", SUBSETS_CHANGED)
def test_parts_of_other_subset_models_are_made_anew(name: str, folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    call("subsets", folder, **shard())
    call("subsets", folder, **shard())
    assert OTHER not in (folder / "log").read_text()
    changed = shard(**SUBSETS_CHANGED[name])
    call("subsets", folder, **changed)
    assert (folder / "log").read_text().count(f"{OTHER}: made anew") == 4
    call("subsets", folder, **changed | {"out": "fresh.parquet"})
    assert (folder / "kept.parquet").read_bytes() == (folder / "fresh.parquet").read_bytes()


def test_each_part_is_of_its_own_model(folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    call("subsets", folder, **shard())
    parts = folder / "kept.parquet.parts"
    shutil.copy(parts / "1.safetensors", parts / "2.safetensors")
    call("subsets", folder, **shard())
    assert (folder / "log").read_text().count(f"2.safetensors: {OTHER}: made anew") == 1


# -- parts of an evaluation


def test_parts_of_an_evaluation_by_another_spec_are_made_anew(folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    call("evaluate", folder, **evaluation(log="log"))
    call("evaluate", folder, **evaluation(log="log"))
    assert OTHER not in (folder / "log").read_text()
    for spec in (EVALUATE | {"seed": 1}, EVALUATE | {"threat": THREAT | {"eps": 0.04}}):
        call("evaluate", folder, **evaluation(spec=spec, log="log"))
        assert (folder / "log").read_text().count(f"{OTHER}: made anew") >= 4
        call("evaluate", folder, **evaluation(spec=spec, attacked="fresh.parquet"))
        assert (folder / "attacked.parquet").read_bytes() == (folder / "fresh.parquet").read_bytes()


def test_parts_of_an_evaluation_of_other_weights_are_made_anew(folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    call("evaluate", folder, **evaluation())
    for name in ("best", "last"):
        weights, facts = read_tensors(folder / f"{name}.safetensors", "model")
        weights["head.bias"] = weights["head.bias"].roll(1)
        write_tensors(folder / f"{name}.safetensors", weights, provenance("model", **without_kind(facts)))
    call("evaluate", folder, **evaluation(log="log"))
    assert (folder / "log").read_text().count(f"{OTHER}: made anew") >= 4
    call("evaluate", folder, **evaluation(attacked="fresh.parquet"))
    assert (folder / "attacked.parquet").read_bytes() == (folder / "fresh.parquet").read_bytes()


def test_parts_of_an_attack_on_other_images_or_weights_are_made_anew(
    folder: Path, unfinished: pytest.MonkeyPatch
) -> None:
    test = read_data(folder / "data.safetensors").test
    x, y = test.images(slice(0, 60)).numpy(), test.labels[:60].numpy()
    fixed = {"architecture": "mlp:16", "norm": "linf", "ensemble": "fast", "batch-size": "20"}

    def attack(eps: float = 0.05, out: str = "own.parquet") -> int:
        paths = {"model": "last.safetensors", "data": "images.npz", "out": out, "flags": "f.parquet", "log": "log"}
        flags = fixed | {"eps": str(eps)} | {flag: str(folder / path) for flag, path in paths.items()}
        main(["attack", *(text for flag, value in flags.items() for text in (f"--{flag}", value))])
        return (folder / "log").read_text().count(f"{OTHER}: made anew")

    np.savez(folder / "images.npz", x=x, y=y)
    assert (attack(), attack()) == (0, 0)
    np.savez(folder / "images.npz", x=x[:, :, ::-1], y=y)
    assert attack() == 3
    np.savez(folder / "images.npz", x=x[:, :, ::-1], y=y[::-1])
    assert attack() == 3
    weights, facts = read_tensors(folder / "last.safetensors", "model")
    weights["head.bias"] = weights["head.bias"].roll(1)
    write_tensors(folder / "last.safetensors", weights, provenance("model", **without_kind(facts)))
    assert attack() == 3
    assert attack(eps=0.04) == 3
    attack(eps=0.04, out="fresh.parquet")
    assert (folder / "own.parquet").read_bytes() == (folder / "fresh.parquet").read_bytes()


# -- checkpoints


def flipped(table: pd.DataFrame, column: str = "atypical") -> pd.DataFrame:
    table[column] = ~table[column] if table[column].dtype == bool else 1 - table[column]
    if "max_influence_train_index" in table:
        table["max_influence_train_index"] = table["max_influence_train_index"].astype("Int64")
    return table


def robust_flipped(table: pd.DataFrame) -> pd.DataFrame:
    return flipped(table, "memorization")


CHECKPOINT_CHANGED: dict[str, Any] = {
    "recipe": {"recipe": SHORT | {"learning_rate": 0.05}},
    "seed": {"seed": 4},
    "method": {"method": NATURAL},
    "samples left out": ("harmful", lambda table: flipped(table, "harmful")),
    "samples of the method": ("robust_memorization", robust_flipped),
}


@pytest.mark.parametrize("name", CHECKPOINT_CHANGED)
def test_a_checkpoint_of_another_run_is_not_taken_up(name: str, folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    plan, changed = PLAN | {"without": WITHOUT}, CHECKPOINT_CHANGED[name]
    tables = {f"{kind}memorization": f"{kind}memorization.parquet" for kind in ("", "robust_")}
    flags = training(**tables, harmful="harmful.parquet", log="log") | {"checkpoint_minutes": 0}
    arguments = {key: value for key, value in flags.items() if key not in ("spec", "checkpoint_minutes")}
    unfinished.setattr(Checkpoint, "keep", keep_at_once)
    call("train", folder, **arguments, spec=plan)
    call("train", folder, **arguments, spec=plan)
    assert "goes on after epoch" in (folder / "log").read_text()
    if isinstance(changed, dict):
        plan = plan | changed
    else:
        rewrite(folder, changed[0], change=changed[1])
    call("train", folder, **arguments, spec=plan)
    log = (folder / "log").read_text()
    assert f"{OTHER}: training starts anew" in log
    assert "goes on after epoch" not in log
    written = [(folder / name).read_bytes() for name in ("best.safetensors", "records.parquet")]
    (folder / "last.safetensors.checkpoint").unlink()
    call("train", folder, **arguments, spec=plan)
    assert [(folder / name).read_bytes() for name in ("best.safetensors", "records.parquet")] == written


_keep = Checkpoint.keep


def keep_at_once(self: Checkpoint, progress: Any, minutes: float) -> None:
    _keep(self, progress, 0)


def test_a_checkpoint_of_other_data_is_not_taken_up(folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    unfinished.setattr(Checkpoint, "keep", keep_at_once)
    flags = training(spec=PLAN | {"method": BAT}, log="log")
    call("train", folder, **flags)
    # other pixels alone: the same samples with the same scores
    tensors, facts = read_tensors(folder / "data.safetensors", "data")
    tensors["train_pixels"] = tensors["train_pixels"].flip(3)
    write_tensors(folder / "data.safetensors", tensors, provenance("data", **without_kind(facts)))
    rewrite(folder, "memorization", data=read_data(folder / "data.safetensors").digest())
    call("train", folder, **flags)
    assert f"{OTHER}: training starts anew" in (folder / "log").read_text()


# -- files that a stage reads

DATA = {"data": "another digest"}
RESULTS = {"experiment": "trial", "data": "digits", "model": MODEL, "recipe": SHORT, "methods": ["bat"]}
RESULTS |= {"weighted": ["bat"], "baseline": None, "retrained": None, "margin": 0.01}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    f"{stage} by {table}": (stage, flags, table)
    for stage, flags, tables in [
        ("train", training(), ("memorization",)),
        ("groups", grouped(), ("memorization", "validation_groups", "test_groups", "records")),
        (
            "train",
            training(spec=PLAN | {"without": WITHOUT})
            | {"harmful": "harmful.parquet", "robust_memorization": "robust_memorization.parquet"},
            ("harmful", "robust_memorization"),
        ),
        ("scores", scores("shard.parquet"), ("shard",)),
        (
            "null-pairs",
            {
                "spec": NULL,
                "data": "data.safetensors",
                "memorization": "memorization.parquet",
                "shards": ["shard.parquet"],
                "out": "x.parquet",
            },
            ("memorization", "shard"),
        ),
        ("summary", summary("attacked.parquet"), ("flags", "test_groups", "files", "history")),
        ("summary", summary("attacked.parquet", "attacked_2.parquet"), ("attacked_2",)),
        (
            "harmful",
            HARMFUL | {"records": ["records.parquet", "records_2.parquet"], "out": "x.parquet"},
            ("memorization", "records_2"),
        ),
        (
            "figure gallery",
            {
                "data": "data.safetensors",
                "memorization": "memorization.parquet",
                "train_influence": "train_influence.parquet",
                "out": ["x.svg"],
            },
            ("memorization", "train_influence"),
        ),
        (
            "figure harmful",
            {"data": "data.safetensors", "harmful": "harmful.parquet", "out": ["x.svg"]},
            ("harmful",),
        ),
        (
            "figure curves",
            {"histories": ["history.parquet"], "test_groups": "test_groups.parquet", "out": ["x.svg"]},
            ("test_groups", "history"),
        ),
        (
            "figure weights",
            {"samples": ["training_samples.parquet", "training_samples_2.parquet"], "out": ["x.svg"]},
            ("training_samples_2",),
        ),
        (
            "figure finding_a",
            {"summary": "summary.parquet", "histories": ["history.parquet"], "out": ["x.svg"]},
            ("history", "summary"),
        ),
        (
            "figure finding_b",
            {"comparisons": "comparisons.parquet", "harmful": "harmful.parquet", "out": ["x.svg"]},
            ("comparisons", "harmful"),
        ),
        (
            "results",
            {
                "spec": RESULTS,
                **{name: f"{name}.parquet" for name in ("summary", "comparisons", "memorization", "test_groups")},
                "flags": "all_flags.parquet",
                "histories": ["history.parquet"],
                "harmful": "harmful.parquet",
                "benchmarks": "benchmarks",
                "markdown": "x.md",
                "latex": "x.tex",
                "out": "y.md",
            },
            ("summary", "comparisons", "all_flags", "memorization", "test_groups", "history", "harmful"),
        ),
    ]
    for table in tables
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_of_other_data_are_refused(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage, flags, table = REFUSED[name]
    for twin in ("attacked", "records", "training_samples"):
        rewrite(folder, twin, f"{twin}_2")
    rewrite(folder, table, **DATA)
    line = fails(capsys, stage, folder, **flags)
    assert "other data" in line or "are of different data" in line
    assert f"{table}.parquet" in line


@pytest.mark.parametrize("table", ["memorization", "validation_groups", "test_groups"])
def test_score_tables_of_two_specs_are_refused(table: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, table, spec=read_table_with_facts(folder / f"{table}.parquet", table)[1]["spec"] | {"threshold": 0})
    line = fails(capsys, "groups", folder, **grouped())
    assert "are not of one run of their stage" in line
    gallery = {"data": "data.safetensors", "memorization": "memorization.parquet", "out": ["x.svg"]}
    if table == "memorization":
        line = fails(capsys, "figure gallery", folder, **gallery, train_influence="train_influence.parquet")
        assert "are not of one run of their stage" in line


def test_scores_of_other_subset_models_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("subsets", folder, spec=FEW | {"seed": 1}, data="data.safetensors", shard="shard.parquet")
    flags = {"data": "data.safetensors", "memorization": "memorization.parquet", "shards": ["shard.parquet"]}
    line = fails(capsys, "null-pairs", folder, spec=NULL, **flags, out="x.parquet")
    assert "memorization.parquet: of other subset models than" in line


def test_evaluations_of_two_specs_are_refused_and_flags_of_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(folder, "attacked", "other", spec=EVALUATE | {"seed": 1})
    assert "different specs" in fails(capsys, "summary", folder, **summary("attacked.parquet", "other.parquet"))
    rewrite(folder, "flags", spec=EVALUATE | {"seed": 1})
    line = fails(capsys, "summary", folder, **summary("attacked.parquet"))
    assert "flags.parquet were evaluated by different specs" in line


def test_records_of_two_trainings_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = HARMFUL | {"records": ["records.parquet", "other.parquet"], "out": "x.parquet"}
    rewrite(folder, "records", "other", spec=PLAN | {"early_stop": 1})
    assert "trained by different specs" in fails(capsys, "harmful", folder, **files)
    # another seed is what the table is the mean over
    rewrite(folder, "records", "other", spec=PLAN | {"seed": 4})
    call("harmful", folder, **files)


def rewrite_model(folder: Path, name: str, **changed: Any) -> None:
    weights, facts = read_tensors(folder / f"{name}.safetensors", "model")
    write_tensors(folder / f"{name}.safetensors", weights, provenance("model", **without_kind(facts) | changed))


@pytest.mark.parametrize("name", ["best", "last"])
def test_models_of_other_data_network_or_training_are_refused(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / f"{name}.safetensors").read_bytes()
    for changed, expected in (
        ({"data": "another"}, "trained on other data than"),
        ({"spec": PLAN | {"model": {"name": "mlp", "width": 17}}}, "not the weights of mlp"),
        ({"spec": PLAN | {"seed": 7}}, "are not of one training"),
    ):
        rewrite_model(folder, name, **changed)
        line = fails(capsys, "evaluate", folder, **evaluation())
        assert expected in line
        assert f"{name}.safetensors" in line
        (folder / f"{name}.safetensors").write_bytes(whole)


def test_files_of_another_version_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, dict[str, Any]] = {
        "subsets": shard(),
        "scores": scores("shard.parquet"),
        "train": training(),
        "evaluate": evaluation(),
        "summary": summary("attacked.parquet") | {"spec": SUMMARY},
    }
    monkeypatch.setattr("bat.io.files.__version__", "0.0.1")
    for stage, flags in called.items():
        line = fails(capsys, stage, folder, **{key: value for key, value in flags.items() if key != "log"})
        assert f"written by version {bat.__version__} of bat, and this is 0.0.1" in line
