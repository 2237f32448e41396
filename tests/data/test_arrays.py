"""A user's own arrays in an npz file."""

import pickle

import numpy as np
import pytest
from refusals import refusal

from bat.config import Npz
from bat.data.dataset import load_source
from bat.data.notes import listed
from bat.data.sources import open_source


def plan(path, train="all", validation=4):
    return Npz(name="npz", path=str(path), train_samples=train, validation_samples=validation, split_seed=0)


def load(path, train="all", validation=4):
    return load_source(plan(path, train, validation), subsample=1.0)


def numbers(*shape):
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def arrays(**changed):
    usual = {
        "x_train": numbers(30, 3, 6, 5),
        "y_train": np.arange(30) % 3,
        "x_test": numbers(9, 3, 6, 5),
        "y_test": np.arange(9) % 3,
    }
    return {name: value for name, value in (usual | changed).items() if value is not None}


@pytest.fixture
def file(tmp_path):
    def write(save=np.savez, **changed):
        save(tmp_path / "a.npz", **arrays(**changed))
        return tmp_path / "a.npz"

    return write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", [np.uint8, np.int32, np.int64, np.uint64])
def test_each_sample_is_the_row_of_its_index(file, save, labels):
    given = arrays()
    path = file(save, **{name: given[name].astype(labels) for name in ("y_train", "y_test")})
    data = load(path)
    assert [len(part) for part in data.parts().values()] == [26, 4, 9]
    assert data.class_names == ("0", "1", "2")
    for part in data.parts().values():
        which = "test" if part is data.test else "train"
        np.testing.assert_array_equal(part.pixels, given[f"x_{which}"][part.index])
        np.testing.assert_array_equal(part.labels, given[f"y_{which}"][part.index])
        assert part.pixels.is_contiguous()
        assert part.pixel_max == 255


@pytest.mark.parametrize(
    ("turned", "expected"),
    [
        (lambda x: x.transpose(0, 2, 3, 1), lambda x: x),
        (lambda x: np.asfortranarray(x), lambda x: x),
        (lambda x: x[:, 0], lambda x: x[:, :1]),
        (lambda x: x[:, 0, :, :, None], lambda x: x[:, :1]),
        (lambda x: x[:, :1, :, :3], lambda x: x[:, :1, :, :3]),
        (lambda x: x[..., :1], lambda x: x[..., :1]),
    ],
    ids=["channels last", "Fortran order", "no channels", "one channel last", "width of 3", "width of 1"],
)
def test_images_come_in_any_usual_layout(file, turned, expected):
    given = arrays()
    data = load(file(**{name: turned(given[name]) for name in ("x_train", "x_test")}))
    np.testing.assert_array_equal(data.train.pixels, expected(given["x_train"])[data.train.index])
    np.testing.assert_array_equal(data.test.pixels, expected(given["x_test"]))


def test_classes_can_have_names(file):
    assert load(file(class_names=np.array(["Ära", "b", "日本"]))).class_names == ("Ära", "b", "日本")


def test_the_log_says_what_may_not_be_meant(file):
    usual = arrays()
    usual["x_test"] = 255 - usual["x_test"]  # of the same seed as those of training
    assert open_source(plan(file(**usual))).notes == ()
    assert open_source(plan(file(**usual | {"y_test": np.zeros(9, int)}))).notes == (
        "2 of 3 classes have no test image: 1, 2",
    )
    copied = usual["x_test"].copy()
    copied[[2, 5]] = usual["x_train"][[7, 3]]
    usual["x_train"][9] = usual["x_train"][7]  # the first of the two is named
    assert open_source(plan(file(**usual | {"x_test": copied}))).notes == (
        "2 of 9 test images are copies of training images, byte for byte; first row 2, of row 7: accuracy on them says "
        "nothing about new images",
    )
    dark_of = "no pixel of x_train is over {}, of 255: the images are dark"
    for top, said in ((2, [dark_of.format(2)]), (63, [dark_of.format(63)]), (64, [])):
        dark = np.minimum(usual["x_train"], top)
        assert list(open_source(plan(file(**usual | {"x_train": dark}))).notes) == said


def test_the_log_says_that_there_is_no_test_part(file):
    assert open_source(plan(file(x_test=None, y_test=None))).notes == (
        "no x_test: a stratified part of x_train is the test set (data.test_samples), and its indices are places there",
    )


def test_a_list_names_20_and_counts_the_others():
    items = [f"item {number}" for number in range(22)]
    assert listed(items[:20]) == ", ".join(items[:20])
    assert listed(items) == f"{', '.join(items[:20])} and 2 more"


class Trap:
    def __reduce__(self):
        return print, ("unpickled",)


OBJECTS = np.array([Trap()] * 30, dtype=object)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": None}, "has no x_train: add what is missing (found: y_train, x_test, y_test)"),
        (dict.fromkeys(arrays()), "has no x_train, y_train: add what is missing (found: nothing)"),
        ({"y_test": None}, "has no y_test: add what is missing (found: x_train, y_train, x_test)"),
        ({"x_test": None}, "has no x_test: add what is missing (found: x_train, y_train, y_test)"),
        ({"y_train": None, "y_test": None}, "has no y_train, y_test: "),
        ({"x_train": numbers(30, 3, 6, 5) / 255}, "x_train is float64, not uint8"),
        ({"x_test": numbers(9, 3, 6, 5).astype(np.int64)}, "x_test is int64, not uint8"),
        ({"x_train": numbers(30, 90)}, "x_train has shape (30, 90)"),
        ({"x_train": numbers(30, 2, 6, 5)}, "x_train has shape (30, 2, 6, 5)"),
        ({"x_train": numbers(30, 1, 3, 6, 5)}, "x_train has shape (30, 1, 3, 6, 5)"),
        ({"x_train": numbers(0, 3, 6, 5)}, "x_train has shape (0, 3, 6, 5)"),
        ({"x_train": np.uint8(3)}, "x_train has shape ()"),
        (
            {"x_test": numbers(9, 3, 5, 6)},
            "x_train and x_test hold images of different shapes, (30, 3, 6, 5) and (9, 3, 5, 6): make them alike",
        ),
        ({"x_test": numbers(9, 1, 6, 5)}, "images of different shapes"),
        ({"y_train": np.arange(29) % 3}, "y_train is int64 of shape (29,): give integers of shape (30,)"),
        ({"y_train": np.arange(30)[:, None] % 3}, "y_train is int64 of shape (30, 1)"),
        ({"y_train": (np.arange(30) % 3).astype(float)}, "y_train is float64"),
        ({"y_test": np.array(["a"] * 9)}, "y_test is <U1"),
        ({"y_test": np.arange(9) % 3 - 1}, "y_test has the class -1"),
        ({"y_train": np.arange(30) % 3 * 2}, "y_train has no class 1, but the highest is 4"),
        ({"y_train": np.arange(30) % 3 + 1}, "y_train has no class 0, but the highest is 3"),
        ({"y_test": np.arange(9)}, "y_train has no class 3, but the highest is 8"),
        ({"y_train": np.arange(30) % 3 * 10**15}, "y_train has no class 1, but the highest is 2000000000000000"),
        ({"y_train": np.zeros(30, int), "y_test": np.zeros(9, int)}, "has 1 class"),
        ({"class_names": np.array(["a", "b"])}, "class_names is <U1 of shape (2,): give 3 texts"),
        ({"class_names": np.arange(3)}, "class_names is int64"),
        ({"class_names": np.array([b"a", b"b", b"c"])}, "class_names is |S1"),
        ({"class_names": np.array(["a", "b", "a"])}, "class_names has 'a', which is empty, twice there or not"),
        ({"class_names": np.array(["a", "b", " "])}, "class_names has ' ', which is empty"),
        ({"class_names": np.array(["a", "b", "c\nd"])}, "class_names has 'c\\nd'"),
        ({"class_names": np.array(["a", "é", "e\u0301"])}, "class_names has 'é'"),
        ({"class_names": np.array(["a", "b", chr(0x10FFFF)])}, r"class_names has '\U0010ffff', which is empty, twice"),
        ({"class_names": np.full(3, 0x110000, np.uint32).view("U1")}, "class_names is damaged"),
        ({"x_train": numbers(30, 3, 6, 5) // 128}, "x_train has pixels from 0 to 1 only: give pixels from 0 to 255"),
        ({"x_test": numbers(9, 3, 6, 5) // 128}, "x_test has pixels from 0 to 1 only"),
        ({"x_train": np.full((30, 3, 6, 5), 9, np.int8)}, "x_train is int8, not uint8"),
        ({"x_train": numbers(30, 3, 6, 5) > 9}, "x_train is bool, not uint8"),
        ({"x_train": numbers(30, 3, 6, 5).astype(complex)}, "x_train is complex128"),
        ({"x_train": numbers(30, 3, 6, 0)}, "x_train has shape (30, 3, 6, 0)"),
        ({"y_train": np.arange(30) % 3 == 0}, "y_train is bool"),
        (
            {"y_train": (np.arange(30) % 3).astype(np.uint64) + np.uint64(2**63)},
            "y_train has the class 92233720368547758",
        ),
        ({"x_train": OBJECTS}, "cannot be read as npz"),
        ({"class_names": OBJECTS}, "cannot be read as npz"),
    ],
)
def test_wrong_arrays_are_refused(file, changed, message, capsys):
    path = file(**changed)
    line = refusal(load, path)
    assert message in line
    assert str(path) in line or "npz has 1 class" in line
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_npz_is_refused(tmp_path, file):
    content = file().read_bytes()
    path = tmp_path / "other"
    np.save(tmp_path / "a.npy", numbers(4, 4))
    contents = [b"", b"text", content[:100], content[:-30], pickle.dumps(Trap()), (tmp_path / "a.npy").read_bytes()]
    for wrong in contents:
        path.write_bytes(wrong)
        assert refusal(load, path).startswith(f"{path}: cannot be read as npz")
    assert "cannot be read as npz" in refusal(load, tmp_path / "none.npz")
    assert "cannot be read as npz" in refusal(load, tmp_path)


def test_a_changed_byte_is_refused(tmp_path, file):
    content = bytearray(file().read_bytes())
    content[400] ^= 1  # within the pixels of x_train
    (tmp_path / "a.npz").write_bytes(content)
    assert "cannot be read as npz" in refusal(load, tmp_path / "a.npz")


@pytest.mark.parametrize(("train", "validation"), [(28, 3), ("all", 29), ("all", 31), (31, 2)])
def test_a_split_that_the_training_part_cannot_give_is_refused(file, train, validation):
    assert "the training part of npz has 30 images" in refusal(load, file(), train, validation)


def test_all_of_the_training_part_can_be_used(file):
    assert len(load(file(), 26, 4).train) == len(load(file(), "all", 4).train) == 26
    assert load(file(), 26, 4).digest() == load(file(), "all", 4).digest()


def test_a_class_that_the_draw_misses_is_refused(file):
    labels = np.arange(30) % 2
    labels[7] = 2
    line = refusal(load, file(y_train=labels), 2, 27)
    assert "1 of 3 classes have no training sample, 2 first" in line
