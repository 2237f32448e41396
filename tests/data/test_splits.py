"""Splits by number and by fraction, the test set of a source without a test part, and some classes of a source."""

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from refusals import refusal

from bat.cli import main
from bat.config import SOURCES, ImageFolder, Npz, Packaged, Published, split_sizes, subsampled
from bat.config.data import check_classes, chosen_classes, drawn_sizes, shape_of
from bat.data.counting import counted
from bat.data.dataset import load_source, split
from bat.data.saved import read_data
from bat.data.sources import Samples, Source, open_source
from bat.io.tables import read_table


def parts(data):
    return [len(part) for part in data.parts().values()]


def images(root, **counts):
    """Write image files: counts by part, then by class."""
    for part, classes in counts.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng([len(name), number]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:03d}.png")
    return root


@pytest.mark.parametrize(
    ("pool", "test", "changed", "sizes"),
    [
        # a part of its own for the test: all, and a tenth for validation
        (1000, 300, {}, (900, 100, 300)),
        (1000, 300, {"validation_samples": 50}, (950, 50, 300)),
        (1000, 300, {"validation_samples": 0.25}, (750, 250, 300)),
        (1000, 300, {"train_samples": 10}, (10, 100, 300)),
        # none: a fifth for the test, and a tenth of the rest
        (1000, None, {}, (720, 80, 200)),
        (1000, None, {"test_samples": 0.5}, (450, 50, 500)),
        (1000, None, {"test_samples": 100}, (810, 90, 100)),
        # what training and validation leave
        (1000, None, {"train_samples": 600, "validation_samples": 200}, (600, 200, 200)),
        (1000, None, {"train_samples": 600, "validation_samples": 200, "test_samples": 50}, (600, 200, 50)),
        (1000, None, {"train_samples": 600, "test_samples": 50}, (600, 95, 50)),
        # two at the least
        (12, None, {}, (8, 2, 2)),
    ],
)
def test_numbers_of_samples(pool, test, changed, sizes):
    assert drawn_sizes(Npz(name="npz", path="a", **changed), pool, test) == sizes


@given(st.integers(10, 10**5), st.floats(1e-6, 0.5), st.none() | st.floats(1e-6, 0.4))
def test_fractions_take_their_share(pool, validation, test):
    train, held, tests = drawn_sizes(
        Npz(name="npz", path="a", validation_samples=validation, test_samples=test), pool, None
    )
    assert train + held + tests == pool
    assert abs(tests - pool * (0.2 if test is None else test)) <= 2
    assert abs(held - (pool - tests) * validation) <= 2


def test_sizes_of_published_sets_are_known_without_reading_them():
    assert split_sizes(Published(name="cifar10")) == (45_000, 5_000, 10_000)
    assert split_sizes(Packaged(name="digits")) == (1294, 144, 359)
    assert split_sizes(Packaged(name="digits", classes=2)) is None  # not before it was read
    assert split_sizes(Npz(name="npz", path="a")) is None
    assert split_sizes(Published(name="cifar10", validation_samples=49_998)) == (2, 49_998, 10_000)
    assert split_sizes(Packaged(name="digits", train_samples=1596, validation_samples=200)) == (1596, 200, 1)
    held = Packaged(name="digits", train_samples=1000, validation_samples=200, test_samples=597)
    assert split_sizes(held) == (1000, 200, 597)


@pytest.mark.parametrize(
    ("data", "count", "images"),
    [
        (Published(name="cifar10", train_samples=45_001), 50_001, 50_000),
        (Published(name="cifar10", validation_samples=49_999), 50_001, 50_000),
        (Packaged(name="digits", train_samples=1597, validation_samples=200), 1797, 1797),
        (Packaged(name="digits", train_samples=1000, validation_samples=200, test_samples=598), 1798, 1797),
    ],
)
def test_more_samples_than_a_published_set_has_are_refused(data, count, images):
    message = f"train_samples + validation_samples is {count}, too many for the {images} images of {data.name}"
    with pytest.raises(ValueError, match=f"^data: {re.escape(message)}: lower them$"):
        split_sizes(data)


def test_classes_of_published_sets_are_known_by_number():
    for classes in (None, 10, (9, 0), ("horse", "cat"), ("horse", 9)):
        check_classes(Published(name="cifar10", classes=classes))
    check_classes(Npz(name="npz", path="a", classes=11))
    for classes, said in ((11, "is 11"), ((0, 12), "has 12"), (("horse", 10), "has 10")):
        with pytest.raises(ValueError, match=f"{said}, but cifar10 has 10 classes, numbered from 0: lower it$"):
            check_classes(Published(name="cifar10", classes=classes))


def test_shapes_of_images_that_are_known_without_reading_them():
    folder = ImageFolder(name="image_folder", path="a", size=5)
    known = (Published(name="svhn"), folder, replace(folder, colour="grey"))
    assert [shape_of(data) for data in known] == [(3, 32, 32), (3, 5, 5), (1, 5, 5)]
    assert [shape_of(data) for data in (Npz(name="npz", path="a"), replace(folder, size=None))] == [None, None]


@pytest.mark.parametrize(
    ("samples", "subsample", "count"),
    [(1000, 0.1, 100), (1000, 0.0016, 2), (1000, 0.0026, 3), (1000, 1e-6, 2), (1, 1.0, 1)],
)
def test_a_trial_takes_its_share_of_a_split_and_at_least_two(samples, subsample, count):
    assert subsampled(samples, subsample) == count


def test_digits_are_split_in_three_by_themselves():
    data = load_source(Packaged(name="digits"), subsample=1.0)
    assert parts(data) == [1294, 144, 359]
    index = torch.cat([part.index for part in data.parts().values()])
    assert sorted(index.tolist()) == list(range(1797))
    # stratified: each class has its share of each part, to one
    for part in data.parts().values():
        shares = torch.bincount(part.labels, minlength=10) / len(part)
        whole = torch.bincount(torch.cat([each.labels for each in data.parts().values()])) / 1797
        assert ((shares - whole).abs() <= 1.5 / len(part)).all()


def test_a_folder_with_train_alone_gets_a_stratified_test_set(tmp_path, caplog):
    images(tmp_path / "images", train={"ant": 40, "bee": 20})
    plan = {"name": "image_folder", "path": str(tmp_path / "images")}
    spec = f'{{"data": {{"name": "image_folder", "path": "{plan["path"]}"}}, "subsample": 1.0}}'
    log = tmp_path / "data.log"
    main(
        [
            "data",
            "--spec",
            spec,
            "--data",
            f"{tmp_path}/d.safetensors",
            "--files",
            f"{tmp_path}/f.parquet",
            "--log",
            str(log),
        ]
    )
    data = read_data(tmp_path / "d.safetensors")
    assert parts(data) == [43, 5, 12]
    assert torch.bincount(data.test.labels).tolist() == [8, 4]
    assert "no folder test: a stratified part of train is the test set" in log.read_text()
    # an index is the file's place in train, in each part
    names = sorted(str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").rglob("*.png"))
    files = read_table(tmp_path / "f.parquet", "files")
    assert files["file"].tolist() == [names[index] for index in files["index"]]
    assert sorted(files["index"]) == list(range(60))
    logging.shutdown()


def test_arrays_without_a_test_part_get_one(tmp_path):
    path = tmp_path / "a.npz"
    x = np.random.default_rng(0).integers(0, 256, (50, 5, 5), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(50) % 2)
    plan = Npz(name="npz", path=str(path))
    data = load_source(plan, subsample=1.0)
    assert parts(data) == [36, 4, 10]
    for part in data.parts().values():
        np.testing.assert_array_equal(part.pixels[:, 0], x[part.index])
    assert "no x_test: a stratified part of x_train is the test set" in open_source(plan).notes[-1]
    assert counted(plan) == ((36, 4, 10), (1, 5, 5), 10)


def test_test_samples_of_a_source_with_a_test_part_are_refused(tmp_path):
    images(tmp_path, train={"a": 10, "b": 10}, test={"a": 2, "b": 2})
    line = refusal(lambda: load_source(folder(tmp_path, test_samples=4), subsample=1.0))
    assert line == "data.test_samples is 4, but there is a test part: remove it"


def folder(path, **changed):
    return ImageFolder(name="image_folder", path=str(path), **changed)


@pytest.mark.parametrize("classes", [(8, 3), ("8", "3"), (8, "3")])
def test_labels_of_chosen_classes_are_in_their_order_and_indices_stay(classes):
    whole = load_source(Packaged(name="digits"), subsample=1.0)
    label_of = {int(i): int(y) for part in whole.parts().values() for i, y in zip(part.index, part.labels, strict=True)}
    pixels_of = {int(i): x for part in whole.parts().values() for i, x in zip(part.index, part.pixels, strict=True)}
    data = load_source(Packaged(name="digits", classes=classes), subsample=1.0)
    assert (data.classes, data.class_names) == (2, ("8", "3"))
    kept = [index for index, label in label_of.items() if label in (3, 8)]
    assert sorted(torch.cat([part.index for part in data.parts().values()]).tolist()) == sorted(kept)
    for part in data.parts().values():
        assert part.index.tolist() == sorted(part.index.tolist())
        assert [label_of[index] for index in part.index.tolist()] == [(8, 3)[label] for label in part.labels]
        assert all(torch.equal(pixels_of[index], x) for index, x in zip(part.index.tolist(), part.pixels, strict=True))


def test_a_number_is_the_first_classes_and_all_are_the_whole():
    assert load_source(Packaged(name="digits", classes=3), subsample=1.0).class_names == ("0", "1", "2")
    whole = load_source(Packaged(name="digits"), subsample=1.0)
    assert load_source(Packaged(name="digits", classes=10), subsample=1.0).digest() == whole.digest()


def test_classes_of_a_source_with_a_test_part(tmp_path):
    images(tmp_path, train={"ant": 10, "bee": 20, "cat": 30}, test={"ant": 3, "bee": 4, "cat": 5})
    plan = folder(tmp_path, classes=("cat", "ant"), validation_samples=4)
    data = load_source(plan, subsample=1.0)
    assert parts(data) == [36, 4, 8]
    assert data.test.index.tolist() == [0, 1, 2, 7, 8, 9, 10, 11]
    assert data.test.labels.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert counted(plan) == ((36, 4, 8), (3, 6, 6), 2)


def test_classes_that_a_table_lacks_can_be_chosen_from_labels_alone():
    # labels without a class name, as a source of one class too few would have them, are no class
    samples = Samples(torch.tensor([0, 1, 2] * 10), lambda rows: torch.zeros(len(rows), 1, 1, 1, dtype=torch.uint8))
    data = split(
        Source(samples, None, ("a", "b", "c"), 255), Packaged(name="digits", classes=("c", "a")), subsample=1.0
    )
    assert sorted(torch.cat([part.index for part in data.parts().values()]).tolist()) == [
        index for index in range(30) if index % 3 != 1
    ]


def test_a_folder_without_images_is_not_counted(tmp_path):
    assert counted(folder(tmp_path, size=8)) is None
    assert counted(folder(tmp_path, size=8, classes=2)) is None


NAMES = ("apple", "baby", "bear", "3")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("aple", "bear"), "data.classes has aple, but there are 4: apple, baby, bear, 3; did you mean apple?"),
        (("apple", 4), "data.classes has 4, but there are 4: apple, baby, bear, 3"),
        (("apple", -1), "data.classes has -1, but there are 4: apple, baby, bear, 3"),
        (5, "data.classes is 5, but there are 4: apple, baby, bear, 3"),
        (("apple", 0), "0 is there twice: keep one"),
        (("3", 3), "3 is there twice: keep one"),
    ],
)
def test_classes_that_there_are_not_are_refused(classes, message):
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?") + "$"):
        chosen_classes(classes, NAMES)


def test_a_wrong_class_is_one_line_of_stage_data():
    line = refusal(lambda: load_source(Packaged(name="digits", classes=("zero", 1)), subsample=1.0))
    assert line == "data.classes has zero, but there are 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    many = tuple(map(str, range(11)))
    with pytest.raises(ValueError, match=r"0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and others$"):
        chosen_classes(("x", 1), many)


def test_the_order_of_classes():
    assert chosen_classes(None, NAMES) == [0, 1, 2, 3]
    assert chosen_classes(2, NAMES) == [0, 1]
    # a text is a name, a number is a number
    assert chosen_classes(("3", 1, "apple"), NAMES) == [3, 1, 0]
    assert SOURCES["digits"].classes == 10
