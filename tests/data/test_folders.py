"""A user's own image files: order and labels against torchvision's ImageFolder, pixels against plain Pillow."""

import dataclasses
import io
import json
import os
import shutil
import socket
import struct
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from refusals import refusal
from torchvision.datasets import ImageFolder as Torchvision

from bat.cli import main
from bat.config import ImageFolder
from bat.data.dataset import load_source
from bat.data.saved import read_data
from bat.data.sources import open_source
from bat.io.tensors import read_tensors


def plan(path, *, size=None, colour="rgb", train="all", validation=2):
    return ImageFolder(
        name="image_folder",
        path=str(path),
        size=size,
        colour=colour,
        train_samples=train,
        validation_samples=validation,
        split_seed=0,
    )


def numbers(*shape, seed=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=dtype)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


def folder(root, classes=("ant", "bee", "cat"), train=6, test=2, shape=(8, 10, 3)):
    for part, n in (("train", train), ("test", test)):
        for label, kind in enumerate(classes):
            for number in range(n):
                save(
                    root / part / kind / f"{number}.png",
                    numbers(*shape, seed=1000 * label + number + 500 * (n == test)),
                )
    return root


@pytest.mark.parametrize("threads", [1, 4])
def test_order_labels_and_pixels_are_those_of_torchvision(tmp_path, threads):
    folder(tmp_path, classes=("b", "B", "a b", "c-1", "ü", "10", "9"), train=12)
    source = open_source(plan(tmp_path), threads=threads)
    for part, samples in (("train", source.train), ("test", source.test)):
        reference = Torchvision(tmp_path / part)
        assert source.class_names == tuple(reference.classes)
        assert samples.labels.tolist() == reference.targets
        assert [str(tmp_path / name) for name in samples.files] == [path for path, _ in reference.samples]
        expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in reference])
        np.testing.assert_array_equal(samples.pixels(torch.arange(len(reference))), expected)


def test_more_images_than_a_task_are_each_in_their_row(tmp_path):
    folder(tmp_path, train=150, shape=(3, 2, 3))
    source = open_source(plan(tmp_path), threads=3)
    rows = torch.randperm(450, generator=torch.Generator().manual_seed(0))
    expected = [np.asarray(Image.open(tmp_path / source.train.files[row])).transpose(2, 0, 1) for row in rows]
    np.testing.assert_array_equal(source.train.pixels(rows), np.stack(expected))


def test_only_what_a_split_takes_is_decoded(tmp_path):
    folder(tmp_path)
    data = load_source(plan(tmp_path, train=6), subsample=1.0)
    spare = set(range(18)) - set(data.train.index.tolist()) - set(data.validation.index.tolist())
    names = open_source(plan(tmp_path)).train.files
    (tmp_path / names[spare.pop()]).write_bytes(b"damaged")
    assert load_source(plan(tmp_path, train=6), subsample=1.0).digest() == data.digest()
    (tmp_path / names[data.train.index[3]]).write_bytes(b"damaged")
    refusal(lambda: load_source(plan(tmp_path, train=6), subsample=1.0))


def test_accents_spelt_in_two_ways_are_one_class_and_its_order_the_same(tmp_path):
    for form in ("NFC", "NFD"):
        folder(tmp_path / form, classes=[unicodedata.normalize(form, name) for name in ("zoo", "é", "f", "e", "日本")])
    one, two = (open_source(plan(tmp_path / form)) for form in ("NFC", "NFD"))
    assert one.class_names == two.class_names == ("e", "f", "zoo", "é", "日本")
    rows = torch.arange(30)
    assert torch.equal(one.train.labels, two.train.labels)
    assert torch.equal(one.train.pixels(rows), two.train.pixels(rows))
    (tmp_path / "NFD" / "test").rename(tmp_path / "other")
    (tmp_path / "NFC" / "test").rename(tmp_path / "NFD" / "test")
    assert open_source(plan(tmp_path / "NFD")).class_names == one.class_names


def test_files_of_the_system_are_passed_over_and_folders_below_a_class_are_its(tmp_path):
    folder(tmp_path)
    names = open_source(plan(tmp_path)).train.files
    for name in (".DS_Store", "train/.DS_Store", "train/ant/.DS_Store", "train/bee/Thumbs.db", "test/desktop.ini"):
        (tmp_path / name).write_bytes(b"x")
    save(tmp_path / "train" / ".cache" / "a.png", numbers(8, 10, 3))
    (tmp_path / "notes.txt").write_text("outside of train and test")
    assert open_source(plan(tmp_path)).train.files == names
    save(tmp_path / "train" / "ant" / "more" / "a.png", numbers(8, 10, 3))
    source = open_source(plan(tmp_path))
    assert source.train.files[6:8] == ("train/ant/more/a.png", "train/bee/0.png")
    assert source.train.labels.tolist() == [0] * 7 + [1] * 6 + [2] * 6


RGB = numbers(8, 10, 3)
GREY = numbers(8, 10)
ALPHA = numbers(8, 10, seed=2)
WIDE = numbers(8, 10, high=1 << 16, dtype=np.uint16)


def luma(rgb):
    """ITU-R BT.601, rounded: the definition of grey."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def rgb16():
    """Return a PNG of 16 bits a channel, which Pillow cannot write, and its upper bytes."""
    wide = numbers(8, 10, 3, high=1 << 16, dtype=np.uint16)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", 10, 8, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks, (wide >> 8).astype(np.uint8)


def palette():
    image = Image.fromarray(numbers(8, 10, high=4))
    image = Image.frombytes("P", (10, 8), image.tobytes())
    colours = numbers(4, 3, seed=3)
    image.putpalette(colours.tobytes())
    image.info["transparency"] = bytes([0, 128, 255, 255])
    return image, colours[np.asarray(image)]


@pytest.mark.parametrize("colour", ["rgb", "grey"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png(Image.fromarray(RGB)), RGB),
        (png(Image.fromarray(GREY)), np.stack([GREY] * 3, 2)),
        (png(Image.fromarray(np.dstack([RGB, ALPHA]))), RGB),
        (png(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])), np.stack([GREY] * 3, 2)),
        (png(Image.fromarray(WIDE)), np.stack([(WIDE >> 8).astype(np.uint8)] * 3, 2)),
        rgb16(),
        (png(palette()[0]), palette()[1]),
        (png(Image.fromarray(GREY > 127)), np.stack([np.where(GREY > 127, 255, 0)] * 3, 2)),
    ],
    ids=["rgb", "grey", "rgba", "grey+alpha", "grey16", "rgb16", "palette", "bits"],
)
def test_images_of_any_mode_become_the_colour_that_is_asked_for(tmp_path, content, expected, colour):
    folder(tmp_path)
    (tmp_path / "train" / "ant" / "0.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = open_source(plan(tmp_path, colour=colour)).train.pixels(torch.tensor([0]))[0].numpy()
    if colour == "rgb":
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)
    else:
        assert pixels.shape == (1, 8, 10)
        assert np.abs(pixels[0] - luma(expected)).max() <= 1


def test_images_are_cut_at_their_centre_and_scaled(tmp_path):
    folder(tmp_path, shape=(6, 6, 3))
    flat = np.zeros((12, 30, 3), dtype=np.uint8)
    flat[:, 9:21] = 200  # the middle 12 x 12
    save(tmp_path / "train" / "ant" / "0.png", flat)
    save(tmp_path / "train" / "ant" / "1.png", flat.transpose(1, 0, 2))
    pixels = open_source(plan(tmp_path, size=6)).train.pixels(torch.arange(18)).numpy()
    assert (pixels[:2] > 180).all()  # the black beyond the cut only colours the filter's edge
    untouched = np.asarray(Image.open(tmp_path / "train" / "ant" / "2.png"))
    np.testing.assert_array_equal(pixels[2], untouched.transpose(2, 0, 1))
    smooth = np.linspace(0, 255, 60).astype(np.uint8)[None, :, None].repeat(60, 0).repeat(3, 2)
    save(tmp_path / "train" / "ant" / "0.png", smooth)
    scaled = open_source(plan(tmp_path, size=6)).train.pixels(torch.tensor([0]))[0].numpy()
    means = smooth.reshape(6, 10, 6, 10, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(scaled.astype(int) - means).max() <= 6  # a filter that skipped pixels would miss by more


def test_an_orientation_is_applied(tmp_path):
    folder(tmp_path)
    turned = Image.fromarray(numbers(10, 8, 3))
    exif = turned.getexif()
    exif[0x0112] = 6  # the top of the scene is on the right
    turned.save(tmp_path / "train" / "ant" / "0.png", exif=exif)
    pixels = open_source(plan(tmp_path)).train.pixels(torch.tensor([0]))[0].numpy()
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), np.rot90(np.asarray(turned), -1))


def read_all(path, **changed):
    return lambda: load_source(plan(path, **changed), subsample=1.0)


def test_damaged_and_odd_images_are_reported_by_name_in_one_line(tmp_path):
    folder(tmp_path)
    train = tmp_path / "train"
    for name in ("ant/cut.jpg", "bee/whole.jpg"):
        save(train / name, RGB)
    content = (train / "ant/cut.jpg").read_bytes()
    (train / "ant/cut.jpg").write_bytes(content[: len(content) // 2])
    (train / "ant/text.png").write_text("no image")
    (train / "bee/empty.gif").write_bytes(b"")
    (train / "bee/broken.png").write_bytes(png(Image.fromarray(RGB))[:-40])
    save(train / "cat/large.png", numbers(9, 10, 3))
    save(train / "cat/float.tif", numbers(8, 10).astype(np.float32))
    save(train / "cat/deep.tif", numbers(8, 10, high=1 << 20, dtype=np.int32))
    frames = [Image.fromarray(numbers(8, 10, seed=seed)) for seed in range(2)]
    frames[0].save(train / "cat/moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "test/bee/1.png").write_bytes(b"")
    message = refusal(read_all(tmp_path))
    assert message.startswith("data: 8 of 27 files cannot be used: ")
    assert "; data: 1 of 6 files cannot be used: test/bee/1.png (not an image" in message
    for reason in (
        "train/ant/cut.jpg (",
        "train/ant/text.png (not an image of a kind that is read)",
        "train/bee/empty.gif (not an image",
        "train/bee/broken.png (",
        "train/cat/large.png (10 x 9 pixels, not 10 x 8)",
        "train/cat/float.tif (floating-point pixels)",
        "train/cat/deep.tif (values from ",
        "train/cat/moving.gif (an animation",
    ):
        assert reason in message
    assert "whole.jpg" not in message
    assert "large.png" not in refusal(read_all(tmp_path, size=8))


def test_many_damaged_images_are_counted(tmp_path):
    folder(tmp_path, train=20)
    for path in (tmp_path / "train" / "bee").iterdir():
        path.write_bytes(b"")
    save(tmp_path / "train" / "bee" / "a.png", RGB)
    for path in (tmp_path / "train" / "ant").iterdir():
        path.write_bytes(b"")
    message = refusal(lambda: open_source(plan(tmp_path)).train.pixels(torch.arange(61)))
    assert "40 of 61" in message
    assert "and 20 more: fix them" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train").rename(root / "training"), "has no folder train"),
        (lambda root: (shutil.rmtree(root / "test"), (root / "test").symlink_to("gone")), "has no folder test"),
        (lambda root: save(root / "train/stray.png", RGB), "'train/stray.png' (in no class's folder)"),
        (
            lambda root: (root / "test/ant/notes.txt").write_text(""),
            "'test/ant/notes.txt' (not the ending of an image)",
        ),
        (
            lambda root: save(root / "train/ant/new\nline.png", RGB),
            r"'train/ant/new\nline.png' (its name holds what cannot be printed): move",
        ),
        (lambda root: (root / "train/dog").mkdir(), "train has no image of class dog: "),
        (lambda root: save(root / "test/dog/0.png", RGB), "train has no image of class dog: "),
        (lambda root: [path.unlink() for path in (root / "train/bee").iterdir()], "train has no image of class bee: "),
        (lambda root: [path.unlink() for path in (root / "test").rglob("*.png")], "test has no image: "),
        (lambda root: [path.write_bytes(b"") for path in (root / "train").rglob("*.png")], "no image that can be read"),
    ],
)
def test_a_folder_that_is_not_as_it_should_be_is_refused(tmp_path, change, message):
    change(folder(tmp_path))
    line = refusal(read_all(tmp_path))
    assert line.startswith(str(tmp_path))
    assert message in line


def test_a_name_that_is_no_unicode_is_refused(tmp_path):
    folder(tmp_path)
    save(tmp_path / "a.png", RGB)
    try:
        os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/train/ant/\xff.png")  # noqa: PTH104
    except OSError:
        pytest.skip("this file system has none")
    assert r"'train/ant/\udcff.png' (its name holds" in refusal(read_all(tmp_path))


def test_one_class_is_refused(tmp_path):
    assert "has 1 class" in refusal(read_all(folder(tmp_path, classes=("all",))))


def test_a_class_without_test_images_is_allowed(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "test" / "bee").iterdir():
        path.unlink()
    assert sorted(set(load_source(plan(tmp_path), subsample=1.0).test.labels.tolist())) == [0, 2]


def test_stage_data_writes_the_data_and_a_table_of_files(tmp_path):
    folder(tmp_path / "images", classes=("Ärger", "bee", "日本"))
    data, table = tmp_path / "data.safetensors", tmp_path / "files.parquet"
    spec = {"data": dataclasses.asdict(plan(tmp_path / "images")), "subsample": 1.0}
    main(["data", "--spec", json.dumps(spec), "--data", str(data), "--files", str(table), "--threads", "2"])
    samples, rows = read_data(data), pd.read_parquet(table)
    assert samples.class_names == ("bee", "Ärger", "日本")
    assert len(rows) == sum(len(part) for part in samples.parts().values()) == 24
    for name, part in samples.parts().items():
        mine = rows[rows["split"] == name]
        assert mine["index"].tolist() == part.index.tolist()
        assert mine["label"].tolist() == part.labels.tolist()
        for row, (kind, file) in enumerate(zip(mine["class_name"], mine["file"], strict=True)):
            assert file.split("/")[:2] == ["test" if name == "test" else "train", kind]
            image = np.asarray(Image.open(tmp_path / "images" / file)).transpose(2, 0, 1)
            np.testing.assert_array_equal(part.pixels[row], image)


# -- what is left out, what is named, and what the log says


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "__MACOSX",
        "$RECYCLE.BIN",
        "System Volume Information",
        ".ipynb_checkpoints",
        ".hidden",
        "lost+found",
        "#recycle",
        "__pycache__",
        "@EADIR",
    ],
)
@pytest.mark.parametrize("place", ["train", "test", "train/bee", "train/bee/deep"])
def test_folders_of_the_system_are_left_out_and_listed(tmp_path, name, place):
    folder(tmp_path)
    save(tmp_path / "train/bee/deep/7.png", RGB)
    usual = open_source(plan(tmp_path))
    assert usual.notes == ()
    save(tmp_path / place / name / "thumbnail.png", RGB)
    save(tmp_path / place / name / "below" / "thumbnail.png", RGB)
    source = open_source(plan(tmp_path))
    assert source.notes == (f"left out, as hidden or the system's: {f'{place}/{name}'!r}",)
    assert source.class_names == ("ant", "bee", "cat")
    for part in ("train", "test"):
        assert getattr(source, part).files == getattr(usual, part).files
        assert torch.equal(getattr(source, part).labels, getattr(usual, part).labels)


def test_a_class_whose_name_only_looks_like_a_systems_folder_is_one(tmp_path):
    folder(tmp_path, classes=("@eaDirs", "eaDir", "_MACOSX"))
    assert open_source(plan(tmp_path)).class_names == ("@eaDirs", "_MACOSX", "eaDir")


def test_classes_without_test_images_are_said(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "test" / "bee").iterdir():
        path.unlink()
    shutil.rmtree(tmp_path / "test" / "ant")
    assert open_source(plan(tmp_path)).notes == ("2 of 3 classes have no test image: ant, bee",)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("Cat", "cat"),
            "the folders 'Cat' and 'cat' differ by case, blanks or the form of letters only: they are 2 classes",
        ),
        (("caf\u00e9", "cafe\u0301"), r"the folders 'cafe\u0301' and 'caf\xe9' differ by case, blanks or the form"),
        (("a 1", "a １"), r"'a 1' and 'a \uff11' differ"),
        (("cat", "cat "), "'cat' and 'cat ' differ"),
        (("straße", "STRASSE"), "they are 2 classes"),
    ],
)
def test_classes_that_are_easily_taken_for_one_are_said(tmp_path, names, said):
    folder(tmp_path, classes=("ant", *names))
    source = open_source(plan(tmp_path))
    classes = len({unicodedata.normalize("NFC", name) for name in names})
    assert len(source.notes) == 1
    assert said in source.notes[0]
    assert source.notes[0].endswith("only: they are 1 class" if classes == 1 else "only: they are 2 classes")
    assert len(source.class_names) == 1 + classes


def test_a_class_that_train_has_in_another_case_is_named_with_it(tmp_path):
    folder(tmp_path)
    (tmp_path / "test/cat").rename(tmp_path / "test/Cat")
    assert "train has no image of class Cat (but of cat): " in refusal(read_all(tmp_path))


def test_test_images_that_are_training_images_are_counted(tmp_path):
    folder(tmp_path)
    one, two = (tmp_path / f"train/{name}.png" for name in ("ant/1", "bee/2"))
    (tmp_path / "test/ant/0.png").write_bytes(one.read_bytes())
    (tmp_path / "test/cat/1.png").write_bytes(two.read_bytes())
    save(tmp_path / "test/cat/0.bmp", RGB)  # of the same size as another, with other pixels
    save(tmp_path / "train/cat/0.bmp", 255 - RGB)
    (tmp_path / "train/cat/9.png").write_bytes(one.read_bytes())
    assert open_source(plan(tmp_path)).notes == (
        "2 of 7 test images are copies of training images, byte for byte; first test/ant/0.png, of train/ant/1.png: "
        "accuracy on them says nothing about new images",
    )


def test_the_log_says_that_there_is_no_test_part(tmp_path):
    shutil.rmtree(folder(tmp_path) / "test")
    save(tmp_path / "train/@eaDir/0.png", RGB)
    source = open_source(plan(tmp_path))
    assert source.test is None
    assert source.pixel_max == 255
    assert source.notes == (
        "left out, as hidden or the system's: 'train/@eaDir'",
        "no folder test: a stratified part of train is the test set (data.test_samples), and its indices are places "
        "there",
    )


def test_files_of_different_sizes_are_not_read_to_compare_them(tmp_path, monkeypatch):
    folder(tmp_path, test=0)
    save(tmp_path / "test/ant/0.png", numbers(9, 30, 3))
    monkeypatch.setattr("bat.data.folders._digest", None)
    assert len(open_source(plan(tmp_path)).test.files) == 1


def test_images_are_decoded_by_so_many_threads(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("bat.data.folders.read_images", lambda names, *_, threads: asked.append((names, threads)))
    source = open_source(plan(folder(tmp_path)), threads=5)
    source.train.pixels(torch.tensor([7, 0]))
    source.test.pixels(torch.tensor([1]))
    assert asked == [(["train/bee/1.png", "train/ant/0.png"], 5), (["test/ant/1.png"], 5)]


def test_the_first_image_that_can_be_read_tells_the_size(tmp_path):
    (folder(tmp_path) / "train/ant/0.png").write_bytes(b"")
    assert refusal(read_all(tmp_path)) == (
        "data: 1 of 18 files cannot be used: train/ant/0.png (not an image of a kind that is read): fix them"
    )


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, monkeypatch):
    folder(tmp_path / "images")
    monkeypatch.chdir(tmp_path / "images")
    ant = Path("train/ant")
    os.mkfifo(ant / "pipe.png")
    (ant / "nothing.png").symlink_to("none")
    (ant / "loop.png").symlink_to("loop.png")
    (ant / "zero.png").symlink_to("/dev/zero")
    (ant / "up").symlink_to("..")
    Path("train/cat/up").symlink_to("..")
    (ant / "bad").symlink_to("bad")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(ant / "socket.png"))
        line = refusal(read_all("."))
    for problem in (
        "'train/ant/pipe.png' (a named pipe, not a file)",
        "'train/ant/socket.png' (a socket, not a file)",
        "'train/ant/zero.png' (a device, not a file)",
        "'train/ant/nothing.png' (a link to nothing)",
        "'train/ant/loop.png' (Too many levels of symbolic links)",
        "'train/ant/bad' (Too many levels of symbolic links)",
        "'train/ant/up' (a link to a folder that holds it)",
        "'train/cat/up' (a link to a folder that holds it)",
    ):
        assert problem in line
    assert line.startswith(".: 8 files cannot be used: ")


def test_links_to_files_and_folders_elsewhere_are_followed(tmp_path):
    folder(tmp_path / "images")
    (tmp_path / "images/train/ant").rename(tmp_path / "ant")
    (tmp_path / "images/train/ant").symlink_to(tmp_path / "ant")
    (tmp_path / "images/train/bee/0.png").rename(tmp_path / "b.png")
    (tmp_path / "images/train/bee/0.png").symlink_to(tmp_path / "b.png")
    source = open_source(plan(tmp_path / "images"))
    assert source.train.files[:7] == (*(f"train/ant/{number}.png" for number in range(6)), "train/bee/0.png")
    np.testing.assert_array_equal(
        source.train.pixels(torch.tensor([6]))[0].numpy().transpose(1, 2, 0), np.asarray(Image.open(tmp_path / "b.png"))
    )


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    folder(tmp_path)
    listing, opening = Path.iterdir, Path.open

    # root may read everything
    def iterdir(path):
        if path.name == "bee":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    def opened(path, *mode, **more):
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opening(path, *mode, **more)

    monkeypatch.setattr(Path, "open", opened)
    line = refusal(read_all(tmp_path))
    assert "3 of 18 files cannot be used: train/ant/3.png (Permission denied), " in line
    monkeypatch.setattr(Path, "iterdir", iterdir)
    (tmp_path / "train/ant/notes.txt").touch()
    assert refusal(read_all(tmp_path)) == (
        f"{tmp_path}: 3 files cannot be used: 'train/bee' (Permission denied), 'train/ant/notes.txt' (not the ending "
        "of an image), 'test/bee' (Permission denied): move them away"
    )


def test_paths_that_lead_nowhere_are_refused(tmp_path, monkeypatch):
    folder(tmp_path / "images")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source(plan("~/images")).train.files) == 18
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop/train").symlink_to("train")
    for name, why in (("none", ""), ("pipe", ""), ("file", ""), ("loop", " (Too many levels of symbolic links)")):
        assert refusal(read_all(tmp_path / name)) == (
            f"{tmp_path / name}: has no folder train{why}: data.path is a folder with train and, if any, test, each "
            "with one folder per class"
        )


def test_a_wrong_ending_does_not_matter_but_what_is_in_the_file(tmp_path):
    folder(tmp_path)
    image = Image.fromarray(RGB)
    image.save(tmp_path / "train/ant/0.png", "BMP")
    image.save(tmp_path / "train/ant/1.png", "EPS")
    message = refusal(read_all(tmp_path))
    assert "1 of 18 files cannot be used: train/ant/1.png (not an image of a kind that is read)" in message
    image.save(tmp_path / "train/ant/1.PNG")
    (tmp_path / "train/ant/1.png").unlink()
    pixels = open_source(plan(tmp_path)).train.pixels(torch.arange(2)).numpy()
    np.testing.assert_array_equal(pixels, np.stack([RGB.transpose(2, 0, 1)] * 2))


def test_the_log_of_stage_data_says_what_was_noted(tmp_path):
    folder(tmp_path / "images")
    save(tmp_path / "images/train/@eaDir/a.png", RGB)
    spec = {"data": dataclasses.asdict(plan(tmp_path / "images")), "subsample": 0.5}
    out = tmp_path / "data.safetensors"
    main(
        [
            "data",
            "--spec",
            json.dumps(spec),
            "--data",
            str(out),
            "--files",
            str(tmp_path / "f.parquet"),
            "--log",
            str(tmp_path / "log"),
        ]
    )
    assert "left out, as hidden or the system's: 'train/@eaDir'" in (tmp_path / "log").read_text()
    assert read_tensors(out, "data")[1]["source"] == {"train": 18, "test": 6, "own_test": True}
