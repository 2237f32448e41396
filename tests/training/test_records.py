"""Records of each sample, and the tables that groups make of them, against loops over samples and epochs."""

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, PGD_AT
from refusals import refusal
from runs import RECIPE, SPEC, history, recorded, samples
from torch import Tensor

import bat.training.run
from bat.data.dataset import DataSet
from bat.errors import BatError
from bat.io.schemas import SCHEMAS
from bat.training.measure import measure
from bat.training.records import history_table, packed, samples_table, unpacked
from bat.training.run import train_run

torch.set_num_threads(1)

DATA = DataSet(samples(48, 1), samples(30, 2), samples(36, 3), classes=3)
PLAN = replace(SPEC, recipe=replace(RECIPE, epochs=4), measure_every=3)


# -- packing


@given(
    n=st.integers(1, 40),
    epochs=st.lists(st.booleans(), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=50)
def test_values_come_back_from_the_epochs_that_have_them(n: int, epochs: list[bool], seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, kept = [], []
    for measured in epochs:
        values = {"weight": random.random(n, dtype=np.float32)}
        if measured:
            values |= {"test_clean_loss": random.exponential(1, n), "test_clean_correct": random.random(n) < 0.5}
            kept.append(values)
        rows.append({"epoch": 1} | packed(values))
    names = ("weight", "test_clean_loss", "test_clean_correct")
    table = pd.DataFrame(rows).reindex(columns=names)
    found = {name: unpacked(table, name, n, "") for name in names}
    assert found["weight"].shape == (len(epochs), n)
    assert found["test_clean_loss"].shape == found["test_clean_correct"].shape == (sum(epochs), n)
    for row, values in enumerate(kept):
        assert found["test_clean_correct"][row].tolist() == values["test_clean_correct"].tolist()
        np.testing.assert_allclose(found["test_clean_loss"][row], values["test_clean_loss"], rtol=2**-11, atol=1e-7)
    first = np.frombuffer(rows[0]["weight"], np.float32) if sys.byteorder == "little" else found["weight"][0]
    assert found["weight"][0].tolist() == first.tolist()


def test_bytes_by_hand() -> None:
    found = packed(
        {
            "test_pgd_correct": np.array([True, False, False, False, False, False, False, True, True]),
            "test_pgd_loss": np.array([1.0, 1e9, np.inf, np.nan]),
            "wrong_probability": np.array([0.5, np.nan], np.float32),
            "weight": np.array([1e6], np.float32),
        }
    )
    assert found["test_pgd_correct"] == bytes([0b10000001, 0b10000000])
    # 16 bits: 1 is 0x3c00, the largest number 0x7bff; a loss that is too large is not infinite
    assert found["test_pgd_loss"][:6] == bytes.fromhex("003c ff7b ff7b")
    assert math.isnan(np.frombuffer(found["test_pgd_loss"], "<f2")[3])
    assert found["wrong_probability"][:4] == bytes.fromhex("0000003f")
    assert np.frombuffer(found["weight"], "<f4") == [1e6]  # 32 bits hold it


@pytest.mark.parametrize("name", ["weight", "test_pgd_correct", "test_pgd_loss"])
def test_records_of_other_samples_are_refused_by_name(name: str) -> None:
    table = pd.DataFrame([packed({name: np.ones(20, bool)}), packed({name: np.ones(20, bool)})])
    assert unpacked(table, name, 20, "a file").all()
    assert refusal(unpacked, table, name, 30, "a file") == (
        f"a file: {name} does not hold 30 samples: it is of other data; remove it"
    )


def test_tables_of_other_samples_name_their_file() -> None:
    names = [f"test_{attack}_{name}" for attack in ("clean", "pgd") for name in ("loss", "correct")]
    values = {name: np.ones(3, bool) for name in (*names, "weight", "wrong_probability")}
    records = pd.DataFrame([packed(values)])
    with pytest.raises(BatError, match=r"^a file: test_clean_loss does not hold 4 samples"):
        history_table(records, {"test": np.ones(4, bool)}, "a file")
    with pytest.raises(BatError, match=r"^a file: wrong_probability does not hold 4 samples"):
        samples_table(records, pd.DataFrame({"atypical": np.ones(4, bool)}), "a file")


@pytest.mark.parametrize(("name", "kind"), [("weight", "float32"), ("test_pgd_loss", "float16")])
def test_of_no_measured_epoch_there_are_no_values(name: str, kind: str) -> None:
    found = unpacked(pd.DataFrame({name: [None, None]}), name, 20, "")
    assert (found.shape, found.dtype) == ((0, 20), kind)


# -- groups


def by_hand(values: dict[str, Tensor], rare: dict[str, list[bool]]) -> dict[str, float]:
    """Average what was measured in one epoch, one sample after the other."""
    row = {}
    for split, marks in rare.items():
        for group, wanted in (("all", (False, True)), ("typical", (False,)), ("atypical", (True,))):
            for attack in ("clean", "pgd"):
                for metric, name in (("loss", "loss"), ("accuracy", "correct")):
                    each = values[f"{split}_{attack}_{name}"].tolist()
                    chosen = [float(value) for value, mark in zip(each, marks, strict=True) if mark in wanted]
                    mean = sum(chosen) / len(chosen) if chosen else math.nan
                    row[f"{split}_{group}_{attack}_{metric}"] = mean
    return row


@pytest.mark.parametrize("method", [PGD_AT, BAT], ids=["pgd_at", "bat"])
def test_groups_formed_afterwards_equal_those_measured_in_training(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, Tensor]] = []

    def spy(*given: Any, **options: Any) -> dict[str, Tensor]:
        measured.append(measure(*given, **options))
        return measured[-1]

    monkeypatch.setattr(bat.training.run, "measure", spy)
    trained = train_run(replace(PLAN, method=method), DATA, chosen=torch.arange(48) % 4 == 0)
    assert len(measured) == 2  # after epochs 3 and 4
    # any groups, none of the validation samples and all of the test samples: nothing is trained again
    for every in (2, 5):
        rare = {name: torch.arange(len(part)) % every == 1 for name, part in DATA.parts().items()}
        rare |= {"validation": torch.zeros(30, dtype=torch.bool), "test": torch.ones(36, dtype=torch.bool)}
        table = history(trained, rare).set_index("epoch")
        for epoch, values in zip((3, 4), measured, strict=True):
            expected = by_hand(values, {name: marks.tolist() for name, marks in rare.items()})
            for name, mean in expected.items():
                if name.endswith("_accuracy"):
                    assert table.loc[epoch, name] == pytest.approx(mean, rel=1e-15, nan_ok=True)
                else:  # losses are kept in 16 bits
                    assert table.loc[epoch, name] == pytest.approx(mean, rel=2**-11, abs=1e-7, nan_ok=True)
        assert table.loc[[1, 2], list(expected)].isna().all(axis=None)
        assert table["validation_atypical_clean_accuracy"].isna().all()
        assert table["test_typical_pgd_loss"].isna().all()
        assert 0 < table.loc[4, "train_atypical_pgd_accuracy"] < 1


def test_the_record_of_atypical_samples_equals_a_loop_over_epochs() -> None:
    seen, out, rare = [], torch.arange(48) % 5 == 1, torch.arange(48) % 3 == 0

    def watch(epochs: Any) -> Any:
        for epoch in epochs:
            seen.append(epoch)
            yield epoch

    trained = train_run(replace(PLAN, method=BAT), DATA, watch, chosen=torch.arange(48) % 4 == 0, removed=out)
    left = [row for row in range(48) if not out[row]]
    expected = [
        (
            epoch.epoch,
            int(DATA.train.index[row]),
            int(DATA.train.labels[row]),
            float(epoch.samples.wrong_probability[place]),
            float(epoch.samples.weight[place]),
        )
        for epoch in seen
        for place, row in enumerate(left)
        if rare[row]
    ]
    table = recorded(trained, DATA.train, rare)
    names = ["epoch", "train_index", "label", "wrong_probability", "weight"]
    assert list(table[names].itertuples(index=False, name=None)) == expected
    assert (table["weight"] < 1).any()
    assert [str(table[field.name].dtype) for field in SCHEMAS["training_samples"]][3:] == ["int64"] * 2 + [
        "float64"
    ] * 3


def test_a_group_by_hand() -> None:
    values = {"clean_loss": [[1.0, 2.0, 4.0], [8.0, 8.0, 2.0]], "clean_correct": [[True, False, True], [False] * 3]}
    rows = [
        packed({f"test_{name}": np.array(values[name][epoch]) for name in values})
        | packed({f"test_{name.replace('clean', 'pgd')}": np.array(values[name][1 - epoch]) for name in values})
        for epoch in (0, 1)
    ]
    table = history_table(pd.DataFrame(rows), {"test": np.array([False, True, True])}, "")
    assert table["test_all_clean_loss"].tolist() == [7 / 3, 6]
    assert table["test_typical_clean_loss"].tolist() == [1, 8]
    assert table["test_atypical_pgd_loss"].tolist() == [5, 3]
    assert table["test_atypical_clean_accuracy"].tolist() == [0.5, 0]
    assert table["test_typical_pgd_accuracy"].tolist() == [0, 1]


def test_samples_by_hand() -> None:
    rows = [
        packed({"wrong_probability": np.array(wrong, np.float32), "weight": np.array(weight, np.float32)})
        for wrong, weight in (([0.5, np.nan, 0], [0.25, np.nan, 1]), ([0, np.nan, 0.75], [1, np.nan, 0.5]))
    ]
    records = pd.DataFrame(rows).assign(method="m", seed=3, epoch=[1, 2])
    scores = pd.DataFrame({"train_index": [7, 8, 9], "label": [0, 1, 2], "memorization": [0.9, 0.8, 0.7]})
    everything = samples_table(records, scores.assign(atypical=True), "")
    names = ["train_index", "label", "memorization", "method", "seed", "epoch", "wrong_probability", "weight"]
    assert list(everything) == names
    assert everything["train_index"].tolist() == [7, 9, 7, 9]  # 8 was left out
    assert everything["weight"].tolist() == [0.25, 1, 1, 0.5]
    one = samples_table(records, scores.assign(atypical=[False, True, True]), "")
    assert one[["epoch", "memorization", "wrong_probability"]].to_numpy().tolist() == [[1, 0.7, 0], [2, 0.7, 0.75]]


def test_groups_need_no_torch() -> None:
    code = "import sys; import bat.training.groups; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
