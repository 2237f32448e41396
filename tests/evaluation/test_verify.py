"""What ``bat verify`` sees: each file that is not of the evaluation, each changed value, at both checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from refusals import refusal
from stages import EVALUATE, MODEL, NATURAL, RECIPE, THREAT, TRAIN, call, digits, evaluation, fails, rewrite
from stubs import Lines, written
from torch import Tensor, nn

import bat.evaluation.verify
from bat.config import parse
from bat.config.specs import EvaluateSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import read_data, write_data
from bat.evaluation.verify import verify
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


# -- around models that are made up


class Two(nn.Module):
    """The two pixels of an image are its logits; counts the images of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Linear(1, 1)
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not any((self.training, torch.is_grad_enabled(), self.odd.weight.requires_grad))
        self.asked.append(len(x))
        return x.flatten(1)


def of_pixels(*images: tuple[float, float]) -> Tensor:
    return torch.tensor(images).view(-1, 1, 1, 2)


# the third is wrong when clean; attacks break the first, and the last by a tie, which argmax decides against its label
CLEAN = of_pixels((0.6, 0.4), (0.8, 0.2), (0.2, 0.6), (0.2, 0.8), (0.4, 0.6))
BROKEN = of_pixels((0.4, 0.6), (0.8, 0.2), (0.2, 0.6), (0.2, 0.8), (0.5, 0.5))
LABELS = torch.tensor([0, 0, 0, 1, 1])
DATA = DataSet(
    *(
        Part((CLEAN * 255).round().byte(), LABELS.clone(), torch.arange(5) + first, pixel_max=255)
        for first in (0, 50, 100)
    ),
    classes=2,
)
TRAINING = {"seed": 3}
SPEC = EVALUATE | {"batch_size": 2, "threat": {"norm": "linf", "eps": 0.2}}
ABOUT = {"spec": SPEC, "training": TRAINING, "data": DATA.digest()}


class Stored:
    """The files of an evaluation of ``Two``, which are changed before they are looked at."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = {name: folder / name for name in FILES}
        write_data(self.paths["data"], DATA, provenance("data"))
        self.images = {name: BROKEN.clone() for name in CHECKPOINTS}
        self.table = {name: values * 2 for name, values in self._columns().items()}
        self.about = {"images": ABOUT, "attacked": ABOUT}
        self.models = {self.paths[name]: (Two().train(), {"spec": TRAINING}) for name in CHECKPOINTS}
        self.read: list[Any] = []
        monkeypatch.setattr(bat.evaluation.verify, "read_model", self._read_model)

    def _columns(self) -> dict[str, list[Any]]:
        clean = {"test_index": [*range(100, 105)], "label": LABELS.tolist(), "predicted": [0, 0, 1, 1, 1]}
        right = [True, True, False, True, True]
        robust = [False, True, False, True, False]
        return clean | {"clean_correct": right, "robust_correct": robust}

    def _read_model(self, path: Path, *given: Any) -> Any:
        self.read.append((path, *given))
        return self.models[path]

    def verified(self, rows: slice = slice(None)) -> Lines:
        checkpoints = [name for name in CHECKPOINTS for _ in range(5)]
        columns = {name: values[rows] for name, values in (self.table | {"checkpoint": checkpoints}).items()}
        written(self.paths["attacked"], "attacked", self.about["attacked"], **columns)
        write_tensors(self.paths["images"], self.images, provenance("images", **self.about["images"]))
        journal = Lines()
        verify(journal, **self.paths)  # type: ignore[arg-type]
        return journal


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    return Stored(tmp_path, monkeypatch)


def test_both_checkpoints_are_looked_at_batch_by_batch(stored: Stored) -> None:
    journal = stored.verified()
    assert journal.lines == [
        f"checkpoint {name}: 5 samples agree, 2 of them shown broken by their image" for name in CHECKPOINTS
    ]
    assert journal.worked == 2
    assert [(path, plan) for path, plan, *_ in stored.read] == [
        (stored.paths[name], parse(EvaluateSpec, SPEC, "").model) for name in CHECKPOINTS
    ]
    for _, _, dataset, (path, digest) in stored.read:
        assert (dataset.digest(), path, digest) == (DATA.digest(), stored.paths["data"], DATA.digest())
    for model, _ in stored.models.values():
        assert model.asked == [2, 2, 2, 2, 1, 1]  # clean and adversarial
        assert model.training


def change(stored: Stored, name: str, row: int, value: Any) -> None:
    stored.table[name] = [*stored.table[name][:row], value, *stored.table[name][row + 1 :]]


def with_images(*images: tuple[float, float], last: bool = True) -> Callable[[Stored], Any]:
    return lambda stored: stored.images.update({"last" if last else "best": of_pixels(*images)})


DIFFERS = "samples differs from what model and images give, first of sample"
NOT_ONE = "model, images and table are not of one run"
FOUR = tuple((float(first), float(second)) for first, second in BROKEN[:4].flatten(1))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda stored: stored.about.update(attacked=ABOUT | {"data": "other"}),
            "{attacked}: made from other data than {data}: give the data set that it was made from",
        ),
        (
            lambda stored: stored.about.update(images=ABOUT | {"training": {"seed": 4}}),
            "{images} and {attacked} are not of one evaluation: evaluate again",
        ),
        (
            lambda stored: stored.models[stored.paths["best"]][1].update(spec={"seed": 4}),
            "{best}: of another training than {attacked}: give the weights that were evaluated",
        ),
        (
            lambda stored: stored.models[stored.paths["last"]][1].update(spec={"seed": 4}),
            "{last}: of another training than {attacked}: give the weights that were evaluated",
        ),
        (lambda stored: stored.images.pop("last"), "{images}: not the 5 images of checkpoint last: evaluate again"),
        (lambda stored: stored.images.pop("best"), "{images}: not the 5 images of checkpoint best: evaluate again"),
        (with_images(*FOUR), "{images}: not the 5 images of checkpoint last: evaluate again"),
        (
            lambda stored: change(stored, "label", 6, 1),
            "{attacked}: row 1 is sample 101 with label 1, but the data has sample 101 with label 0: it is of other "
            "data",
        ),
        (
            lambda stored: change(stored, "test_index", 1, 7),
            "{attacked}: row 1 is sample 7 with label 0, but the data has sample 101 with label 0: it is of other data",
        ),
        (
            with_images(*FOUR, (0.4, 0.9)),
            "{images}, checkpoint last: an attack left the linf ball of 0.2 by ",
        ),
        (
            lambda stored: [change(stored, "predicted", row, 4) for row in (6, 9)],
            f"{{attacked}}, checkpoint last: predicted of 2 {DIFFERS} 101: {NOT_ONE}",
        ),
        (
            lambda stored: change(stored, "clean_correct", 2, True),
            f"{{attacked}}, checkpoint best: clean_correct of 1 {DIFFERS} 102: {NOT_ONE}",
        ),
        (
            lambda stored: change(stored, "robust_correct", 0, True),
            f"{{attacked}}, checkpoint best: robust_correct of 1 {DIFFERS} 100: {NOT_ONE}",
        ),
        # also a sample that is wrong when clean has no image that is right
        (
            lambda stored: change(stored, "robust_correct", 7, True),
            f"{{attacked}}, checkpoint last: robust_correct of 1 {DIFFERS} 102: {NOT_ONE}",
        ),
        (
            with_images(*FOUR, (0.4, 0.6), last=False),
            f"{{attacked}}, checkpoint best: robust_correct of 1 {DIFFERS} 104: {NOT_ONE}",
        ),
    ],
)
def test_what_does_not_agree_is_one_line(stored: Stored, act: Callable[[Stored], Any], message: str) -> None:
    act(stored)
    line = refusal(stored.verified)
    wanted = message.format(**stored.paths)
    assert line.startswith(wanted) if "linf" in wanted else line == wanted


def test_an_image_of_a_sample_that_is_wrong_when_clean_shows_nothing(stored: Stored) -> None:
    stored.images["best"] = of_pixels(*FOUR[:2], (0.4, 0.4), FOUR[3], (0.5, 0.5))
    assert len(stored.verified().lines) == 2


def test_a_table_of_fewer_samples_is_one_line(stored: Stored) -> None:
    line = refusal(lambda: stored.verified(slice(0, 9)))
    assert line == f"{stored.paths['images']}: not the 5 images of checkpoint last: evaluate again"


def test_a_spec_that_cannot_be_read_names_the_table(stored: Stored) -> None:
    stored.about["attacked"] = ABOUT | {"spec": {name: SPEC[name] for name in SPEC if name != "seed"}}
    assert refusal(stored.verified) == f"{stored.paths['attacked']}: seed: missing key: add it"
