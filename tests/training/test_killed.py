"""Training that is killed at any moment, as a real process, goes on and ends with the same bytes."""

import random
import time
from pathlib import Path

import pytest
import torch
from processes import ended, says, wait_until
from stages import COMPUTE, NATURAL, PGD_AT, RECIPE, SCORES, SUBSETS, TRAIN, call, command, digits, scores, training
from warm import Forked

torch.set_num_threads(1)

EPOCHS = 30
LONG = RECIPE | {"epochs": EPOCHS}
PLANS = {
    "natural": TRAIN | {"method": NATURAL, "recipe": LONG | {"ema_decay": 0.9}},
    "pgd_at": TRAIN | {"method": PGD_AT, "recipe": LONG, "compute": COMPUTE | {"precision": "bfloat16"}},
    "bat": TRAIN | {"recipe": LONG},
}
FILES = ("best.safetensors", "last.safetensors", "records.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    call("data", folder, **digits(), data="data.safetensors", log="data.log")
    shard = SUBSETS | {"first_model": 0}
    call("subsets", folder, spec=shard, data="data.safetensors", shard="shard.parquet")
    call("scores", folder, **scores("shard.parquet", spec=SCORES))
    return folder


@pytest.mark.parametrize("name", PLANS)
def test_a_killed_run_ends_with_the_same_weights_and_tables(name: str, folder: Path) -> None:
    plan, moments, log = PLANS[name], random.Random(name), folder / f"{name}.log"
    call("train", folder, **training(spec=plan))
    expected = [(folder / file).read_bytes() for file in FILES]
    checkpoint = folder / "last.safetensors.checkpoint"
    assert not checkpoint.exists()
    for file in FILES:
        (folder / file).unlink()
    flags = training(spec=plan) | {"log": log.name}

    # killed without a word: what the interval has kept is there
    process = Forked(*command("train", folder, **flags), "--checkpoint-minutes=0")
    wait_until(process, lambda: says(log, f"of {EPOCHS} epochs"))
    time.sleep(moments.uniform(0, 0.1))
    process.kill()
    assert ended(process)[0] == -9
    assert checkpoint.exists()

    # asked to stop, long before the interval is over
    log.unlink()
    process = Forked(*command("train", folder, **flags))
    wait_until(process, lambda: says(log, "goes on after epoch"))
    wait_until(process, lambda: says(log, " epochs\n"))
    before = checkpoint.read_bytes()
    process.terminate()
    assert ended(process) == (143, "")
    assert checkpoint.read_bytes() != before
    assert not any((folder / file).exists() for file in FILES)

    call("train", folder, **flags)
    assert "goes on after epoch" in log.read_text()
    assert [(folder / file).read_bytes() for file in FILES] == expected
    assert not checkpoint.exists()


def test_a_killed_shard_goes_on_at_its_last_model(folder: Path) -> None:
    plan = SUBSETS | {"first_model": 3, "models": 40}
    call("subsets", folder, spec=plan, data="data.safetensors", shard="whole.parquet")
    parts = folder / "killed.parquet.parts"
    flags = {"spec": plan, "data": "data.safetensors", "shard": "killed.parquet"}
    process = Forked(*command("subsets", folder, **flags))
    wait_until(process, lambda: len(list(parts.glob("*.safetensors"))) >= 5)
    process.kill()
    ended(process)
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.safetensors")}
    assert 5 <= len(kept) < 40
    # it goes on: the models that are there are read, not trained
    process = Forked(*command("subsets", folder, **flags))
    wait_until(process, lambda: len(list(parts.glob("[0-9]*.safetensors"))) > len(kept))
    process.kill()
    ended(process)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())
    call("subsets", folder, **flags)
    assert (folder / "killed.parquet").read_bytes() == (folder / "whole.parquet").read_bytes()
    assert not parts.exists()
