"""What is known of a user's own images before they are read, against what reading them gives."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bat.config import ImageFolder, Npz, Packaged
from bat.data.counting import counted
from bat.data.sources import open_source

PARTS = {"train_samples": "all", "validation_samples": 2, "split_seed": 0}


def folder(path: Path, **changed: Any) -> ImageFolder:
    usual: dict[str, Any] = {"name": "image_folder", "path": str(path), "size": None, "colour": "rgb"}
    return ImageFolder(**usual | PARTS | changed)


def arrays(path: Path, **changed: Any) -> Npz:
    usual: dict[str, Any] = {"name": "npz", "path": str(path)}
    return Npz(**usual | PARTS | changed)


def image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 5, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven training images, three of them below a folder of their class, and two test images of 5 x 3 pixels."""
    for number in range(4):
        image(tmp_path / "train" / "ant" / f"{number}.png", number)
        image(tmp_path / "train" / "bee" / "deeper" / f"{number}.png", 10 + number)
    (tmp_path / "train" / "bee" / "deeper" / "3.png").unlink()
    for kind in ("ant", "bee"):
        image(tmp_path / "test" / kind / "0.png", 20)
    # what reading leaves out: hidden files, and folders of systems
    for left_out in (".hidden.png", ".git/0.png", "@eaDir/0.png", "ant/.thumbs/0.png", "bee/@eaDir/0.png"):
        image(tmp_path / "train" / left_out)
    return tmp_path


def test_a_folder_is_counted_as_it_is_read(images: Path) -> None:
    assert counted(folder(images)) == ((5, 2, 2), (3, 3, 5), 2)
    source = open_source(folder(images))
    assert source.test is not None
    assert (len(source.train.labels), len(source.test.labels), len(source.class_names)) == (7, 2, 2)
    assert source.train.pixels(torch.tensor([0])).shape == (1, 3, 3, 5)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"train_samples": 4}, ((4, 2, 2), (3, 3, 5), 2)),
        ({"validation_samples": 3}, ((4, 3, 2), (3, 3, 5), 2)),
        ({"colour": "grey"}, ((5, 2, 2), (1, 3, 5), 2)),
        ({"size": 8}, ((5, 2, 2), (3, 8, 8), 2)),
    ],
)
def test_what_the_configuration_says_of_a_folder(changed: Any, expected: Any, images: Path) -> None:
    assert counted(folder(images, **changed)) == expected


def test_without_a_test_part_one_is_drawn(images: Path) -> None:
    shutil.rmtree(images / "test")
    assert counted(folder(images)) == ((3, 2, 2), (3, 3, 5), 2)


def test_only_a_dot_or_an_at_sign_hides_a_folder(images: Path) -> None:
    for kind in ("X", ".", "@"):
        image(images / "train" / f"{kind}ylophone" / "0.png")
    assert counted(folder(images)) == ((6, 2, 2), (3, 3, 5), 3)
    assert counted(folder(images, classes=("bee", "ant"))) == ((5, 2, 2), (3, 3, 5), 2)


def test_the_first_image_by_name_tells_the_size(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((9, 4), dtype=np.uint8)).save(images / "train" / "ant" / "0.bmp")
    walk = os.walk

    def backwards(top: Path) -> Any:
        for place, folders, names in walk(top):
            folders.reverse()
            yield place, folders, sorted(names, reverse=True)

    # in whatever order the file system tells
    monkeypatch.setattr(os, "walk", backwards)
    assert counted(folder(images)) == ((6, 2, 2), (3, 9, 4), 2)


@pytest.mark.parametrize("ending", ["gif", "tiff", "webp"])
def test_a_format_that_is_not_read_tells_no_size(ending: str, tmp_path: Path) -> None:
    image(tmp_path / "train" / "ant" / f"0.{ending}")
    image(tmp_path / "test" / "ant" / "0.png")
    assert counted(folder(tmp_path)) is None


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_a_format_that_is_read_tells_its_size(ending: str, tmp_path: Path) -> None:
    image(tmp_path / "train" / "ant" / f"0.{ending}")
    assert counted(folder(tmp_path, train_samples=3)) == ((3, 2, 0), (3, 3, 5), 1)


def test_warnings_of_an_odd_image_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    image(tmp_path / "train" / "ant" / "0.png")
    # 15 pixels are over the limit of a warning, and below twice it
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert counted(folder(tmp_path, train_samples=3)) == ((3, 2, 0), (3, 3, 5), 1)
    assert not recwarn.list


def test_an_image_that_is_far_too_large_tells_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "train" / "ant" / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    assert counted(folder(tmp_path, train_samples=3)) is None


def test_arrays_are_counted_by_their_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=np.zeros((9, 2, 3, 4), np.uint8), x_test=np.zeros((5, 2, 3, 4), np.uint8))
    assert counted(arrays(path)) == ((7, 2, 5), (2, 3, 4), 10)
    assert counted(arrays(path, train_samples=3)) == ((3, 2, 5), (2, 3, 4), 10)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 4), (1, 3, 4)),
        ((6, 5, 3), (3, 6, 5)),
        ((6, 5, 1), (1, 6, 5)),
        ((3, 6, 5), (3, 6, 5)),
        ((3, 6, 1), (3, 6, 1)),
        ((1, 6, 3), (1, 6, 3)),
        ((6, 3, 1), (1, 6, 3)),
    ],
)
def test_arrays_are_turned_as_they_are_read(shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path) -> None:
    x = np.arange(9 * math.prod(shape)).reshape(9, *shape).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(9) % 2)
    assert counted(arrays(tmp_path / "a.npz")) == ((5, 2, 2), expected, 10)
    assert open_source(arrays(tmp_path / "a.npz")).train.pixels(torch.tensor([0])).shape == (1, *expected)


def test_what_is_not_there_or_wrong_is_not_counted(tmp_path: Path) -> None:
    assert counted(folder(tmp_path)) is None
    assert counted(folder(tmp_path / "none")) is None
    assert counted(arrays(tmp_path / "none.npz")) is None
    (tmp_path / "a.npz").write_bytes(b"x")
    assert counted(arrays(tmp_path / "a.npz")) is None
    np.savez(tmp_path / "a.npz", x_train=np.zeros(9), x_test=np.zeros(9))
    assert counted(arrays(tmp_path / "a.npz")) is None
    assert counted(Packaged(name="digits", train_samples=9, validation_samples=2, split_seed=0)) is None
