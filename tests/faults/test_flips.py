"""One bit flipped in each kind of file: the stage that reads it ends in one line, or makes it anew with the same bytes.

README.md beside this file has the last figures.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chain import EVALUATION, GALLERY, HARMFUL, NULL_PAIRS, PAGE, SHARD, VERIFY
from chain import TRAINING_WITHOUT as TRAINING
from stages import call, fails, grouped, scores, summary

torch.set_num_threads(1)

FLIPS = 40


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
    ("robust_memorization.parquet", "train", TRAINING),
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
