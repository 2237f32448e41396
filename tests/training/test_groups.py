"""Stage groups without a command line: which tables it reads for which run, and what it writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from refusals import refusal
from stubs import Lines, written

from bat.io.tables import read_table, read_table_with_facts
from bat.training.groups import groups
from bat.training.records import history_table, packed, samples_table

ATYPICAL = {
    "train": [True, False, False, True, True],
    "validation": [False, True, False],
    "test": [True, True, False, False],
}
SCORED = {"spec": {"threshold": 0.25}, "data": "d"}


def records(path: Path, seed: int, data: str = "d") -> Path:
    """Write the records of two epochs with values of a seed's own."""
    random = np.random.default_rng(seed)
    rows = [
        packed(
            {
                f"{split}_{attack}_{metric}": random.random(len(marks))
                if metric == "loss"
                else random.random(len(marks)) < 0.5
                for split, marks in ATYPICAL.items()
                for attack in ("clean", "pgd")
                for metric in ("loss", "correct")
            }
            | {name: random.random(5, dtype=np.float32) for name in ("wrong_probability", "weight")}
        )
        for _ in range(2)
    ]
    columns: Any = pd.DataFrame(rows).to_dict("list")
    facts = {"spec": {"seed": seed}, "data": data, "epochs": 2}
    return written(path, "records", facts, method=["m", "m"], seed=[seed, seed], epoch=[1, 2], **columns)


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {"train_index": [9, 8, 7, 6, 5], "memorization": [0.9, 0.0, 0.1, 0.8, 0.7]}
    memorization = written(tmp_path / "memorization", "memorization", SCORED, atypical=ATYPICAL["train"], **columns)
    return {
        "memorization": memorization,
        "validation_groups": written(tmp_path / "v", "validation_groups", SCORED, atypical=ATYPICAL["validation"]),
        "test_groups": written(tmp_path / "t", "test_groups", SCORED, atypical=ATYPICAL["test"]),
        "records": [records(tmp_path / f"r{seed}", seed) for seed in (3, 4)],
        "histories": [tmp_path / "h3", tmp_path / "h4"],
        "samples": [tmp_path / "s3", tmp_path / "s4"],
    }


def test_each_run_has_its_history_and_its_record_of_atypical_samples(given: dict[str, Any]) -> None:
    journal = Lines()
    groups(journal, **given)  # type: ignore[arg-type]
    scores = read_table(given["memorization"], "memorization")
    atypical = {split: np.array(marks) for split, marks in ATYPICAL.items()}
    for place, seed in enumerate((3, 4)):
        table = read_table(given["records"][place], "records")
        history, facts = read_table_with_facts(given["histories"][place], "history")
        expected = history_table(table, atypical, "")
        pd.testing.assert_frame_equal(history, expected[history.columns], check_dtype=False)
        assert (facts["spec"], facts["data"], "epochs" in facts) == ({"seed": seed}, "d", False)
        samples, about = read_table_with_facts(given["samples"][place], "training_samples")
        pd.testing.assert_frame_equal(samples, samples_table(table, scores, "")[samples.columns], check_dtype=False)
        assert samples["train_index"].tolist() == [9, 6, 5] * 2
        assert (about["spec"], about["data"], "epochs" in about) == ({"seed": seed}, "d", False)
    assert journal.bars == [(2, "runs")]
    assert journal.worked == 1


def test_samples_have_the_memorization_that_the_config_chose(given: dict[str, Any]) -> None:
    soft: dict[str, list[Any]] = {"soft_memorization": [0.5, 0.4, 0.3, 0.2, 0.1], "atypical": ATYPICAL["train"]}
    for kind in ("memorization", "validation_groups", "test_groups"):
        facts = SCORED | {"spec": {"score": "soft"}}
        written(given[kind], kind, facts, **soft if kind == "memorization" else {"atypical": ATYPICAL[kind[:-7]]})
    journal: Any = Lines()
    groups(journal, **given)
    assert read_table(given["samples"][0], "training_samples")["memorization"].tolist() == [0.5, 0.2, 0.1] * 2


@pytest.mark.parametrize("name", ["records", "histories", "samples"])
def test_one_file_of_each_is_wanted_for_a_run(name: str, given: dict[str, Any]) -> None:
    given[name] = given[name][:1]
    counts = [len(given[each]) for each in ("records", "histories", "samples")]
    assert refusal(lambda: groups(Lines(), **given)) == (  # type: ignore[arg-type]
        "--records names {} files, --histories {}, --samples {}: give one of each a run".format(*counts)
    )


@pytest.mark.parametrize("name", ["validation_groups", "test_groups"])
def test_tables_of_two_runs_or_of_other_data_are_refused(name: str, given: dict[str, Any], tmp_path: Path) -> None:
    marks: Any = {"atypical": [True] * 4}
    for facts, ending in (
        (SCORED | {"spec": {"threshold": 0.5}}, "are not of one run of their stage: run it again"),
        (SCORED | {"data": "e"}, "are of different data: remove the one that is out of date, and run its stage again"),
    ):
        changed = given | {name: written(tmp_path / "other", name, facts, **marks)}
        assert refusal(lambda changed=changed: groups(Lines(), **changed)) == (  # type: ignore[misc]
            f"{given['memorization']} and {tmp_path / 'other'} {ending}"
        )
    assert not given["histories"][0].exists()


def test_records_of_other_data_or_of_other_samples_are_refused(given: dict[str, Any], tmp_path: Path) -> None:
    changed = given | {"records": [given["records"][0], records(tmp_path / "other", 4, data="e")]}
    assert refusal(lambda: groups(Lines(), **changed)).startswith(  # type: ignore[arg-type]
        f"{given['memorization']} and {tmp_path / 'other'} are of different data"
    )
    fewer = [True] * 9
    changed = given | {"test_groups": written(tmp_path / "few", "test_groups", SCORED, atypical=fewer)}
    assert refusal(lambda: groups(Lines(), **changed)) == (  # type: ignore[arg-type]
        f"{given['records'][0]}: test_clean_loss does not hold 9 samples: it is of other data; remove it"
    )
    more = written(tmp_path / "more", "memorization", SCORED, atypical=[True] * 9)
    message = refusal(lambda: groups(Lines(), **given | {"memorization": more}))  # type: ignore[arg-type]
    assert message.startswith(f"{given['records'][0]}: train_clean_loss does not hold 9 samples")


def test_a_record_of_other_samples_names_its_file(given: dict[str, Any]) -> None:
    table, facts = read_table_with_facts(given["records"][1], "records")
    columns: Any = table.assign(weight=b"1234").to_dict("list")
    written(given["records"][1], "records", {"spec": facts["spec"], "data": "d"}, **columns)
    assert refusal(lambda: groups(Lines(), **given)) == (  # type: ignore[arg-type]
        f"{given['records'][1]}: weight does not hold 5 samples: it is of other data; remove it"
    )
