"""Stages train and harmful around a training that is made up: what it is given, what is written and what is said."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from methods import BAT, DPLS, NATURAL, but
from refusals import refusal
from runs import RECIPE, SPEC
from stubs import Lines, written

import bat.training.stage
from bat.config import Without
from bat.config.specs import HarmfulSpec, TrainSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import read_table, read_table_with_facts
from bat.io.tensors import read_tensors
from bat.training.checkpoints import Checkpoint
from bat.training.records import packed, samples_table
from bat.training.run import Progress, Trained
from bat.training.selection import harmful_table, removed
from bat.training.stage import hardest, harmful, train

LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
DATA = DataSet(
    *(
        Part(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), LABELS.clone(), torch.arange(6) + first, 255)
        for first in (10, 20, 30)
    ),
    classes=2,
)
MEMORIZED = [0.9, 0.1, 0.0, 0.2, 0.1, 0.0]
SAMPLES: dict[str, list[Any]] = {"train_index": [*range(10, 16)], "label": LABELS.tolist()}
PLAIN = replace(SPEC, method=NATURAL, recipe=replace(RECIPE, epochs=3))
READER = replace(PLAIN, method=BAT)


def without(what: Any, *, random: bool = False, fraction: float | None = None) -> TrainSpec:
    return replace(PLAIN, without=Without(what=what, fraction=fraction, random=random))


class Training:
    """Stands for ``train_run``: keeps what it is given, and returns a run of so many epochs."""

    def __init__(self, epochs: int = 3, right: int = 6, losses: tuple[float, ...] = (3.0, 2.0, 1.0)) -> None:
        self.epochs, self.right, self.losses = epochs, right, losses
        self.given: dict[str, Any] = {}
        self.progress = Progress(2, {"a": torch.ones(1)}, [], 1, 2, {"b": torch.ones(1)})

    def __call__(self, spec: TrainSpec, data: DataSet, watch: Any, **given: Any) -> Trained:
        self.given = given | {"spec": spec, "digest": data.digest(), "watched": list(watch(iter([1, 2])))}
        given["keep"](self.progress)
        rows = {name: [0.5] * self.epochs for name in SCHEMAS["records"].names if name not in ("method", "seed")}
        rows |= {name: [b""] * self.epochs for name in rows if "_loss" in name or "_correct" in name}
        rows |= {name: [b""] * self.epochs for name in ("wrong_probability", "weight")}
        right = [packed({"x_correct": np.arange(6) < count})["x_correct"] for count in (0, 0, self.right)]
        rows |= {"train_clean_correct": right[3 - self.epochs :], "best": [False] * self.epochs}
        rows |= {name: [7] * self.epochs for name in ("epoch", "trained_samples", "harmful")}
        rows |= {"loss": list(self.losses[: self.epochs]), "discrimination_loss": [0.0] * self.epochs}
        return Trained(pd.DataFrame(rows), 2, {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_data(tmp_path / "data", DATA, provenance("data"))
    scores = SAMPLES | {"memorization": MEMORIZED, "atypical": [value > 0.15 for value in MEMORIZED]}
    scored(tmp_path / "memorization", "memorization", **scores)
    robust = SAMPLES | {"memorization": MEMORIZED[::-1]}
    scored(tmp_path / "robust_memorization", "robust_memorization", **robust)
    scored(tmp_path / "proxies", "proxies", **SAMPLES | {"csl": [1.0, 3.0, 4.0, 2.0, 0.0, 2.5]})
    scored(tmp_path / "harmful", "harmful", train_index=[10, 13], harmful=[True, False])
    scored(tmp_path / "hardest", "hardest", train_index=[*range(10, 16)], adversarial_loss=[0.1, 0.2, 4.0, 0.3, 5.0, 0])
    return tmp_path


def scored(path: Path, kind: str, data: str = "", **columns: list[Any]) -> Path:
    return written(path, kind, {"data": data or DATA.digest()}, **columns)


def run(
    folder: Path, spec: TrainSpec, training: Training, monkeypatch: pytest.MonkeyPatch, *tables: str, **more: Any
) -> list[str]:
    monkeypatch.setattr(bat.training.run, "train_run", training)
    journal, outputs = Lines(), {name: folder / name for name in ("best", "last", "records")}
    inputs = {name: folder / name for name in ("data", *tables)}
    train(journal, spec=spec, **inputs | outputs | more)  # type: ignore[arg-type]
    assert journal.bars == [(3, "epochs")]
    assert journal.worked == 1
    return journal.lines


def test_a_plain_run_is_given_all_samples_and_writes_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    lines = run(folder, PLAIN, training, monkeypatch)
    assert lines == ["best epoch 2 of 3"]
    keep = training.given.pop("keep")
    assert callable(keep)
    assert training.given.pop("removed").tolist() == [False] * 6
    assert training.given == {
        "spec": PLAIN,
        "digest": DATA.digest(),
        "watched": [1, 2],
        "chosen": None,
        "difficulty": None,
        "progress": None,
    }
    for name, epoch, weight in (("best", 2, 1.0), ("last", 3, 2.0)):
        tensors, facts = read_tensors(folder / name, "model")
        assert tensors["w"].tolist() == [weight]
        assert (facts["epoch"], facts["data"]) == (epoch, DATA.digest())
        assert facts["spec"]["method"] == asdict(NATURAL)
    records, facts = read_table_with_facts(folder / "records", "records")
    assert records[["method", "seed"]].to_numpy().tolist() == [["natural", 4]] * 3
    assert records["loss"].tolist() == [3, 2, 1]
    assert (facts["spec"]["seed"], facts["data"]) == (4, DATA.digest())
    assert not (folder / "last.checkpoint").exists()


def test_a_run_that_stops_early_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(folder, PLAIN, Training(epochs=2), monkeypatch) == ["best epoch 2 of 2: stopped early"]


def test_a_run_that_did_not_train_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = run(folder, PLAIN, Training(right=3), monkeypatch)
    assert said == (
        "clean training accuracy 50.0 % is near chance (50.0 %): the model did not train; lower "
        "training.recipe.learning_rate or raise training.recipe.schedule.warmup; raise training.recipe.epochs where "
        "the loss still falls"
    )
    _, said = run(folder, PLAIN, Training(right=5, losses=(1.0, 1.0, 1.0)), monkeypatch)
    assert said.startswith("the loss is 1 since epoch 1, with clean training accuracy 83.3 %: training stood still; ")


def test_chance_is_that_of_the_samples_that_are_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # without samples 10 and 13, two of two of class 0 are right and none of class 1
    _, _, said = run(folder, without("atypical"), Training(right=3), monkeypatch, "memorization")
    assert said.startswith("clean training accuracy 50.0 % is near chance (50.0 %)")
    # of five of class 0 and class 1 alike, one of them left out
    _, _, said = run(folder, without("top", fraction=0.17), Training(right=4), monkeypatch, "memorization")
    assert "60.0 % is near chance (60.0 %)" in said


@pytest.mark.parametrize(
    ("method", "table", "chosen"),
    [
        (BAT, "memorization", [True, False, False, True, False, False]),
        (but(BAT, score="robust_memorization"), "robust_memorization", [False, False, True, False, False, True]),
        # as many as by memorization
        (but(BAT, score="csl"), "proxies", [False, True, True, False, False, False]),
    ],
)
def test_a_method_is_told_its_atypical_samples_by_its_own_score(
    method: Any, table: str, chosen: list[bool], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training()
    run(folder, replace(PLAIN, method=method), training, monkeypatch, "memorization", "robust_memorization", "proxies")
    assert training.given["chosen"].tolist() == chosen
    flags = {"memorization": "--memorization, of stage scores", "proxies": "--proxies, of stage proxies"}
    flag = flags.get(table, "--robust-memorization, of stage robust-scores")
    others = {"memorization", "robust_memorization", "proxies"} - {table}
    assert refusal(lambda: run(folder, replace(PLAIN, method=method), training, monkeypatch, *others)) == (
        f"method bat: its score needs {flag}"
    )


def test_methods_and_removals_go_by_the_score_that_the_config_chose(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, about = Training(), {"data": DATA.digest(), "spec": {"score": "soft"}}
    soft = {
        "memorization": [0.0] * 6,
        "soft_memorization": MEMORIZED,
        "atypical": [value > 0.15 for value in MEMORIZED],
    }
    for kind, values in (("memorization", MEMORIZED), ("robust_memorization", MEMORIZED[::-1])):
        written(folder / kind, kind, about, **SAMPLES | soft | {"soft_memorization": values})
    for method, chosen in (
        (BAT, [True, False, False, True, False, False]),
        (but(BAT, score="robust_memorization"), [False, False, True, False, False, True]),
        (but(BAT, score="csl"), [False, True, True, False, False, False]),
    ):
        spec = replace(PLAIN, method=method)
        run(folder, spec, training, monkeypatch, "memorization", "robust_memorization", "proxies")
        assert training.given["chosen"].tolist() == chosen
    run(folder, replace(PLAIN, method=DPLS), training, monkeypatch, "memorization")
    assert torch.equal(training.given["difficulty"], torch.tensor(MEMORIZED))
    run(folder, without("top", fraction=0.17), training, monkeypatch, "memorization")
    assert training.given["removed"].tolist() == [True] + [False] * 5
    journal: Any = Lines()
    out = folder / "out"
    given: Any = {"memorization": folder / "memorization", "records": [records(folder / "r", 1)], "harmful": out}
    harmful(journal, spec=HarmfulSpec(threshold=0.5), **given)
    assert read_table(out, "harmful")["memorization"].tolist() == [0.9, 0.2]


def test_a_method_is_told_the_difficulty_of_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, path = Training(), folder / "last.checkpoint"
    monkeypatch.setattr(Checkpoint, "remove", lambda self: None)
    spec = replace(PLAIN, method=DPLS)
    run(folder, spec, training, monkeypatch, "memorization", checkpoint_minutes=0)
    assert training.given["chosen"] is None
    assert torch.equal(training.given["difficulty"], torch.tensor(MEMORIZED))
    # what is kept of an unfinished run is of these scores
    marks = np.packbits([False] * 6).tobytes() + np.array(MEMORIZED).tobytes()
    assert read_tensors(path, "checkpoint")[1]["about"]["samples"] == hashlib.sha256(marks).hexdigest()
    assert refusal(lambda: run(folder, spec, training, monkeypatch)).startswith("method dpls: its score needs --memor")


def test_the_difficulty_of_samples_is_by_the_methods_own_score(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    spec = replace(PLAIN, method=but(DPLS, score="robust_memorization"))
    run(folder, spec, training, monkeypatch, "memorization", "robust_memorization")
    assert torch.equal(training.given["difficulty"], torch.tensor(MEMORIZED[::-1]))
    found = []
    for seed in (1, 1, 2, 3):
        spec = replace(PLAIN, method=but(DPLS, score="shuffled"), seed=seed)
        run(folder, spec, training, monkeypatch, "memorization")
        found.append(training.given["difficulty"].tolist())
        assert sorted(found[-1]) == sorted(torch.tensor(MEMORIZED).tolist())
    assert found[0] == found[1]
    assert found.count(found[0]) < 4


def test_shuffled_scores_depend_on_the_seed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for seed in range(6):
        training = Training()
        spec = replace(PLAIN, method=but(BAT, score="shuffled"), seed=seed)
        run(folder, spec, training, monkeypatch, "memorization")
        assert training.given["chosen"].sum() == 2
        found.add(tuple(training.given["chosen"].tolist()))
    assert len(found) > 1


@pytest.mark.parametrize(
    ("spec", "tables", "left_out"),
    [
        (without("atypical"), (), [0, 3]),
        (without("top", fraction=0.17), (), [0]),
        (without("harmful"), ("harmful",), [0]),
        (without("benign"), ("harmful",), [3]),
        (without("hardest", fraction=0.34), ("hardest",), [2, 4]),
    ],
)
def test_a_run_without_samples_is_told_which(
    spec: TrainSpec, tables: tuple[str, ...], left_out: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training()
    lines = run(folder, spec, training, monkeypatch, "memorization", *tables)
    assert training.given["removed"].nonzero().flatten().tolist() == left_out
    assert spec.without is not None
    assert lines == [f"trained without {len(left_out)} of 6 samples: {spec.without.name}", "best epoch 2 of 3"]


def test_random_samples_are_left_out_by_the_seed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = read_table(folder / "memorization", "memorization")
    for seed in range(4):
        training, spec = Training(), replace(without("atypical", random=True), seed=seed)
        run(folder, spec, training, monkeypatch, "memorization")
        assert spec.without is not None
        assert training.given["removed"].tolist() == removed(scores, spec.without, None, seed=seed).tolist()


def test_a_twin_of_too_few_others_is_said_to_be_no_control(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = SAMPLES | {"memorization": MEMORIZED, "atypical": [True] * 4 + [False] * 2}
    scored(folder / "memorization", "memorization", **most)
    lines = run(folder, without("atypical", random=True), Training(), monkeypatch, "memorization")
    assert lines[:2] == [
        "trained without 2 of 6 samples: random_atypical",
        "4 samples are named, so that there are not as many others: this run is no fair control; "
        "lower removal.fractions, or raise memorization.threshold",
    ]
    # four may be left out, and no more
    assert run(folder, without("atypical"), Training(), monkeypatch, "memorization")[:1] == [
        "trained without 4 of 6 samples: atypical"
    ]
    scored(folder / "memorization", "memorization", **most | {"atypical": [True] * 5 + [False]})
    assert refusal(lambda: run(folder, without("atypical"), Training(), monkeypatch, "memorization")) == (
        "removal: without atypical, 5 of 6 training samples would be left out, which leaves too few: lower "
        "removal.fractions, raise memorization.threshold, or set removal.method to null"
    )


def test_tables_that_a_run_needs_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(lambda: run(folder, without("atypical"), Training(), monkeypatch)) == (
        "trained without atypical samples: give --memorization, of stage scores"
    )
    assert refusal(lambda: run(folder, without("benign"), Training(), monkeypatch, "memorization")) == (
        "benign samples need the table of harmful samples: give --harmful, from stage harmful"
    )
    spec = without("hardest", fraction=0.2, random=True)
    assert refusal(lambda: run(folder, spec, Training(), monkeypatch, "memorization", "harmful")) == (
        "hardest samples need the table of losses: give --hardest, from stage hardest"
    )


@pytest.mark.parametrize("kind", ["memorization", "robust_memorization", "proxies", "harmful", "hardest"])
def test_tables_of_other_data_are_refused(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(folder / kind, kind, data="other", **SAMPLES)
    assert refusal(lambda: run(folder, PLAIN, Training(), monkeypatch, kind)) == (
        f"{folder / 'data'} and {folder / kind} are of different data: remove the one that is out of date, and run "
        "its stage again"
    )


@pytest.mark.parametrize("kind", ["memorization", "robust_memorization", "proxies"])
@pytest.mark.parametrize("column", ["train_index", "label"])
def test_scores_of_other_samples_are_refused(
    column: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(folder / kind, kind, **SAMPLES | {column: [*SAMPLES[column][:5], 9]})
    message = refusal(lambda: run(folder, PLAIN, Training(), monkeypatch, kind))
    sample, label = (9, 1) if column == "train_index" else (15, 9)
    assert message == (
        f"{folder / kind}: row 5 is sample {sample} with label {label}, but the data has sample 15 with label 1: "
        "it is of other data"
    )


def test_a_run_goes_on_from_its_checkpoint_where_all_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "last.checkpoint"
    monkeypatch.setattr(Checkpoint, "remove", lambda self: None)
    run(folder, READER, Training(), monkeypatch, "memorization", checkpoint_minutes=0)
    assert path.exists()
    _, about = read_tensors(path, "checkpoint")
    marks = np.packbits([value > 0.15 for value in MEMORIZED]).tobytes() + np.packbits([False] * 6).tobytes()
    assert about["about"]["samples"] == hashlib.sha256(marks).hexdigest()
    assert (about["about"]["data"], about["about"]["spec"]["seed"]) == (DATA.digest(), 4)
    again, journal = Training(), Lines()
    monkeypatch.setattr(bat.training.run, "train_run", again)
    outputs = {name: folder / name for name in ("best", "last", "records")}
    inputs = {name: folder / name for name in ("data", "memorization")}
    train(journal, spec=READER, **inputs | outputs)  # type: ignore[arg-type]
    assert journal.lines == [f"goes on after epoch 2, from {path}", "best epoch 2 of 3"]
    assert again.given["progress"].epoch == 2
    assert journal.bars == [(1, "epochs")]
    # other samples are taken for atypical
    other = SAMPLES | {"memorization": MEMORIZED[::-1]}
    scored(folder / "memorization", "memorization", **other)
    anew = Training()
    lines = run(folder, READER, anew, monkeypatch, "memorization")
    assert anew.given["progress"] is None
    assert lines[0] == f"{path}: of another spec, or from other inputs: training starts anew"


@pytest.mark.parametrize("minutes", [None, 0.5])
def test_a_checkpoint_is_kept_after_the_minutes(
    minutes: float | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(Checkpoint, "keep", lambda self, progress, minutes: kept.append((progress, minutes)))
    training, more = Training(), {} if minutes is None else {"checkpoint_minutes": minutes}
    run(folder, PLAIN, training, monkeypatch, **more)
    assert kept == [(training.progress, minutes or 10)]


# -- harmful


def records(path: Path, seed: int, **changed: Any) -> Path:
    random = np.random.default_rng(seed)
    rows = [packed({name: random.random(6, dtype=np.float32) for name in ("wrong_probability", "weight")})] * 2
    columns: Any = pd.DataFrame(rows).to_dict("list")
    facts = {"spec": {"seed": seed, "method": "m"}, "data": DATA.digest()} | changed
    return written(path, "records", facts, epoch=[1, 2], **columns)


def test_samples_are_divided_by_the_records_of_all_seeds(folder: Path) -> None:
    paths, journal = [records(folder / f"r{seed}", seed) for seed in (1, 2)], Lines()
    spec = HarmfulSpec(threshold=0.55)
    harmful(journal, spec=spec, memorization=folder / "memorization", records=paths, harmful=folder / "out")  # type: ignore[arg-type]
    scores = read_table(folder / "memorization", "memorization")
    every = [samples_table(read_table(path, "records"), scores, "") for path in paths]
    expected = harmful_table(every, threshold=0.55)
    table, facts = read_table_with_facts(folder / "out", "harmful")
    pd.testing.assert_frame_equal(table, expected[table.columns])
    assert table["train_index"].tolist() == [10, 13]
    assert (facts["spec"], facts["data"]) == ({"threshold": 0.55}, DATA.digest())
    assert journal.lines == [f"{expected['harmful'].sum()} of 2 atypical training samples are harmful"]


def test_records_of_two_trainings_or_of_other_data_are_refused(folder: Path) -> None:
    first = records(folder / "r1", 1)

    def divided(other: Path) -> None:
        spec, paths = HarmfulSpec(threshold=0.5), [first, other]
        harmful(Lines(), spec=spec, memorization=folder / "memorization", records=paths, harmful=folder / "out")  # type: ignore[arg-type]

    other = records(folder / "r2", 2, spec={"seed": 2, "method": "n"})
    assert refusal(divided, other) == f"{first} and {other} were trained by different specs: train both again"
    other = records(folder / "r2", 2, data="other")
    assert refusal(divided, other).startswith(f"{folder / 'memorization'} and {other} are of different data")
    written(folder / "memorization", "memorization", {"data": DATA.digest()}, atypical=[True] * 7)
    message = refusal(divided, records(folder / "r2", 2))
    assert message == f"{first}: wrong_probability does not hold 7 samples: it is of other data; remove it"
    assert not (folder / "out").exists()


# -- hardest


def test_the_hardest_are_those_of_the_highest_mean_loss_late_in_training(folder: Path) -> None:
    paths, late = [], []
    for seed, measured in ((1, [1, 2, 4, 5]), (2, [4, 5])):
        random = np.random.default_rng(seed)
        losses = {epoch: random.exponential(size=6).astype(np.float16) for epoch in measured}
        rows = [losses[epoch].tobytes() if epoch in losses else None for epoch in range(1, 6)]
        facts = {"spec": {"seed": seed, "method": "m"}, "data": DATA.digest()}
        paths.append(written(folder / f"r{seed}", "records", facts, epoch=[1, 2, 3, 4, 5], train_pgd_loss=rows))
        late += [losses[epoch].astype(float) for epoch in measured if epoch > 2.5]
    journal = Lines()
    hardest(journal, memorization=folder / "memorization", records=paths, hardest=folder / "out")  # type: ignore[arg-type]
    table, facts = read_table_with_facts(folder / "out", "hardest")
    assert table["train_index"].tolist() == SAMPLES["train_index"]
    assert table["label"].tolist() == SAMPLES["label"]
    assert table["adversarial_loss"].tolist() == pytest.approx([sum(each[i] for each in late) / 4 for i in range(6)])
    assert facts["data"] == DATA.digest()
    assert journal.lines == [f"the mean loss under attack is {np.mean(late):.4g}, over 4 epochs"]
    short = {"spec": {"seed": 2, "method": "m"}, "data": DATA.digest()}
    written(paths[1], "records", short, epoch=[1], train_pgd_loss=[b"1"])
    assert refusal(
        lambda: hardest(Lines(), memorization=folder / "memorization", records=paths, hardest=folder / "no")  # type: ignore[arg-type]
    ).startswith(f"{paths[1]}: train_pgd_loss does not hold 6 samples")
    other = written(folder / "r3", "records", {"spec": {"method": "n"}, "data": DATA.digest()}, epoch=[1])
    out = folder / "no"
    line = refusal(
        lambda: hardest(Lines(), memorization=folder / "memorization", records=[paths[0], other], hardest=out)  # type: ignore[arg-type]
    )
    assert line == f"{paths[0]} and {other} were trained by different specs: train both again"
    assert not out.exists()
