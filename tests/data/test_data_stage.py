"""Stage data without a command line: what it reads from where, what it writes, and what it says."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from stubs import Lines

import bat.data.stage
from bat.config import ImageFolder, Npz, Packaged, Published
from bat.config.specs import DataSpec, DownloadSpec
from bat.data import arrays, downloading, folders, packaged, published, tiny_imagenet
from bat.data.dataset import split
from bat.data.saved import read_data
from bat.data.sources import Samples, Source, open_source
from bat.data.stage import data, download, file_table
from bat.io.tables import read_table_with_facts
from bat.io.tensors import read_tensors

PARTS: dict[str, Any] = {"train_samples": "all", "validation_samples": 2, "split_seed": 0}
NPZ = Npz(name="npz", path="x.npz", **PARTS)
FOLDER = ImageFolder(name="image_folder", path="x", size=None, colour="rgb", **PARTS)
DIGITS = Packaged(name="digits", **PARTS | {"train_samples": 5})
MNIST, TINY = (Published(name=name, cache="c", **PARTS) for name in ("mnist", "tiny_imagenet"))  # type: ignore[arg-type]


def samples(n: int, first: int, files: bool) -> Samples:
    pixels = torch.arange(first, first + n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2)
    names = tuple(f"{first + number}.png" for number in range(n)) if files else None
    return Samples(torch.arange(n) % 2, lambda rows: pixels[rows], names)


def source(*, test: bool = True, files: bool = True) -> Source:
    return Source(
        samples(10, 0, files), samples(6, 50, files) if test else None, ("ant", "bee"), 255, notes=("one", "two")
    )


@pytest.mark.parametrize(
    ("plan", "module", "opener", "threaded"),
    [
        (DIGITS, packaged, "open_packaged", False),
        (FOLDER, folders, "open_folder", True),
        (NPZ, arrays, "open_arrays", False),
        (TINY, tiny_imagenet, "open_tiny_imagenet", True),
        (MNIST, published, "open_published", False),
    ],
)
def test_each_family_is_opened_by_its_module(
    plan: Any, module: Any, opener: str, threaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, opener, lambda *given, **options: asked.append((given, options)) or "a source")
    assert open_source(plan) == "a source"
    assert open_source(plan, threads=3) == "a source"
    assert asked == [((plan,), {"threads": threads} if threaded else {}) for threads in (1, 3)]


def test_the_table_has_the_class_and_the_file_of_each_sample() -> None:
    there = source()
    found = split(there, NPZ, subsample=1.0)
    table = file_table(found, there)
    assert table.columns.tolist() == ["split", "index", "label", "class_name", "file"]
    assert table["split"].tolist() == ["train"] * 8 + ["validation"] * 2 + ["test"] * 6
    assert table["index"].tolist() == torch.cat([part.index for part in found.parts().values()]).tolist()
    assert table["label"].tolist() == [index % 2 for index in table["index"]]
    assert table["class_name"].tolist() == [("ant", "bee")[label] for label in table["label"]]
    first = np.where(table["split"] == "test", 50, 0)
    assert table["file"].tolist() == [f"{place}.png" for place in first + table["index"]]
    assert table.index.tolist() == list(range(16))


def test_without_files_of_its_own_a_sample_has_none() -> None:
    there = source(files=False)
    table = file_table(split(there, NPZ, subsample=1.0), there)
    assert len(table) == 16
    assert table["file"].isna().all()


def test_test_samples_of_a_pool_have_its_files() -> None:
    there = source(test=False)
    table = file_table(split(there, DIGITS, subsample=1.0), there)
    assert table["file"].tolist() == [f"{index}.png" for index in table["index"]]
    assert sorted(table["index"]) == list(range(10))


@pytest.mark.parametrize(("plan", "test", "sizes"), [(NPZ, True, (10, 6)), (DIGITS, False, (10, 10))])
def test_the_stage_writes_the_data_set_and_the_table(
    plan: Any, test: bool, sizes: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, journal, asked = source(test=test), Lines(), []
    monkeypatch.setattr(
        bat.data.stage, "open_source", lambda *given, **options: asked.append((given, options)) or there
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    spec = DataSpec(data=plan, subsample=0.5)
    paths = {"data": tmp_path / "d.safetensors", "files": tmp_path / "f.parquet"}
    data(journal, spec=spec, **paths)  # type: ignore[arg-type]
    assert asked == [((plan,), {"threads": 3})]
    expected = split(there, plan, subsample=0.5)
    found = read_data(paths["data"])
    assert found.digest() == expected.digest()
    assert found.class_names == ("ant", "bee")
    counts = [len(part) for part in expected.parts().values()]
    train, validation, left = counts
    assert journal.lines == [
        "one",
        "two",
        f"{train} train, {validation} validation, {left} test samples of 2 classes",
    ]
    _, facts = read_tensors(paths["data"], "data")
    assert facts["spec"] == json.loads(json.dumps(asdict(spec)))
    assert facts["digest"] == expected.digest()
    assert facts["source"] == {"train": sizes[0], "test": sizes[1], "own_test": test}
    assert facts["source_labels"] == [0, 1]
    table, about = read_table_with_facts(paths["files"], "files")
    pd.testing.assert_frame_equal(table, file_table(expected, there), check_dtype=False)
    assert about["spec"] == facts["spec"]
    assert about["data"] == expected.digest()


def test_a_download_leaves_a_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[DownloadSpec] = []
    monkeypatch.setattr(downloading, "fetch", fetched.append)
    spec, journal = DownloadSpec(name="svhn", cache="somewhere"), Lines()
    download(journal, spec=spec, receipt=tmp_path / "r.json")  # type: ignore[arg-type]
    assert fetched == [spec]
    assert journal.lines == ["a whole copy of svhn is in somewhere"]
    text = (tmp_path / "r.json").read_text()
    assert text.endswith("}\n")
    assert {key: json.loads(text)[key] for key in ("kind", "name")} == {"kind": "download", "name": "svhn"}


def test_the_stage_keeps_which_labels_of_the_source_chosen_classes_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bat.data.stage, "open_source", lambda *given, **options: source())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    paths: dict[str, Any] = {"data": tmp_path / "d.safetensors", "files": tmp_path / "f.parquet"}
    plan = replace(NPZ, classes=("bee", "ant"))
    data(Lines(), spec=DataSpec(data=plan, subsample=1.0), **paths)
    assert read_data(paths["data"]).class_names == ("bee", "ant")
    assert read_tensors(paths["data"], "data")[1]["source_labels"] == [1, 0]
