"""What each figure of an experiment is given: which rows of which tables, and what is said of them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stubs
import torch
from methods import BAT, NATURAL, PGD_AT, but
from refusals import refusal

from bat.config import load
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tensors import write_tensors
from bat.report import given as reading
from bat.report.catalogue import FIGURES, drawing, figures_of
from bat.report.given import Given, image_of, nearest, threat_text

THREAT = {"norm": "l2", "eps": 0.5}
NAMES = tuple(f"m{number}" for number in range(10))
DATA = DataSet(
    *(
        Part(
            torch.arange(16 * 3).view(3, 1, 4, 4).to(torch.uint8),
            torch.tensor([0, 1, 0]),
            torch.tensor([7, 4, 9]),
            pixel_max=255,
        )
        for _ in range(3)
    ),
    classes=2,
    class_names=("ant", "bee"),
)
FACTS: dict[str, dict[str, Any]] = {
    "memorization": {"spec": {"threshold": 0.25}, "models": 40},
    "history": {"spec": {"attack": {"steps": 7}, "threat": {"norm": "linf", "eps": 0.03125}}},
    "per_sample": {"spec": {"threat": THREAT}},
    "summary": {"tier": "fast", "evaluation": {"threat": THREAT}, "spec": {"confidence": 0.9}, "failed": {"m3": "why"}},
}
FACTS |= dict.fromkeys(("train_influence", "test_groups"), FACTS["memorization"])
FACTS |= dict.fromkeys(("comparisons", "runs"), FACTS["summary"])


def written(folder: Path, kind: str, name: str = "", data: str = "", **columns: list[Any]) -> Path:
    """Write a table of a kind, of this data set unless another is named."""
    facts = FACTS.get(kind, {}) | {"data": data or DATA.digest()}
    return stubs.written(folder / f"{name or kind}.parquet", kind, facts, **columns)


@pytest.fixture
def files(made: dict[str, Any]) -> dict[str, Any]:
    return dict(made)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tables of ten methods, of which the first weighs samples, and of other runs."""
    tmp_path = tmp_path_factory.mktemp("files")
    roles = ["method"] * 10 + ["variant", "control", "removal"]
    methods = [*NAMES, "m0_2", "m0_c", "m0_out"]
    runs = {"method": methods, "base": [*NAMES, "m0", "m0", "m0"], "role": roles}
    runs |= {"weighted": [True] * 12 + [True], "removed": [None] * 12 + ["atypical"]}
    runs["weighted"][1] = False
    write_data(tmp_path / "data.safetensors", DATA, provenance("data"))
    of_methods = {
        "summary": {"method": methods, "checkpoint": ["last"] * 13},
        "training_samples": {"method": methods},
        "per_sample": {
            "method": [*methods, "m0"],
            "checkpoint": ["last"] * 13 + ["best"],
            "tier": ["fast"] * 14,
        },
        "comparisons": {"method": methods},
    }
    tables: dict[str, Any] = {kind: written(tmp_path, kind, **columns) for kind, columns in of_methods.items()}
    tables["runs"] = written(tmp_path, "runs", **runs)
    tables["history"] = [
        written(tmp_path, "history", "h0", method=["m0", "m0"], epoch=[1, 2]),
        written(tmp_path, "history", "h1", method=["m9", "m1"], epoch=[1, 1]),
    ]
    tables["memorization"] = written(tmp_path, "memorization", train_index=[7, 4, 9])
    tables["train_influence"] = written(tmp_path, "train_influence", train_index=[4])
    tables["test_groups"] = written(tmp_path, "test_groups", atypical=[True, False, True, True, False, True])
    tables["harmful"] = written(tmp_path, "harmful", train_index=[9, 7])
    tables["robust_effects"] = written(tmp_path, "robust_effects", train_index=[7])
    return tables | {"data": tmp_path / "data.safetensors"}


def drawn(
    name: str, files: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, function: str = ""
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw a figure by its name; return what its function is given."""
    module = import_module(f"bat.report.figures.{FIGURES[name].module}")
    monkeypatch.setattr(module, function or name, lambda *given, **said: (given, said))
    found: Any = drawing(name)(Given(files))
    return found


SAID = {"tier": "fast", "threat": "L2 0.5", "failed": ["m3"]}


CONFIG = load(*(str(Path(__file__).parents[2] / f"config/{name}.yaml") for name in ("config", "smoke")))
ALWAYS = [
    "differences",
    "tradeoff",
    "typical_atypical",
    "memorization",
    "gallery",
    "curves",
    "overfitting",
    "influence",
]


@pytest.mark.parametrize(
    ("methods", "removal", "images", "more"),
    [
        ([NATURAL, PGD_AT], None, False, []),
        ([PGD_AT, BAT], None, False, ["weights"]),
        ([PGD_AT, but(BAT, score="shuffled")], None, False, ["weights", "controls"]),
        ([NATURAL, PGD_AT], "pgd_at", False, ["finding_a", "finding_b", "harmful", "controls"]),
        ([NATURAL, PGD_AT], None, True, ["adversarial"]),
    ],
)
def test_the_figures_of_an_experiment_are_those_of_what_it_does(
    methods: Any, removal: str | None, images: bool, more: list[str]
) -> None:
    config = replace(
        CONFIG,
        training=replace(CONFIG.training, methods=tuple(methods)),
        removal=replace(CONFIG.removal, method=removal),
        evaluation=replace(CONFIG.evaluation, images=images),
    )
    assert figures_of(config) == tuple(name for name in FIGURES if name in ALWAYS + more)
    assert all(callable(drawing(name)) for name in ALWAYS + more)


@pytest.mark.parametrize("name", ["memorization", "gallery"])
def test_figures_of_memorization_are_of_the_score_that_the_config_chose(
    name: str, files: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values: Any = {"soft_memorization": [0.5, 0.25, 0.75], "soft_ci_low": [0.1, 0.2, 0.3], "memorization": [0.0] * 3}
    about = {"spec": {"score": "soft", "threshold": 0.25}, "models": 40, "data": DATA.digest()}
    for kind, columns in (
        ("memorization", {"train_index": [7, 4, 9]} | values),
        ("train_influence", {"train_index": [4]}),
        ("test_groups", {"atypical": [True] * 6}),
    ):
        files |= {kind: stubs.written(tmp_path / kind, kind, about, **columns)}
    given, _ = drawn(name, files, monkeypatch)
    table = next(each for each in given if isinstance(each, pd.DataFrame))
    assert table["memorization"].tolist() == [0.5, 0.25, 0.75]
    assert table["ci_low"].tolist() == [0.1, 0.2, 0.3]


def test_memorization(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (table,), said = drawn("memorization", files, monkeypatch)
    assert table["train_index"].tolist() == [7, 4, 9]
    assert said == {"threshold": 0.25, "models": 40}


def test_gallery(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (image, table, pairs), said = drawn("gallery", files, monkeypatch)
    near = said.pop("nearest")
    assert (near(0, 4), near(0, 0)) == ([2], [])  # the other sample of its class
    assert said == {"class_names": ("ant", "bee"), "models": 40}
    assert (len(table), pairs["train_index"].tolist()) == (3, [4])
    for row in range(3):
        np.testing.assert_array_equal(image(row), DATA.train.images()[row])


@pytest.mark.parametrize(
    ("norm", "eps", "text"),
    [
        ("linf", 8 / 255, "L-inf 8/255"),
        ("linf", 0.5 / 255, "L-inf 0.00196078"),
        ("linf", 51 / 255, "L-inf 0.2"),
        ("linf", 0.0314, "L-inf 0.0314"),
        ("linf", 1.0, "L-inf 1"),
        ("l2", 128 / 255, "L2 128/255"),
        ("l2", 1 / 3, "L2 85/255"),
        ("l2", 0.123456789, "L2 0.123457"),
        ("l2", 1e-6, "L2 1e-06"),
    ],
)
def test_a_threat_is_named_as_it_is_written(norm: str, eps: float, text: str) -> None:
    assert threat_text({"norm": norm, "eps": eps}) == text


def test_curves_are_of_the_first_eight_methods(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (histories, runs), said = drawn("curves", files, monkeypatch)
    assert histories[["method", "epoch"]].to_numpy().tolist() == [["m0", 1], ["m0", 2], ["m1", 1]]
    assert len(runs) == 13
    assert said == {"atypical": 4, "typical": 2, "attack": "PGD-7", "threat": "L-inf 0.03125"}


def test_weights_are_of_eight_methods_that_weigh_all_samples(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (samples, runs), said = drawn("weights", files, monkeypatch)
    assert samples["method"].tolist() == ["m0", *NAMES[2:9]]
    assert samples.index.tolist() == list(range(8))
    assert list(samples) == SCHEMAS["training_samples"].names
    assert (len(runs), said) == (13, {})


@pytest.mark.parametrize("name", ["tradeoff", "typical_atypical", "overfitting"])
def test_figures_of_the_summary(name: str, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (summary, runs), said = drawn(name, files, monkeypatch)
    assert (len(summary), runs["role"].tolist()) == (13, ["method"] * 10 + ["variant", "control", "removal"])
    assert said == SAID | {"confidence": 0.9}


@pytest.mark.parametrize("name", ["differences", "controls"])
def test_figures_of_the_comparisons(name: str, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (comparisons, runs), said = drawn(name, files, monkeypatch)
    assert (len(comparisons), len(runs)) == (13, 13)
    assert said == {"threat": "L2 0.5", "confidence": 0.9}


def test_adversarial_images_are_of_the_last_epoch_and_of_one_seed(
    files: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = {"method": ["m0", "m0", "m0", "m1", "m2"], "seed": [5, 5, 6, 5, 5]}
    checkpoints = ["last", "best", "last", "last", "last"]
    files["per_sample"] = written(tmp_path, "per_sample", "shown", checkpoint=checkpoints, **samples)
    files["images"] = []
    for number in (0, 1):
        about = {"data": DATA.digest(), "training": {"method": {"name": f"m{number}"}, "seed": 5}}
        tensors = {name: torch.full((3, 1, 4, 4), value + number) for name, value in (("best", 0.25), ("last", 0.5))}
        tensors["last"][1] += 3
        files["images"].append(tmp_path / f"images-{number}.safetensors")
        write_tensors(files["images"][-1], tensors, provenance("images", **about))
    (clean, attacked, shown), said = drawn("adversarial", files, monkeypatch)
    assert shown[["method", "seed", "checkpoint"]].to_numpy().tolist() == [["m0", 5, "last"], ["m1", 5, "last"]]
    assert said == {"class_names": ("ant", "bee"), "threat": "L2 0.5", "seed": 5}
    for row, index in enumerate((7, 4, 9)):
        np.testing.assert_array_equal(clean(index), DATA.test.images()[row])
        for number in (0, 1):
            assert (attacked[f"m{number}"](index) == 0.5 + number + 3 * (row == 1)).all()
    about["data"] = "other"
    write_tensors(files["images"][1], tensors, provenance("images", **about))
    assert refusal(drawing("adversarial"), Given(files)) == (
        f"{files['images'][1]}: of other data than {files['data']}: run its stage again"
    )


def test_the_nearest_are_those_of_the_class_with_the_least_distance_of_pixels() -> None:
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (12, 3, 2, 2), dtype=np.uint8))
    labels = torch.arange(12) % 2
    part = Part(pixels, labels, torch.arange(12) + 50, pixel_max=255)
    for row in range(12):
        distances = {
            other: ((pixels[other].double() - pixels[row].double()) ** 2).sum().item()
            for other in range(12)
            if other != row and labels[other] == labels[row]
        }
        assert nearest(part, row, 3) == sorted(distances, key=lambda other: distances[other])[:3]


def test_of_equally_near_samples_the_first_come_first() -> None:
    pixels = torch.zeros(101, 1, 1, 1, dtype=torch.uint8)
    pixels[1::2] = 9
    part = Part(pixels, torch.zeros(101, dtype=torch.int64), torch.arange(101), 255)
    assert nearest(part, 0, 100) == [*range(2, 101, 2), *range(1, 101, 2)]


def test_images_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read, images = [], Part.images
    monkeypatch.setattr(Part, "images", lambda part, rows: read.append(len(images(part, rows))) or images(part, rows))
    for row in (0, 2):
        nearest(DATA.train, row, 2)
    for number, by_index in ((0, False), (7, True)):
        image_of(DATA.train, by_index=by_index)(number)
    assert read == [1] * 6


def test_influence_is_of_the_last_epoch(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (samples, runs), said = drawn("influence", files, monkeypatch)
    assert (len(runs), list(samples)) == (13, SCHEMAS["per_sample"].names)
    assert samples["method"].tolist() == list(NAMES[:8])
    assert samples["checkpoint"].unique().tolist() == ["last"]
    assert samples.index.tolist() == list(range(8))
    assert said == {"tier": "fast", "threat": "L2 0.5"}


def test_influence_numbers_its_rows_anew(files: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written(tmp_path, "per_sample", method=["other", "m0"], checkpoint=["last", "last"], tier=["fast"] * 2)
    (samples, _), _ = drawn("influence", files | {"per_sample": path}, monkeypatch)
    assert samples.index.tolist() == [0]


def test_finding_a(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (summary, histories, runs), said = drawn("finding_a", files, monkeypatch)
    assert (len(summary), len(histories), len(runs)) == (13, 4, 13)
    assert histories.index.tolist() == [0, 1, 2, 3]
    assert said == SAID | {"confidence": 0.9}


@pytest.mark.parametrize("effects", [True, False])
def test_finding_b_with_and_without_models_under_attack(
    effects: bool, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not effects:
        del files["robust_effects"]
    (comparisons, runs, found, harmful), said = drawn("finding_b", files, monkeypatch)
    assert (len(comparisons), len(runs)) == (13, 13)
    assert (found["train_index"].tolist() == [7]) if effects else found is None
    assert harmful["train_index"].tolist() == [9, 7]
    assert said == {"threat": "L2 0.5", "confidence": 0.9}


def test_harmful_samples_are_found_by_their_index(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (image, table), said = drawn("harmful", files, monkeypatch, "harmful_gallery")
    assert table["train_index"].tolist() == [9, 7]
    assert said == {"class_names": ("ant", "bee")}
    for row, index in enumerate((7, 4, 9)):
        np.testing.assert_array_equal(image(index), DATA.train.images()[row])


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        ("history", "--histories"),
        ("training_samples", "--samples"),
        ("test_groups", "--test-groups"),
        ("summary", "--summary"),
    ],
)
def test_a_table_that_is_not_given_is_asked_for_by_its_flag(kind: str, flag: str, files: Any) -> None:
    del files[kind]
    given = Given(files)
    assert given.get(kind) is None
    assert refusal(given.table, kind) == (
        f"{flag} is needed to draw this: give it too, or leave this figure out of --out"
    )


def test_without_a_data_set_it_is_asked_for(files: Any) -> None:
    del files["data"]
    assert refusal(Given(files).data) == (
        "--data is needed to draw this: give it too, or leave this figure out of --out"
    )


def test_each_file_is_read_once(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, read = Given(files), []
    monkeypatch.setattr(reading, "read_data", lambda path: read.append(path))
    one, of_table = given.data(), reading.read_table_with_facts
    monkeypatch.setattr(reading, "read_table_with_facts", lambda *what: read.append(what) or of_table(*what))
    assert given.data() is one
    assert given.table("summary") is given.table("summary")
    assert given.facts("summary")["tier"] == "fast"
    assert given.get("summary") is given.table("summary")
    assert read == [(files["summary"], "summary")]


def test_files_of_other_data_are_refused(files: Any, tmp_path: Path) -> None:
    path = written(tmp_path, "harmful", "other", data="other", train_index=[1])
    ending = "are of different data: remove the one that is out of date, and run its stage again"
    assert refusal(Given, files | {"harmful": path}) == f"{files['data']} and {path} {ending}"
    del files["data"]
    assert refusal(Given, files | {"harmful": path}) == f"{files['summary']} and {path} {ending}"


@pytest.mark.parametrize(("first", "kind"), [("memorization", "test_groups"), ("summary", "runs")])
def test_tables_of_two_runs_of_a_stage_are_refused(
    first: str, kind: str, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FACTS, kind, json.loads(json.dumps(FACTS[kind])) | {"more": 1})
    path = written(tmp_path, kind, "other", **{SCHEMAS[kind].names[0]: [None]})
    assert refusal(Given, files | {kind: path}) == (
        f"{files[first]} and {path} are not of one run of their stage: run it again"
    )
