"""What ``bat verify`` sees: each file that is not of the evaluation, each changed value, at both checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from stages import EVALUATE, MODEL, NATURAL, RECIPE, THREAT, TRAIN, call, digits, evaluation, fails, rewrite
from torch import Tensor

from bat.data.saved import read_data
from bat.io.files import provenance
from bat.io.tensors import read_tensors, write_tensors

torch.set_num_threads(1)

FILES = {name: f"{name}.safetensors" for name in ("best", "last", "images", "data")} | {"attacked": "attacked.parquet"}
CHECKPOINTS = ("best", "last")
EPS = {"linf": 0.05, "l2": 0.3}
SPECS = {
    norm: EVALUATE | {"threat": THREAT | {"norm": norm, "eps": eps}, "pgd": EVALUATE["pgd"] | {"restarts": 1}}
    for norm, eps in EPS.items()
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    call("data", folder, **digits() | {"data": "data.safetensors"})
    call("data", folder, **digits(split_seed=1) | {"data": "other_data.safetensors"})
    for seed, prefix in ((3, ""), (4, "other_")):
        spec = TRAIN | {"method": NATURAL, "seed": seed, "recipe": RECIPE}
        outputs = {name: f"{prefix}{name}.safetensors" for name in CHECKPOINTS}
        call("train", folder, spec=spec, data="data.safetensors", **outputs, records=f"{prefix}records.parquet")
    # the best epoch may be the last
    weights, facts = read_tensors(folder / "best.safetensors", "model")
    weights["head.bias"] = weights["head.bias"] + 0.1 * torch.arange(10)
    write_tensors(folder / "best.safetensors", weights, provenance("model", **without_kind(facts)))
    for norm, spec in SPECS.items():
        (folder / norm).mkdir()
        outputs = {"attacked": f"{norm}/attacked.parquet", "images": f"{norm}/images.safetensors"}
        call("evaluate", folder, **evaluation(spec=spec, flags=f"{norm}/flags.parquet", **outputs))
    return folder


@pytest.fixture(params=EPS)
def folder(made: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder with the files of one norm."""
    copy = shutil.copytree(made, tmp_path / "copy")
    for path in (copy / request.param).iterdir():
        path.rename(copy / path.name)
    return copy


def without_kind(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("kind", "version")}


def norm_of(folder: Path) -> str:
    return str(read_tensors(folder / "images.safetensors", "images")[1]["spec"]["threat"]["norm"])


def change_images(folder: Path, change: Callable[[dict[str, Tensor]], Any], **facts: Any) -> None:
    images, about = read_tensors(folder / "images.safetensors", "images")
    change(images)
    write_tensors(folder / "images.safetensors", images, provenance("images", **without_kind(about) | facts))


def table_of(folder: Path, checkpoint: str) -> pd.DataFrame:
    table = pd.read_parquet(folder / "attacked.parquet")
    return table[table["checkpoint"] == checkpoint].reset_index(drop=True)


def test_results_that_are_right_are_borne_out(folder: Path) -> None:
    call("verify", folder, **FILES, log="log")
    for checkpoint in CHECKPOINTS:
        table = table_of(folder, checkpoint)
        broken = int(table["clean_correct"].sum() - table["robust_correct"].sum())
        assert 0 < broken < table["clean_correct"].sum() < len(table) == 1617
        expected = f"checkpoint {checkpoint}: 1617 samples agree, {broken} of them shown broken by their image"
        assert expected in (folder / "log").read_text()
    assert not table_of(folder, "best")["margin"].equals(table_of(folder, "last")["margin"])


# -- files that are not of the evaluation


def test_another_data_set_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "verify", folder, **FILES | {"data": "other_data.safetensors"})
    assert "attacked.parquet: made from other data than" in line
    assert "other_data.safetensors: give the data set that it was made from" in line


def test_images_of_another_evaluation_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = SPECS[norm_of(folder)] | {"seed": 1}
    call("evaluate", folder, **evaluation(spec=spec, attacked="x.parquet", flags="y.parquet", images="x.safetensors"))
    assert "are not of one evaluation" in fails(capsys, "verify", folder, **FILES | {"images": "x.safetensors"})
    assert "are not of one evaluation" in fails(capsys, "verify", folder, **FILES | {"attacked": "x.parquet"})
    call("verify", folder, **FILES | {"images": "x.safetensors", "attacked": "x.parquet"})


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_weights_of_another_run_are_refused(checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = f"other_{checkpoint}.safetensors"
    line = fails(capsys, "verify", folder, **FILES | {checkpoint: other})
    assert f"{other}: of another training than" in line
    assert "attacked.parquet: give the weights that were evaluated" in line


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_weights_of_other_data_or_of_another_network_are_refused(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / f"{checkpoint}.safetensors"
    whole, (weights, facts) = path.read_bytes(), read_tensors(path, "model")
    for changed, expected in (
        ({"data": "another"}, "trained on other data than"),
        ({"spec": facts["spec"] | {"model": MODEL | {"width": 17}}}, "not the weights of mlp"),
    ):
        write_tensors(path, weights, provenance("model", **without_kind(facts) | changed))
        line = fails(capsys, "verify", folder, **FILES)
        assert expected in line
        assert f"{checkpoint}.safetensors" in line
        path.write_bytes(whole)


def test_weights_of_the_same_training_that_were_not_evaluated_are_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, "verify", folder, **FILES | {"best": "last.safetensors"})
    assert "attacked.parquet, checkpoint best: predicted of " in line
    line = fails(capsys, "verify", folder, **FILES | {"last": "best.safetensors"})
    assert "attacked.parquet, checkpoint last: predicted of " in line
    assert line.endswith("model, images and table are not of one run")


# -- images


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda images, checkpoint: images.pop(checkpoint),
        lambda images, checkpoint: images.update({checkpoint: images[checkpoint][:-1]}),
        lambda images, checkpoint: images.update({checkpoint: images[checkpoint].flatten(2)}),
    ],
    ids=["none", "too few", "of another shape"],
)
def test_images_that_are_not_those_of_a_checkpoint_are_refused(
    change: Any, checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_images(folder, lambda images: change(images, checkpoint))
    line = fails(capsys, "verify", folder, **FILES)
    assert f"images.safetensors: not the 1617 images of checkpoint {checkpoint}: evaluate again" in line


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_table_without_some_samples_is_refused(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(folder / "attacked.parquet")
    last = table.index[table["checkpoint"] == checkpoint][-1]
    rewrite(folder / "attacked.parquet", "attacked", table.drop(index=last))
    assert f"not the 1617 images of checkpoint {checkpoint}" in fails(capsys, "verify", folder, **FILES)


def moved(folder: Path, checkpoint: str, row: int, pixel: int, to: float) -> None:
    """Store the clean image of a sample with one pixel changed."""
    image = read_data(folder / "data.safetensors").test.images()[row]
    image.view(-1)[pixel] = to
    change_images(folder, lambda images: images[checkpoint][row].copy_(image))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("row", [0, 499, 500, 1616])  # the first and the last of a batch
def test_an_image_outside_the_ball_is_found(
    row: int, checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = norm_of(folder)
    moved(folder, checkpoint, row, pixel=0, to=EPS[norm] + 1e-4)
    line = fails(capsys, "verify", folder, **FILES)
    assert f"images.safetensors, checkpoint {checkpoint}: an attack left the {norm} ball of {EPS[norm]} by " in line


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_an_image_at_the_edge_of_the_ball_is_allowed(checkpoint: str, folder: Path) -> None:
    table = table_of(folder, checkpoint)
    # where the clean image is wrong already, no image has anything to show
    row = int(table.index[~table["clean_correct"]][0])
    moved(folder, checkpoint, row, pixel=0, to=EPS[norm_of(folder)])
    call("verify", folder, **FILES)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize(("edge", "by"), [(0, -0.01), (1, 0.01)])
def test_a_pixel_outside_the_unit_interval_is_found(
    edge: int, by: float, checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = read_data(folder / "data.safetensors").test.images()[5]
    moved(folder, checkpoint, 5, pixel=int((image == edge).flatten().nonzero()[0]), to=edge + by)
    assert f"checkpoint {checkpoint}: an attack left [0, 1]" in fails(capsys, "verify", folder, **FILES)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_an_image_with_a_nan_is_found(checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_images(folder, lambda images: images[checkpoint][3].view(-1)[2:3].fill_(torch.nan))
    assert f"checkpoint {checkpoint}: an attack left the" in fails(capsys, "verify", folder, **FILES)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_an_image_that_breaks_nothing_is_found(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, clean = table_of(folder, checkpoint), read_data(folder / "data.safetensors").test.images()
    row = int(table.index[table["broken_by"].notna()][3])
    change_images(folder, lambda images: images[checkpoint][row].copy_(clean[row]))
    line = fails(capsys, "verify", folder, **FILES)
    assert f"attacked.parquet, checkpoint {checkpoint}: robust_correct of 1 samples differs" in line
    assert f"first of sample {table.loc[row, 'test_index']}:" in line


def test_images_of_the_other_checkpoint_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_images(folder, lambda images: images.update(best=images["last"], last=images["best"]))
    assert "checkpoint best: robust_correct of " in fails(capsys, "verify", folder, **FILES)


# -- columns of the table


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("column", ["predicted", "clean_correct", "robust_correct"])
def test_a_changed_result_is_found(
    column: str, checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(folder / "attacked.parquet")
    rows = table.index[table["checkpoint"] == checkpoint][[4, 900]]
    value = table.loc[rows, column]
    table.loc[rows, column] = (value + 1) % 10 if column == "predicted" else ~value
    rewrite(folder / "attacked.parquet", "attacked", table)
    line = fails(capsys, "verify", folder, **FILES)
    assert f"attacked.parquet, checkpoint {checkpoint}: {column} of 2 samples differs from what model" in line
    assert f"first of sample {table.loc[rows[0], 'test_index']}:" in line


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("column", ["test_index", "label"])
def test_a_changed_sample_is_found(
    column: str, checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(folder / "attacked.parquet")
    row = table.index[table["checkpoint"] == checkpoint][4]
    table.loc[row, column] = (table.loc[row, column] + 1) % 10
    rewrite(folder / "attacked.parquet", "attacked", table)
    line = fails(capsys, "verify", folder, **FILES)
    assert "attacked.parquet: row 4 is sample" in line
    assert line.endswith("it is of other data")
