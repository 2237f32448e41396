"""Ctrl-C and SIGTERM end a real process at any moment: its status says so, quietly, and nothing is left half done."""

import importlib
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import ended, says, start, wait_until
from stages import EVALUATE, MODEL, NATURAL, PGD_AT, RECIPE, SUBSETS, TRAIN, command, digits, evaluation
from warm import Forked

from bat.cli import main
from bat.data.saved import read_data
from bat.errors import Stopped, stoppable

torch.set_num_threads(1)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INPUTS = {"data": "data.safetensors"}
OWN = ["--architecture", f"mlp:{MODEL['width']}", "--norm", "linf", "--eps", "0.3", "--ensemble", "fast"]
STAGES: dict[str, tuple[dict[str, Any], list[str], str, str]] = {
    # flags, further arguments, a file that is there when the work has begun, and where what is done is kept
    "train": (
        {"spec": TRAIN | {"method": PGD_AT, "recipe": RECIPE | {"epochs": 15}}, **INPUTS}
        | {"best": "out/b.safetensors", "last": "out/l.safetensors", "records": "out/r.parquet"},
        ["--checkpoint-minutes", "0"],
        "out/l.safetensors.checkpoint",
        "out/l.safetensors.checkpoint",
    ),
    "subsets": (
        {"spec": SUBSETS | {"first_model": 0, "recipe": RECIPE | {"epochs": 4}}, **INPUTS, "shard": "out/s.parquet"},
        [],
        "out/s.parquet.parts/1.safetensors",
        "out/s.parquet.parts",
    ),
    "evaluate": (
        evaluation(spec=EVALUATE | {"batch_size": 100}, attacked="out/e.parquet", flags="out/f.parquet"),
        [],
        "out/e.parquet.parts/best/0003.safetensors",
        "out/e.parquet.parts",
    ),
    "attack": (
        {"model": "last.safetensors", "data": "images.npz", "out": "out/o.parquet", "flags": "out/f.parquet"},
        [*OWN, "--batch-size", "10"],
        "out/o.parquet.parts/0001.safetensors",
        "out/o.parquet.parts",
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    main(command("data", folder, **digits() | {"data": "data.safetensors"}))
    short = {"spec": TRAIN | {"method": NATURAL, "recipe": RECIPE | {"epochs": 4}}, "records": "r.parquet"}
    main(command("train", folder, **short, **INPUTS, best="best.safetensors", last="last.safetensors"))
    test = read_data(folder / "data.safetensors").test
    np.savez(folder / "images.npz", x=test.images(slice(0, 60)).numpy(), y=test.labels[:60].numpy())
    return folder


def arguments(stage: str, folder: Path) -> list[str]:
    flags, more, _, _ = STAGES[stage]
    return [*command(stage, folder, **flags, log="log"), *more]


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}


# each signal in two stages
@pytest.mark.parametrize(
    ("stage", "number"),
    [("train", signal.SIGINT), ("subsets", signal.SIGTERM), ("evaluate", signal.SIGINT), ("attack", signal.SIGTERM)],
)
def test_a_stage_that_is_stopped_says_so_and_goes_on_to_the_same_bytes(
    stage: str, number: signal.Signals, made: Path
) -> None:
    _, _, begun, kept = STAGES[stage]
    main(arguments(stage, made))
    expected = written(made)
    shutil.rmtree(made / "out")
    process = Forked(*arguments(stage, made))
    wait_until(process, (made / begun).exists)
    time.sleep(random.Random(stage).uniform(0, 0.05))
    assert process.poll() is None, "ended too soon for this test"
    process.send_signal(number)
    assert ended(process) == (128 + number, "")
    assert not says(made / "log", "Traceback")
    assert [path.name for path in (made / "out").iterdir()] == [Path(kept).name]
    assert not list((made / "out").rglob("*.tmp"))
    main(arguments(stage, made))
    # it has gone on, not begun anew
    assert says(made / "log", "goes on after epoch") == (stage == "train")
    assert not says(made / "log", "anew")
    assert written(made) == expected
    assert not (made / kept).exists()
    shutil.rmtree(made / "out")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("seconds", [0, 0.4])
def test_a_signal_while_libraries_are_imported_ends_the_process(
    number: signal.Signals, seconds: float, made: Path
) -> None:
    log = made / "log"
    log.unlink(missing_ok=True)
    process = start(*arguments("train", made))
    wait_until(process, log.exists)  # the last before the imports
    time.sleep(seconds)
    process.send_signal(number)
    assert ended(process) == (-number, "")
    assert log.read_text() == ""
    assert not (made / "out").exists()


def test_sigterm_right_after_the_start(made: Path) -> None:
    process = start(*arguments("train", made))
    process.terminate()
    assert ended(process) == (-signal.SIGTERM, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_left_alone_until_the_stage_begins(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = signal.getsignal(number), []

    class Stage:
        @staticmethod
        def schema(journal: Any, *, out: str) -> None:
            seen.append(signal.getsignal(number))
            os.kill(os.getpid(), number)
            time.sleep(10)

    monkeypatch.setattr(importlib, "import_module", lambda name: seen.append(signal.getsignal(number)) or Stage)
    with pytest.raises(SystemExit) as stopped:
        main(["schema", "--out", str(tmp_path / "x.yaml")])
    assert stopped.value.code == 128 + number
    assert seen[0] is before
    assert seen[1] is not before
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            assert signal.getsignal(number) is signal.SIG_IGN
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_impatient_second_signal_changes_nothing(number: signal.Signals) -> None:
    cleaned = []

    def stage() -> None:
        try:
            os.kill(os.getpid(), number)
        except Stopped:
            with pytest.raises(Stopped):
                os.kill(os.getpid(), number)
            cleaned.append(True)
            raise

    with pytest.raises(Stopped) as stopped, stoppable():
        stage()
    assert stopped.value.code == 128 + number
    assert cleaned
