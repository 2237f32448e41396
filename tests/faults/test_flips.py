"""One bit flipped in each kind of file: the stage that reads it ends in one line, or makes it anew with the same bytes.

README.md beside this file has the last figures.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import (
    EVALUATE,
    RECIPE,
    RESULTS,
    SCORES,
    SUBSETS,
    TRAIN,
    call,
    digits,
    evaluation,
    fails,
    grouped,
    scores,
    summary,
)
from stages import training as training_flags

from bat.io.files import provenance
from bat.io.tables import read_table_with_facts, write_table
from bat.training.checkpoints import Checkpoint

torch.set_num_threads(1)

FLIPS = 40
RM = "robust_memorization.parquet"
SHORT = RECIPE | {"epochs": 2}
WITHOUT = {"what": "harmful", "fraction": None, "random": False}
PLAN = TRAIN | {"recipe": SHORT, "without": WITHOUT, "method": TRAIN["method"] | {"score": "robust_memorization"}}
SHARD = {"spec": SUBSETS | {"first_model": 0, "recipe": SHORT}, "data": "data.safetensors", "shard": "shard.parquet"}
NULL = {"threshold": SCORES["threshold"], "false_discovery_rate": 0.2, "shuffles": 1, "seed": 0}
TRAINING = training_flags(spec=PLAN) | {
    "harmful": "harmful.parquet",
    "robust_memorization": "robust_memorization.parquet",
}
EVALUATION = evaluation(spec=EVALUATE, images="images.safetensors")
NULL_PAIRS = {
    "spec": NULL,
    "data": "data.safetensors",
    "memorization": "memorization.parquet",
    "shards": ["shard.parquet"],
    "null_pairs": "null_pairs.parquet",
}
PAGE: dict[str, Any] = {
    "spec": RESULTS,
    **{
        name: f"{name}.parquet"
        for name in ("summary", "comparisons", "runs", "memorization", "test_groups", "null_pairs")
    },
    "flags": "all_flags.parquet",
    "histories": ["history.parquet"],
    "harmful": "harmful.parquet",
    "benchmarks": "benchmarks",
    "markdown": "summary.md",
    "latex": "summary.tex",
    "page": "results.md",
}
VERIFY = {name: f"{name}.safetensors" for name in ("best", "last", "images", "data")} | {"attacked": "attacked.parquet"}
HARMFUL = {"spec": {"threshold": 0.5}, "memorization": "memorization.parquet", "records": ["records.parquet"]}
HARMFUL |= {"harmful": "harmful.parquet"}
GALLERY = {
    "data": "data.safetensors",
    "memorization": "memorization.parquet",
    "train_influence": "train_influence.parquet",
    "out": ["gallery.svg"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    call("data", folder, **digits(), data="data.safetensors")
    call("subsets", folder, **SHARD)
    call("scores", folder, **scores("shard.parquet"))
    call("null-pairs", folder, **NULL_PAIRS)
    table, facts = read_table_with_facts(folder / "memorization.parquet", "memorization")
    about = {key: value for key, value in facts.items() if key not in ("kind", "version")}
    write_table(
        folder / "robust_memorization.parquet",
        "robust_memorization",
        table,
        provenance("robust_memorization", **about),
    )
    call("train", folder, **training_flags(spec=PLAN | {"without": None}), robust_memorization=RM)
    call("harmful", folder, **HARMFUL)
    call("train", folder, **TRAINING)
    call("groups", folder, **grouped())
    call("evaluate", folder, **EVALUATION)
    call("summary", folder, **summary("attacked.parquet"))
    return folder


READ = [
    ("data.safetensors", "subsets", SHARD),
    ("data.safetensors", "train", TRAINING),
    ("data.safetensors", "evaluate", EVALUATION),
    ("data.safetensors", "scores", scores("shard.parquet")),
    ("shard.parquet", "scores", scores("shard.parquet")),
    ("memorization.parquet", "train", TRAINING),
    ("memorization.parquet", "null-pairs", NULL_PAIRS),
    *[
        (f"{name}.parquet", "groups", grouped())
        for name in ("memorization", "test_groups", "validation_groups", "records")
    ],
    ("harmful.parquet", "train", TRAINING),
    (RM, "train", TRAINING),
    ("test_groups.parquet", "summary", summary("attacked.parquet")),
    ("best.safetensors", "evaluate", EVALUATION),
    ("last.safetensors", "evaluate", EVALUATION),
    ("records.parquet", "harmful", HARMFUL),
    ("attacked.parquet", "summary", summary("attacked.parquet")),
    ("flags.parquet", "summary", summary("attacked.parquet")),
    *[
        (f"{name}.parquet", "results", PAGE)
        for name in ("summary", "comparisons", "runs", "all_flags", "history", "null_pairs")
    ],
    ("train_influence.parquet", "figures", GALLERY),
    *[(name, "verify", VERIFY) for name in ("images.safetensors", "attacked.parquet", "best.safetensors")],
]


@pytest.mark.parametrize(("name", "stage", "flags"), READ, ids=[f"{stage} of {name}" for name, stage, _ in READ])
def test_no_flipped_bit_is_used(
    name: str, stage: str, flags: dict[str, Any], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    places = random.Random(f"{name} {stage}")
    content = (folder / name).read_bytes()
    # any bit, and as often one of the first or last 2,000 bytes, where headers and footers are
    ends = [*range(min(2000, len(content))), *range(max(0, len(content) - 2000), len(content))]
    for flip in range(FLIPS):
        byte = places.choice(ends) if flip % 2 else places.randrange(len(content))
        flipped = bytearray(content)
        flipped[byte] ^= 1 << places.randrange(8)
        (folder / name).write_bytes(flipped)
        assert name in fails(capsys, stage, folder, **flags)


@pytest.fixture
def unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stages keep what they remove when they are done, as if they had been killed just before."""
    rmtree, keep = shutil.rmtree, Checkpoint.keep

    def unless_parts(folder: Path, ignore_errors: bool = False) -> None:
        if not str(folder).endswith(".parts"):
            rmtree(folder, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", unless_parts)
    monkeypatch.setattr(Checkpoint, "remove", lambda self: None)
    monkeypatch.setattr(Checkpoint, "keep", lambda self, progress, minutes: keep(self, progress, 0))


KEPT = [
    ("shard.parquet.parts/3.safetensors", "subsets", SHARD, "shard.parquet"),
    ("attacked.parquet.parts/best/0001.safetensors", "evaluate", EVALUATION, "attacked.parquet"),
    ("last.safetensors.checkpoint", "train", TRAINING, "records.parquet"),
]


@pytest.mark.parametrize(("name", "stage", "flags", "out"), KEPT, ids=[stage for _, stage, _, _ in KEPT])
@pytest.mark.usefixtures("unfinished")
def test_what_is_kept_of_unfinished_work_is_made_anew(
    name: str, stage: str, flags: dict[str, Any], out: str, made: Path, tmp_path: Path
) -> None:
    folder, places = shutil.copytree(made, tmp_path / "copy"), random.Random(stage)
    call(stage, folder, **flags)
    expected, content = (folder / out).read_bytes(), (folder / name).read_bytes()
    for _ in range(FLIPS // 4):
        flipped = bytearray(content)
        flipped[places.randrange(len(content))] ^= 1 << places.randrange(8)
        (folder / name).write_bytes(flipped)
        call(stage, folder, **flags, log="log")
        assert (folder / "log").read_text().count(f"{Path(name).name}: damaged, or of another version: ") == 1
        assert (folder / out).read_bytes() == expected
