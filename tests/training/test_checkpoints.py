"""Unfinished runs: what is kept and read again, and when it is not taken up."""

import hashlib
import json
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from methods import BAT
from runs import RECIPE, SPEC, right, same, samples

from bat.config import SizedModel, Steps
from bat.config.specs import TrainSpec
from bat.data.dataset import DataSet
from bat.io.tensors import read_tensors
from bat.training.checkpoints import CHECKPOINT_FORMAT, Checkpoint
from bat.training.run import Progress, Trained, train_run

torch.set_num_threads(1)

DATA = DataSet(samples(48, 1), samples(30, 2), samples(36, 3), classes=3)
RARE = torch.arange(48) % 4 == 0
PLAN = replace(SPEC, recipe=replace(RECIPE, epochs=5, ema_decay=0.5), method=BAT, measure_every=2)
CPU = torch.device("cpu")


class Killed(BaseException):
    pass


def unfinished(checkpoint: Checkpoint, after: int, plan: TrainSpec = PLAN) -> None:
    """Train until the end of an epoch, then stop as a kill does."""

    def keep(progress: Progress) -> None:
        checkpoint.keep(progress, 0)
        if progress.epoch == after:
            raise Killed

    with pytest.raises(Killed):
        train_run(plan, DATA, chosen=RARE, keep=keep)


def assert_equal(one: Trained, other: Trained) -> None:
    pd.testing.assert_frame_equal(one.records, other.records, check_like=True)  # the order of columns is the file's
    assert one.best_epoch == other.best_epoch
    assert same(one.best, other.best)
    assert same(one.last, other.last)


CNN = replace(PLAN, model=SizedModel(name="small_cnn", width=4))
PLANS = {"mlp": PLAN, "cnn": CNN}
for decay in (0.0, 0.5):
    for precision in ("float32", "bfloat16", "float16"):
        compute = replace(CNN.compute, channels_last=True, precision=precision)
        recipe = replace(CNN.recipe, ema_decay=decay)
        PLANS[f"channels last, {precision}, ema {decay:g}"] = replace(CNN, recipe=recipe, compute=compute)


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_run_goes_on_from_its_file_to_the_bit(plan: TrainSpec, after: int, tmp_path: Path) -> None:
    unfinished(Checkpoint(tmp_path / "c", {"spec": 1}), after, plan)
    progress = Checkpoint(tmp_path / "c", {"spec": 1}).read(CPU, print)
    assert progress is not None
    assert progress.epoch == after
    assert_equal(train_run(plan, DATA, chosen=RARE, progress=progress), train_run(plan, DATA, chosen=RARE))


def test_the_best_epoch_before_a_kill_stays_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.9, 0.5, 0.7])  # of epochs 2, 4 and 5
    monkeypatch.setattr(
        "bat.training.run.measure", lambda *_, **__: {"validation_pgd_correct": right(next(accuracies))}
    )
    unfinished(Checkpoint(tmp_path / "c", {}), 3)
    kept = Checkpoint(tmp_path / "c", {}).read(CPU, print)
    assert kept is not None
    trained = train_run(PLAN, DATA, chosen=RARE, progress=kept)
    assert trained.best_epoch == 2
    assert trained.records["best"].tolist() == [False, True, False, False, False]
    assert same(trained.best, kept.best)
    assert not same(trained.best, trained.last)


def test_another_run_or_a_damaged_file_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "c", list[str]()
    assert Checkpoint(path, {"spec": 1}).read(CPU, told.append) is None
    assert not told
    unfinished(Checkpoint(path, {"spec": 1}), 1)
    assert Checkpoint(path, {"spec": 2}).read(CPU, told.append) is None
    assert told.pop() == f"{path}: of another spec, or from other inputs: training starts anew"
    with monkeypatch.context() as patched:
        patched.setattr("bat.io.files.__version__", "0.0.1")
        assert Checkpoint(path, {"spec": 1}).read(CPU, told.append) is None
    assert told.pop() == f"{path}: damaged, or of another version: training starts anew"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    assert Checkpoint(path, {"spec": 1}).read(CPU, told.append) is None
    assert told.pop() == f"{path}: damaged, or of another version: training starts anew"
    header = int.from_bytes(content[:8], "little")
    # the length of the header, each byte of the header, and some of the tensors
    for byte in (*range(8 + header), *range(8 + header, len(content), 101)):
        path.write_bytes(content[:byte] + bytes([content[byte] ^ 1 << byte % 8]) + content[byte + 1 :])
        assert Checkpoint(path, {"spec": 1}).read(CPU, told.append) is None
        assert told.pop() == f"{path}: damaged, or of another version: training starts anew"
    path.write_bytes(content)
    assert Checkpoint(path, {"spec": 1}).read(CPU, told.append) is not None
    assert not told


def test_a_file_of_another_format_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "c", list[str]()
    unfinished(Checkpoint(path, {"spec": 1}), 1)
    monkeypatch.setattr("bat.training.checkpoints.CHECKPOINT_FORMAT", CHECKPOINT_FORMAT + 1)
    assert Checkpoint(path, {"spec": 1}).read(CPU, told.append) is None
    assert told == [f"{path}: of another format: training starts anew"]


def test_another_structure_needs_another_format(tmp_path: Path) -> None:
    """Where this fails, raise CHECKPOINT_FORMAT beside the checkpoint, and write the number and the hash here."""
    unfinished(Checkpoint(tmp_path / "c", {"spec": 1}), 2)
    tensors, facts = read_tensors(tmp_path / "c", "checkpoint")
    done = json.loads(facts.pop("done"))
    structure = {
        "tensors": {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()},
        "done": {name: type(value).__name__ for name, value in done.items()},
        "rows": [sorted(row) for row in done["rows"]],
        "facts": sorted(facts),
    }
    found = hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()
    assert (CHECKPOINT_FORMAT, found[:16]) == (2, "d7658bc31c988b39")


def test_what_a_finished_run_removes(tmp_path: Path) -> None:
    (tmp_path / ".c.999999999.tmp").mkdir()
    (tmp_path / ".cc.999999999.tmp").mkdir()
    Checkpoint(tmp_path / "c", {}).remove()
    (tmp_path / "c").write_text("x")
    Checkpoint(tmp_path / "c", {}).remove()
    assert [path.name for path in tmp_path.iterdir()] == [".cc.999999999.tmp"]


def progress(epoch: int) -> Progress:
    return Progress(epoch, {"a": torch.ones(2)}, [{"loss": float("nan"), "weight": b"\1\2"}], 1, 7, {})


def test_a_file_is_written_when_the_minutes_have_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    checkpoint = Checkpoint(tmp_path / "c", {})
    for seconds, written in ((59, False), (1, True), (59, True), (1, True)):
        clock[0] += seconds
        checkpoint.keep(progress(int(clock[0])), 1)
        assert checkpoint.path.exists() == written
    found = checkpoint.read(CPU, print)
    assert found is not None
    assert found.epoch == 220  # not 219, a minute less a second after the one before


def test_tensors_are_read_to_the_device(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", {}).keep(replace(progress(3), best={"b": torch.ones(1)}), 0)
    found = Checkpoint(tmp_path / "c", {}).read(torch.device("meta"), print)
    assert found is not None
    assert {found.state["a"].device.type, found.best["b"].device.type} == {"meta"}


def test_a_run_that_is_ended_before_its_first_epoch_keeps_nothing(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", {})
    with pytest.raises(KeyboardInterrupt), checkpoint.guarding():
        raise KeyboardInterrupt
    assert not checkpoint.path.exists()


def test_a_run_by_a_spec_with_tuples_is_taken_up(tmp_path: Path) -> None:
    about = {"spec": asdict(replace(RECIPE, schedule=Steps(name="steps", warmup=0.0, milestones=(0.5,), factor=0.1)))}
    Checkpoint(tmp_path / "c", about).keep(progress(3), 0)
    found = Checkpoint(tmp_path / "c", about).read(CPU, print)
    assert found is not None
    assert found.epoch == 3


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_the_last_epoch_is_kept_when_a_run_is_ended(end: type[BaseException], tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.keep(progress(3), 10)
    with pytest.raises(end), checkpoint.guarding():
        raise end
    found = checkpoint.read(CPU, print)
    assert found is not None
    assert found.epoch == 3


def test_sigterm_ends_a_run_with_its_status_and_is_left_as_it_was(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.keep(progress(3), 10)
    with pytest.raises(SystemExit) as stopped, checkpoint.guarding():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint.path.exists()


def test_an_error_keeps_nothing(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", {})
    checkpoint.keep(progress(3), 10)
    with pytest.raises(ValueError, match="x"), checkpoint.guarding():
        raise ValueError("x")
    assert not checkpoint.path.exists()
