"""Made-up and damaged files of a user: each is refused with one line, or read rightly, and soon.

What is accepted must be what it says it is: see ``sound_*``, one a kind of file. Damage that a checksum covers (npz,
PNG, Parquet) must never change a value. --hypothesis-show-statistics says how many were accepted and refused.
"""

import contextlib
import csv
import io
import math
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from bat.config import ImageFolder, Npz
from bat.data.sources import Source, open_source
from bat.errors import BatError
from bat.evaluation.attack import _read_images
from bat.scores.released import Released, read_released

SECONDS = 2


def fuzz(examples: int) -> Any:
    return settings(max_examples=examples, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def outcome(act: Callable[[], Any]) -> Any:
    """Return what ``act`` returns, or None where it refuses; neither may take long, and a refusal is one line."""
    start = time.monotonic()
    try:
        result = act()
    except BatError as error:
        result, text = None, str(error)
        assert len(text.splitlines()) == 1
        assert text.isprintable()
        assert len(text) < 5000
    assert time.monotonic() - start < SECONDS
    event("refused" if result is None else "accepted")
    return result


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return ``content`` with some bytes changed, cut out, repeated or put in."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        how = draw(st.sampled_from(["change", "change", "digit", "cut", "end", "repeat", "insert"]))
        if how == "change" and found:
            found[place] = draw(st.integers(0, 255))
        elif how == "digit" and found:
            found[place] = draw(st.sampled_from(b"0123456789.,;-\n"))
        elif how == "cut":
            del found[place : place + draw(st.integers(1, 40))]
        elif how == "end":
            del found[place:]
        elif how == "repeat":
            found[place:place] = found[place : place + draw(st.integers(1, 40))]
        elif how == "insert":
            found[place:place] = draw(st.binary(min_size=1, max_size=20))
    return bytes(found)


# -- npz


RANDOM = np.random.default_rng(0)
SOURCE = {
    "x_train": RANDOM.integers(0, 256, (12, 3, 4, 5), dtype=np.uint8),
    "y_train": np.arange(12) % 3,
    "x_test": RANDOM.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8),
    "y_test": np.arange(6) % 3,
    "class_names": np.array(["a", "b", "é"]),
}
ATTACKED = {"x": RANDOM.random((6, 1, 4, 5)), "y": np.arange(6) % 3}
SCORED = {
    "memorization": RANDOM.random(8),
    "influence": RANDOM.random((5, 8)),
    "labels": np.arange(8) % 3,
    "test_labels": np.arange(5) % 3,
}
C_SCORES = {"labels": np.arange(8) % 3, "scores": RANDOM.random(8)}
RELEASE: dict[str, Any] = {
    "tr_mem": RANDOM.random(8),
    "tr_labels": np.arange(8) % 2,
    "tt_labels": np.arange(4) % 2,
} | {
    name: array
    for label in range(2)
    for name, array in (
        (f"tr_classidx_{label}", np.arange(label, 8, 2)),
        (f"tt_classidx_{label}", np.arange(label, 4, 2)),
        (f"infl_matrix_class{label}", RANDOM.random((4, 2))),
    )
}


def read_source(path: str) -> tuple[Source, dict[str, Any]]:
    source = open_source(Npz(name="npz", path=path, train_samples="all", validation_samples=2, split_seed=0))
    assert source.test is not None
    train, test = source.train, source.test
    rows = (torch.arange(len(part.labels)) for part in (train, test))
    values = {"x_train": train.pixels(next(rows)), "y_train": train.labels, "x_test": test.pixels(next(rows))}
    return source, values | {"y_test": test.labels}


def sound_source(path: str) -> dict[str, Any] | None:
    read = outcome(lambda: read_source(path))
    if read is None:
        return None
    source, values = read
    for part in ("train", "test"):
        pixels, labels = values[f"x_{part}"], values[f"y_{part}"]
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 4
        assert pixels.shape[1] in (1, 3)
        assert pixels.numel()
        assert pixels.max() > 1
        assert len(pixels) == len(labels)
        assert labels.dtype == torch.int64
        assert labels.min() >= 0
        assert labels.max() < len(source.class_names)
    assert values["x_train"].shape[1:] == values["x_test"].shape[1:]
    assert values["y_train"].unique().tolist() == list(range(len(source.class_names)))
    assert len(set(source.class_names)) == len(source.class_names) <= len(values["y_train"])
    assert all(name.isprintable() for name in source.class_names)
    return {name: array.numpy() for name, array in values.items()} | {"class_names": np.array(source.class_names)}


def sound_images(path: str) -> dict[str, Any] | None:
    part = outcome(lambda: _read_images(path))
    if part is None:
        return None
    images = part.images()
    assert images.ndim == 4
    assert images.numel()
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert not images.isnan().any()
    assert part.labels.dtype == torch.int64
    assert part.labels.shape == (len(images),)
    assert part.labels.min() >= 0
    return {"x": part.pixels.numpy(), "y": part.labels.numpy()}


def sound_scores(path: str, layout: str) -> Released | None:
    released: Released | None = outcome(lambda: read_released(path, layout))
    if released is None:
        return None
    index, scores = released.index, released.memorization
    assert len(index) == len(scores) > 0
    assert index.dtype == np.int64
    assert index[0] >= 0
    assert (np.diff(index) > 0).all()
    assert scores.dtype == np.float64
    assert not np.isnan(scores).all()
    assert np.nanmin(scores) >= (-1e-5 if layout == "cscores" else -1.00001)
    assert np.nanmax(scores) <= 1.00001
    assert released.labels is None or (released.labels.shape == index.shape and released.labels.dtype == np.int64)
    for block in released.influence:
        assert block.values.shape == (len(block.train_index), len(block.test_index))
        assert not np.isinf(block.values).any()
        assert np.abs(np.nan_to_num(block.values)).max(initial=0) <= 1.00001
    return released


def sound_release(path: str, layout: str) -> dict[str, Any] | None:
    """As ``sound_scores``, but return arrays under the names that the file had."""
    released = sound_scores(path, layout)
    if released is None:
        return None
    if layout == "cscores":
        return {"scores": 1 - released.memorization, "labels": released.labels}
    if layout == "npz":
        found = {"memorization": released.memorization, "labels": released.labels, "test_labels": released.test_labels}
        return found | {"influence": released.influence[0].values.T if released.influence else None}
    found = {"tr_mem": released.memorization, "tr_labels": released.labels, "tt_labels": released.test_labels}
    for label, block in enumerate(released.influence):
        found |= {f"tr_classidx_{label}": block.train_index, f"tt_classidx_{label}": block.test_index}
        found[f"infl_matrix_class{label}"] = block.values
    return found


READERS: dict[str, tuple[dict[str, Any], Callable[[str], dict[str, Any] | None], set[str]]] = {
    # the arrays, the reader, and what a file may lack
    "source": (SOURCE, sound_source, {"class_names"}),
    "attack": (ATTACKED, sound_images, set()),
    "npz": (SCORED, lambda path: sound_release(path, "npz"), {"influence", "labels", "test_labels"}),
    "cscores": (C_SCORES, lambda path: sound_release(path, "cscores"), set()),
    "feldman_zhang": (
        RELEASE,
        lambda path: sound_release(path, "feldman_zhang"),
        {"tt_classidx_0", "tt_classidx_1"},
    ),
}


def saved(arrays: dict[str, Any], compressed: bool) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of fields that old versions of numpy cannot read
        (np.savez_compressed if compressed else np.savez)(stream, allow_pickle=True, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("kind", READERS)
@given(st.data(), st.booleans())
@fuzz(120)
def test_damage_of_an_npz_is_refused_or_changes_nothing(
    folder: Path, kind: str, data: st.DataObject, compressed: bool
) -> None:
    arrays, read, optional = READERS[kind]
    path = folder / f"{kind}.npz"
    path.write_bytes(data.draw(damaged(saved(arrays, compressed))))
    found = read(str(path))
    if found is None:
        return
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    for name, array in arrays.items():
        if name in names or name not in optional:  # a changed name is another array's
            np.testing.assert_allclose(found[name], array, rtol=1e-7) if array.dtype.kind == "f" else (
                np.testing.assert_array_equal(found[name], array)
            )


DTYPES = st.one_of(
    hnp.scalar_dtypes(),
    hnp.nested_dtypes(),
    st.sampled_from([np.dtype("O"), np.dtype("u1"), np.dtype("i8"), np.dtype(">i2"), np.dtype("f4"), np.dtype("f2")]),
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)


@pytest.mark.parametrize("kind", READERS)
@given(st.data())
@fuzz(120)
def test_an_npz_with_any_other_array_in_it(folder: Path, kind: str, data: st.DataObject) -> None:
    arrays, read, _ = READERS[kind]
    name = data.draw(st.sampled_from(sorted(arrays)))
    shape = data.draw(st.one_of(SHAPES, st.just(arrays[name].shape), st.just(arrays[name].shape[::-1])))
    dtype = data.draw(st.one_of(DTYPES, st.just(arrays[name].dtype)))
    other = np.zeros(shape, dtype) if dtype.hasobject else data.draw(hnp.arrays(dtype, shape))
    path = folder / f"{kind}.npz"
    path.write_bytes(saved(arrays | {name: other}, compressed=False))
    found = read(str(path))
    if found is not None and name != "class_names":
        assert not dtype.hasobject
        assert dtype.kind in "iuf"
        expected = (
            np.moveaxis(other, 3, 1) if other.ndim == 4 and other.shape[1] not in (1, 3) and kind == "source" else other
        )
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-30)


KEYS = st.sampled_from(["descr", "fortran_order", "shape", "other"])
VALUES = st.one_of(
    st.sampled_from(
        ["|u1", "<f8", ">i8", "|O", "<U3", "|S4", "<c16", "|b1", "<M8[s]", "|V5", "<f16", "<U0", "<f2", ",u1", "3u1"]
    ),
    st.booleans(),
    st.none(),
    st.integers(-3, 2**70),
    st.lists(st.integers(-2, 2**66), max_size=5).map(tuple),
    st.lists(st.integers(0, 6), max_size=5).map(tuple),
    st.lists(st.booleans(), max_size=3).map(tuple),
    st.just([("a", "|u1"), ("b", "<f4")]),
    st.text(max_size=6),
)


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """Return what could be an array: a header of any keys and values, or any text, and some data."""
    fields: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (12,)}
    fields |= draw(st.dictionaries(KEYS, VALUES, max_size=2))
    text = draw(st.one_of(st.just(repr(fields)), st.just(repr(fields)), st.text(max_size=30)))
    text = draw(st.sampled_from(["", "", "", " ", "-" * 3000, "(" * 400, "{"])) + text + "\n"
    encoded = text.encode("latin1", "replace")
    version = draw(st.sampled_from([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)]))
    length = struct.pack(
        "<H" if version == (1, 0) else "<I", len(encoded) + draw(st.sampled_from([0, 0, 0, 0, -1, 1, 60000])) & 0xFFFF
    )
    return b"\x93NUMPY" + bytes(version) + length + encoded + draw(st.binary(max_size=100))


@pytest.mark.parametrize("kind", READERS)
@given(st.data())
@fuzz(120)
def test_an_npz_with_made_up_headers(folder: Path, kind: str, data: st.DataObject) -> None:
    arrays, read, _ = READERS[kind]
    name = data.draw(st.sampled_from(sorted(arrays)))
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
    ) as archive:
        for other, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{other}.npy", data.draw(members()) if other == name else content.getvalue())
    path = folder / f"{kind}.npz"
    path.write_bytes(stream.getvalue())
    read(str(path))


# -- tables of scores


def rows_of(content: str, separator: str) -> dict[int, float]:
    """Return the scores of a CSV by Python's own reader."""
    lines = list(csv.DictReader(io.StringIO(content), delimiter=separator))
    return {
        int(row["train_index"]): float(row["memorization"]) if row["memorization"].strip() else math.nan
        for row in lines
    }


CELLS = st.one_of(
    st.floats(-1, 1).map(repr),
    st.floats(-1, 1).map(repr),
    st.floats().map(repr),
    st.integers(-1, 1).map(str),
    st.sampled_from(["", " ", "0,5", "NaN", "x", '"', "True", "1e-3", "-0.0", "١", "1_0", "0x1", "inf"]),
)


@given(
    st.dictionaries(st.one_of(st.integers(0, 99), st.integers(-2, 2**65)), CELLS, max_size=12),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
)
@fuzz(200)
def test_a_csv_is_refused_or_read_as_python_reads_it(
    folder: Path, cells: dict[int, str], separator: str, end: str, mark: str
) -> None:
    content = f"train_index{separator}memorization{end}" + "".join(
        f"{index}{separator}{cell}{end}" for index, cell in cells.items()
    )
    path = folder / "a.csv"
    path.write_bytes((mark + content).encode())
    released = sound_scores(str(path), "table")
    if released is not None:
        expected = dict(sorted(rows_of(content.replace("\r\n", "\n"), separator).items()))
        assert released.index.tolist() == list(expected)
        np.testing.assert_array_equal(released.memorization, list(expected.values()))


TABLE = "train_index,memorization,label\n" + "".join(f"{i},{i / 9},{i % 3}\n" for i in range(10))


@given(damaged(TABLE.encode()))
@fuzz(200)
def test_a_damaged_csv_is_refused_or_read_as_python_reads_it(folder: Path, content: bytes) -> None:
    path = folder / "a.csv"
    path.write_bytes(content)
    released = sound_scores(str(path), "table")
    if released is not None and b"\r" not in content and b'"' not in content:
        separator = next(mark for mark in ",;\t|" if "train_index" in content.decode().split("\n")[0].split(mark))
        with contextlib.suppress(ValueError):  # what Python takes for no number, say null
            assert released.index.tolist() == sorted(rows_of(content.decode(), separator))


TYPES = st.sampled_from(
    [
        pa.int64(),
        pa.uint64(),
        pa.int8(),
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.string(),
        pa.bool_(),
        pa.null(),
        pa.date32(),
        pa.decimal128(20, 3),
    ]
)


@given(st.data())
@fuzz(150)
def test_a_parquet_of_any_columns(folder: Path, data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 6))
    further = st.lists(st.sampled_from(["train_index", "label", "other", " label", "label.x"]), max_size=2)
    needed = data.draw(st.sampled_from([["train_index", "memorization"]] * 4 + [["memorization"], [" train_index"]]))
    names = data.draw(st.permutations(needed + data.draw(further)))
    columns = []
    for name in names:
        likely = pa.float64() if name == "memorization" else pa.int64()
        kind = data.draw(st.one_of(st.just(likely), st.just(likely), TYPES))
        usual = (
            list(range(rows))
            if name != "memorization"
            else [data.draw(st.floats(-1.5, 1.5, width=16)) for _ in range(rows)]
        )
        values = data.draw(st.sampled_from([usual, usual, [None] * rows, usual[::-1]]))
        try:
            array = pa.array(values).cast(kind, safe=False)
        except pa.ArrowException:
            array = pa.array(values)
        if data.draw(st.booleans()) and data.draw(st.booleans()):
            array = pa.array([[value] for value in array.to_pylist()], pa.list_(array.type))
        columns.append(array)
    pq.write_table(pa.table(columns, names=names), folder / "a.parquet")
    released = sound_scores(str(folder / "a.parquet"), "table")
    if released is not None:
        table = dict(zip((name.strip() for name in names), columns, strict=True))
        expected = dict(zip(table["train_index"].to_pylist(), table["memorization"].to_pylist(), strict=True))
        assert released.index.tolist() == sorted(expected)
        scores = [math.nan if expected[i] is None else expected[i] for i in sorted(expected)]
        np.testing.assert_array_equal(released.memorization, np.array(scores, float))


def parquet() -> bytes:
    stream = io.BytesIO()
    columns = {"train_index": np.arange(10), "memorization": np.arange(10) / 9, "label": np.arange(10) % 3}
    pq.write_table(pa.table(columns), stream, write_page_checksum=True)
    return stream.getvalue()


@given(damaged(parquet()))
@fuzz(200)
def test_a_damaged_parquet_is_refused_or_sound(folder: Path, content: bytes) -> None:
    (folder / "a.parquet").write_bytes(content)
    sound_scores(str(folder / "a.parquet"), "table")


# -- images


def files() -> Iterator[tuple[str, str, bytes]]:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    wide = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (12, 10), dtype=np.uint16))
    for name, picture, kind, more in (
        ("png", image, "PNG", {}),
        ("png of 16 bits", wide, "PNG", {}),
        ("palette", image.convert("P"), "PNG", {}),
        ("jpg", image, "JPEG", {}),
        ("jpg CMYK", image.convert("CMYK"), "JPEG", {}),
        ("gif", image, "GIF", {}),
        ("bmp", image, "BMP", {}),
        ("tif", image, "TIFF", {}),
        ("tif of 16 bits", wide, "TIFF", {}),
        ("tif packed", image, "TIFF", {"compression": "tiff_lzw"}),
        ("tif deflated", wide, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("webp", image, "WEBP", {"lossless": True}),
        ("ppm", image, "PPM", {}),
        ("pgm of 16 bits", wide, "PPM", {}),
    ):
        stream = io.BytesIO()
        picture.save(stream, kind, **more)
        yield name, {"JPEG": "jpg", "TIFF": "tif", "PPM": "ppm"}.get(kind, kind.lower()), stream.getvalue()


FILES = {name: (ending, content) for name, ending, content in files()}


def read_folder(path: Path, size: int | None) -> Any:
    plan = ImageFolder(
        name="image_folder",
        path=str(path),
        size=size,
        colour="rgb",
        train_samples="all",
        validation_samples=2,
        split_seed=0,
    )
    source = open_source(plan)
    return source, source.train.pixels(torch.arange(len(source.train.labels)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two classes, whose image train/a/0.* is to be replaced."""
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "test"):
        for kind in "ab":
            (root / part / kind).mkdir(parents=True)
            (root / part / kind / "1.png").write_bytes(FILES["png"][1])
    return root


@pytest.mark.parametrize("name", FILES)
@given(st.data(), st.sampled_from([None, 7]))
@fuzz(60)
def test_a_damaged_image_is_refused_or_read(images: Path, name: str, data: st.DataObject, size: int | None) -> None:
    ending, content = FILES[name]
    path = images / "train" / "a" / f"0.{ending}"
    path.write_bytes(content)
    _, whole = read_folder(images, size)
    path.write_bytes(data.draw(damaged(content)))
    try:
        read = outcome(lambda: read_folder(images, size))
    finally:
        path.unlink()
    if read is None:
        return
    source, pixels = read
    assert source.class_names == ("a", "b")
    assert source.train.labels.tolist() == [0, 0, 1]
    assert pixels.dtype == torch.uint8
    # without a size, the first image gives it to all: a damaged header must not change it
    assert pixels.shape == (3, 3, 12, 10) if size is None else (3, 3, 7, 7)
    assert torch.equal(pixels[1:], whole[1:])
    if "png" in name or name == "palette":
        assert torch.equal(pixels[0], whole[0])


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"BM",
            b"GIF89a",
            b"II*\0",
            b"MM\0*",
            b"P6 ",
            b"P5\n",
            b"\xff\xd8\xff",
            b"RIFF",
            b"%!PS",
        ]
    ),
)
@fuzz(200)
def test_any_bytes_are_refused_or_an_image(images: Path, content: bytes, start: bytes) -> None:
    path = images / "train" / "a" / "0.png"
    path.write_bytes(start + content)
    try:
        read = outcome(lambda: read_folder(images, 7))
    finally:
        path.unlink()
    if read is not None:
        assert read[1].shape == (3, 3, 7, 7)
