"""What an earlier run left is taken up only where it is of the same spec, data, weights, samples and version.

Everything else leads to new work, told in the log, or to one line that names the file.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stages
import torch
from chain import (
    FEW,
    GALLERY,
    HARDEST,
    HARMFUL,
    NULL_PAIRS,
    PAGE,
    PLAN,
    PROXIES,
    SHARD,
    SHORT,
    TRAINING_BY_PROXY,
    TRAINING_WITHOUT,
    TRAINING_WITHOUT_HARDEST,
    without_kind,
)
from stages import BAT, EVALUATE, NATURAL, SUMMARY, THREAT, call, evaluation, fails, grouped, scores, summary, training

import bat
from bat.cli import main
from bat.data.saved import read_data
from bat.io.files import provenance
from bat.io.tables import read_table_with_facts
from bat.io.tensors import read_tensors, write_tensors

torch.set_num_threads(1)

OTHER = "of another spec, or from other inputs"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


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
    "natural_records": "records",
}


# -- parts of subset models

SUBSETS_CHANGED = {
    "seed": {"spec": FEW | {"seed": 1}},
    "recipe": {"spec": FEW | {"recipe": SHORT | {"learning_rate": 0.05}}},
    "network": {"spec": FEW | {"model": {"name": "mlp", "width": 17}}},
    "data": {"data": "other_data.safetensors"},
}


def shard(**changed: Any) -> dict[str, Any]:
    return SHARD | {"shard": "kept.parquet", "log": "log"} | changed


@pytest.mark.parametrize("name", SUBSETS_CHANGED)
def test_parts_of_other_subset_models_are_made_anew(name: str, folder: Path, unfinished: Any) -> None:
    call("subsets", folder, **shard())
    call("subsets", folder, **shard())
    assert OTHER not in (folder / "log").read_text()
    changed = shard(**SUBSETS_CHANGED[name])
    call("subsets", folder, **changed)
    assert (folder / "log").read_text().count(f"{OTHER}: made anew") == 4
    call("subsets", folder, **changed | {"shard": "fresh.parquet"})
    assert (folder / "kept.parquet").read_bytes() == (folder / "fresh.parquet").read_bytes()


def test_each_part_is_of_its_own_model(folder: Path, unfinished: Any) -> None:
    call("subsets", folder, **shard())
    parts = folder / "kept.parquet.parts"
    shutil.copy(parts / "1.safetensors", parts / "2.safetensors")
    call("subsets", folder, **shard())
    assert (folder / "log").read_text().count(f"2.safetensors: {OTHER}: made anew") == 1


# -- parts of an evaluation


def test_parts_of_an_evaluation_by_another_spec_are_made_anew(folder: Path, unfinished: Any) -> None:
    call("evaluate", folder, **evaluation(log="log"))
    call("evaluate", folder, **evaluation(log="log"))
    assert OTHER not in (folder / "log").read_text()
    for spec in (EVALUATE | {"seed": 1}, EVALUATE | {"threat": THREAT | {"eps": 0.04}}):
        call("evaluate", folder, **evaluation(spec=spec, log="log"))
        assert (folder / "log").read_text().count(f"{OTHER}: made anew") >= 4
        call("evaluate", folder, **evaluation(spec=spec, attacked="fresh.parquet"))
        assert (folder / "attacked.parquet").read_bytes() == (folder / "fresh.parquet").read_bytes()


def test_parts_of_an_evaluation_of_other_weights_are_made_anew(folder: Path, unfinished: Any) -> None:
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
    x, y = test.images(slice(0, 40)).numpy(), test.labels[:40].numpy()
    fixed = {"architecture": "mlp:16", "norm": "linf", "ensemble": "fast", "batch-size": "20"}

    def attack(eps: float = 0.05, out: str = "own.parquet") -> int:
        paths = {"model": "last.safetensors", "data": "images.npz", "out": out, "flags": "f.parquet", "log": "log"}
        flags = fixed | {"eps": str(eps)} | {flag: str(folder / path) for flag, path in paths.items()}
        main(["attack", *(text for flag, value in flags.items() for text in (f"--{flag}", value))])
        return (folder / "log").read_text().count(f"{OTHER}: made anew")

    np.savez(folder / "images.npz", x=x, y=y)
    assert (attack(), attack()) == (0, 0)
    np.savez(folder / "images.npz", x=x[:, :, ::-1], y=y)
    assert attack() == 2
    np.savez(folder / "images.npz", x=x[:, :, ::-1], y=y[::-1])
    assert attack() == 2
    weights, facts = read_tensors(folder / "last.safetensors", "model")
    weights["head.bias"] = weights["head.bias"].roll(1)
    write_tensors(folder / "last.safetensors", weights, provenance("model", **without_kind(facts)))
    assert attack() == 2
    assert attack(eps=0.04) == 2
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
def test_a_checkpoint_of_another_run_is_not_taken_up(name: str, folder: Path, unfinished: Any) -> None:
    flags, changed = TRAINING_WITHOUT | {"log": "log"}, CHECKPOINT_CHANGED[name]
    call("train", folder, **flags)
    call("train", folder, **flags)
    assert "goes on after epoch" in (folder / "log").read_text()
    if isinstance(changed, dict):
        flags["spec"] = flags["spec"] | changed
    else:
        rewrite(folder, changed[0], change=changed[1])
    call("train", folder, **flags)
    log = (folder / "log").read_text()
    assert f"{OTHER}: training starts anew" in log
    assert "goes on after epoch" not in log
    written = [(folder / name).read_bytes() for name in ("best.safetensors", "records.parquet")]
    (folder / "last.safetensors.checkpoint").unlink()
    call("train", folder, **flags)
    assert [(folder / name).read_bytes() for name in ("best.safetensors", "records.parquet")] == written


def test_a_checkpoint_of_other_data_is_not_taken_up(folder: Path, unfinished: Any) -> None:
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
DRAWN = {
    name: f"{name}.parquet" for name in ("memorization", "train_influence", "test_groups", "summary", "comparisons")
}
FIGURES: dict[str, Any] = {
    "data": "data.safetensors",
    **DRAWN,
    **{name: f"{name}.parquet" for name in ("harmful", "per_sample", "runs")},
    "histories": ["history.parquet"],
    "samples": ["training_samples.parquet", "training_samples_2.parquet"],
    "out": ["curves.svg"],
}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    f"{stage} by {table}": (stage, flags, table)
    for stage, flags, tables in [
        ("train", training(), ("memorization",)),
        ("groups", grouped(), ("memorization", "validation_groups", "test_groups", "records")),
        ("train", TRAINING_WITHOUT, ("harmful", "robust_memorization")),
        ("train", TRAINING_BY_PROXY, ("memorization", "proxies")),
        ("proxies", PROXIES, ("memorization", "natural_records", "shard")),
        ("scores", scores("shard.parquet"), ("shard", "files")),
        ("null-pairs", NULL_PAIRS, ("memorization", "shard")),
        ("summary", summary("attacked.parquet"), ("flags", "test_groups", "files", "history")),
        ("summary", summary("attacked.parquet", "attacked_2.parquet"), ("attacked_2",)),
        ("train", TRAINING_WITHOUT_HARDEST, ("hardest",)),
        ("hardest", HARDEST | {"records": ["records.parquet", "records_2.parquet"]}, ("memorization", "records_2")),
        ("harmful", HARMFUL | {"records": ["records.parquet", "records_2.parquet"]}, ("memorization", "records_2")),
        ("figures", FIGURES, (*DRAWN, "harmful", "per_sample", "runs", "history", "training_samples_2")),
        (
            "results",
            PAGE,
            (
                *("summary", "comparisons", "runs", "all_flags", "memorization", "test_groups", "history", "harmful"),
                "proxy_agreement",
            ),
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
    if table == "memorization":
        assert "are not of one run of their stage" in fails(capsys, "figures", folder, **GALLERY)


def test_scores_of_other_subset_models_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("subsets", folder, **SHARD | {"spec": FEW | {"seed": 1}})
    for stage, flags in (("null-pairs", NULL_PAIRS), ("proxies", PROXIES)):
        line = fails(capsys, stage, folder, **flags)
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
    files = HARMFUL | {"records": ["records.parquet", "other.parquet"]}
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
