"""The reader of npz files: what comes back is what was saved, and all else is one line."""

import io
import os
import socket
import struct
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import refusal

import bat.io.given
from bat.cli import main
from bat.config import Npz
from bat.data.dataset import load_source
from bat.evaluation.attack import _read_images
from bat.io.npz import array_shape, as_labels, open_npz, read_array
from bat.scores.released import read_released

X = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 5), dtype=np.uint8)
Y = np.arange(12) % 3


def read(path, name="x"):
    with open_npz(str(path)) as arrays:
        return read_array(arrays, name)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def header(text, data=b"", version=1):
    """Return an array's bytes with a header of one's own."""
    text = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


# -- what comes back


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [
        X,
        np.asfortranarray(X),
        X[:, :, ::-1],
        X.astype(">f4"),
        np.asfortranarray(X.astype(">i8")),
        X.astype("<u2"),
        np.array(["é", "日本"]).astype(">U2"),
        np.zeros((0, 3), np.float32),
        np.float64(2.5),
        np.arange(3 * 2**20, dtype=np.uint8),  # more than a read
        np.array([1 + 2j]),
        np.array([True, False]),
    ],
    ids=[
        "plain",
        "Fortran",
        "backwards",
        ">f4",
        ">i8 Fortran",
        "<u2",
        ">U",
        "empty",
        "0-d",
        "large",
        "complex",
        "bool",
    ],
)
def test_an_array_is_what_was_saved_in_the_order_of_this_machine(tmp_path, save, array):
    save(tmp_path / "a.npz", other=np.arange(3), x=array)
    found = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative
    assert found.dtype == np.asarray(array).dtype.newbyteorder("=")
    assert found.flags.writeable


def test_arrays_of_python_2_and_large_headers_are_read(tmp_path):
    old = header("{'descr': '<i4', 'fortran_order': False, 'shape': (2L,), }", struct.pack("<2i", 5, -6))
    second = header("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", struct.pack("<2i", 7, 8), version=2)
    empty = header("{'descr': '<U0', 'fortran_order': False, 'shape': (2,), }")
    path = zipped(tmp_path / "a.npz", [("x.npy", old), ("y", second), ("z", empty)])
    assert read(path).tolist() == [5, -6]
    assert read(path, "y").tolist() == [7, 8]
    assert read(path, "z").tolist() == ["", ""]


def test_a_home_folder_is_found_and_a_user_who_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    assert read("~/a.npz").tolist() == X.tolist()
    assert _read_images("~/a.npz").labels.tolist() == Y.tolist()
    assert refusal(read, "~nosuchuser/a.npz") == (
        "~nosuchuser/a.npz: no such user: give the whole path, or ./~nosuchuser/a.npz where a name begins with ~"
    )


# -- what is refused


class Trap:
    def __reduce__(self):
        return print, ("unpickled",)


LIST = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy(np.array([Trap()], dtype=object)), "(objects, which would have to be unpickled: save plain numbers): "),
        (npy(np.zeros(2, dtype=[("a", "u1"), ("b", "f4")])), "(records: save an array for each field): "),
        (npy(np.zeros(2, dtype=[("a", object)])), "unpickled"),
        (npy(np.zeros(2, dtype="V3")), "(records: save an array for each field): "),
        (header(LIST % "(4,)", b"123"), "(its header says 4 bytes, but there are 3): "),
        (header(LIST % "(4,)", b"12345"), "(its header says 4 bytes, but there are 5): "),
        (header(LIST % "(10**9,)", b"12345"), "malformed node"),
        (header(LIST % "(1000000000000,)", b"12345"), "(its header says 1000000000000 bytes, but there are 5): "),
        (header(LIST % "(-2, -2)", b"1234"), "(the shape (-2, -2)): "),
        (header(LIST % "(True, 4)", b"1234"), "(the shape (True, 4)): "),
        (header(LIST % "4", b"1234"), "shape is not valid"),
        (header("{'descr': '|u1'}", b"1234"), "keys"),
        (header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (4,)}", b"1234"), "descr"),
        (header("(" * 300, b"1234"), "cannot be read as npz ("),
        (header("-" * 5000 + "1", b"1234"), "cannot be read as npz ("),
        (header("{'''", b"1234"), "cannot be read as npz ("),
        (header("{'descr': (), 'fortran_order': False, 'shape': (4,)}", b"1234"), "index out of range"),
        (header(LIST % "(4,)", b"1234", version=3), "(format 3.0, which is for records only): "),
        (header(LIST % "(4,)", b"1234")[:30], "cannot be read as npz ("),
        (b"", "cannot be read as npz ("),
        (b"no array at all", "cannot be read as npz ("),
    ],
)
def test_an_array_that_is_not_as_its_header_says_is_refused(tmp_path, member, message, capsys):
    path = zipped(tmp_path / "a.npz", [("x.npy", member)])
    line = refusal(read, path)
    assert line.startswith(f"{path}: array x cannot be read as npz (")
    assert line.endswith("): give a file of numpy.savez")
    assert message in line
    assert capsys.readouterr().out == ""


def with_flag(content, bit):
    """Set a flag of the first member, in its own header and in the directory."""
    content = bytearray(content)
    content[6] |= bit
    content[content.find(b"PK\x01\x02") + 8] |= bit
    return bytes(content)


def with_method(content, method):
    content = bytearray(content)
    content[8] = method
    content[content.find(b"PK\x01\x02") + 10] = method
    return bytes(content)


def test_files_that_are_no_plain_npz_are_refused(tmp_path):
    whole = zipped(tmp_path / "whole.npz", [("x.npy", npy(X))]).read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 1
    packed = zipped(tmp_path / "packed.npz", [("x.npy", npy(X))], zipfile.ZIP_BZIP2).read_bytes()
    path = tmp_path / "a.npz"
    for content, message in (
        (b"", "(empty)"),
        (npy(X), "(a single array, .npy)"),
        (b"text", "(File is not a zip file)"),
        (b"\x80\x04\x95", "(File is not a zip file)"),
        (whole[:-30], "(File is not a zip file)"),
        (whole[len(whole) // 2 :], "cannot be read as npz ("),
        (bytes(damaged), "Bad CRC-32"),
        (with_flag(whole, 1), "array x cannot be read as npz (encrypted)"),
        (packed, "compressed by another method than deflate"),
        (with_method(whole, 99), "compressed by another method than deflate"),
        (with_method(whole, 8), "cannot be read as npz ("),
    ):
        path.write_bytes(content)
        line = refusal(read, path)
        assert line.startswith(f"{path}: ")
        assert line.endswith("): give a file of numpy.savez")
        assert message in line, (message, line)


def test_an_array_that_ends_before_its_size_is_refused(tmp_path):
    path = zipped(tmp_path / "a.npz", [("x.npy", header(LIST % "(9,)", b"1234"))], zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 24] += 5  # in the directory, the size of what was deflated
    path.write_bytes(content)
    assert refusal(read, path) == f"{path}: array x cannot be read as npz (cut off): give a file of numpy.savez"


@pytest.mark.parametrize("second", ["x.npy", "x"])
def test_two_arrays_of_one_name_are_refused(tmp_path, second):
    with pytest.warns(UserWarning, match="Duplicate") if second == "x.npy" else pytest.MonkeyPatch.context():
        path = zipped(tmp_path / "a.npz", [("x.npy", npy(X)), (second, npy(X))])
    assert "two arrays named x" in refusal(read, path)


def test_a_missing_array_is_named_with_those_there_in_one_line(tmp_path):
    eight = zipped(tmp_path / "c.npz", [(f"{n}{'a' * 50}", npy(X)) for n in range(8)])
    names = ", ".join(f"{n}{'a' * 39}" for n in range(8))
    assert refusal(read, eight) == f"{eight}: has no array x (it has {names}): add it"
    path = zipped(tmp_path / "a.npz", [(f"{n}\n\x1b[31m.npy", npy(X)) for n in range(10)])
    line = refusal(read, path)
    assert "has no array x (it has 0\\n\\x1b[31m, 1\\n" in line
    assert "and 2 more): add it" in line
    assert "(it has none)" in refusal(read, zipped(tmp_path / "b.npz", []))


def test_a_shape_is_told_without_reading_the_array(tmp_path):
    path = zipped(tmp_path / "a.npz", [("x.npy", npy(X)), ("y.npy", b"text")])
    with open_npz(path) as arrays:
        assert array_shape(arrays, "x") == (12, 1, 4, 5)
        assert refusal(array_shape, arrays, "z") == f"{path}: has no array z (it has x, y): add it"
        line = refusal(array_shape, arrays, "y")
        assert line.startswith(f"{path}: array y cannot be read as npz (EOF: reading magic string")
        assert line.endswith("): give a file of numpy.savez")
    with open_npz(zipped(tmp_path / "b.npz", [])) as arrays:
        assert "(it has none)" in refusal(array_shape, arrays, "x")


@pytest.mark.parametrize("free", [239, 240])
def test_an_array_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, free):
    np.savez(tmp_path / "a.npz", x=X)
    monkeypatch.setattr(bat.io.given, "free_memory", lambda: free)
    if free == X.nbytes:
        assert read(tmp_path / "a.npz").tolist() == X.tolist()
    else:
        assert refusal(read, tmp_path / "a.npz") == (
            f"{tmp_path / 'a.npz'}: array x would take 0.0 GiB of memory, and 0.0 GiB are free: give fewer samples, or "
            "a machine with more"
        )


def test_a_bomb_takes_no_memory(tmp_path):
    size = 1 << 28
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(header(LIST % "(4,)"))
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    assert f"its header says 4 bytes, but there are {size}" in refusal(read, tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_memory_is_counted_in_gib(monkeypatch):
    monkeypatch.setattr(bat.io.given, "free_memory", lambda: 3 << 29)
    bat.io.given.check_memory(3 << 29, "x", "y")
    assert refusal(bat.io.given.check_memory, 10**18, "a data set", "give fewer samples") == (
        "a data set would take 931322574.6 GiB of memory, and 1.5 GiB are free: give fewer samples"
    )


def test_what_is_of_no_known_kind_is_no_file():
    with pytest.raises(ValueError, match=r"^something else, not a file$"):
        bat.io.given.status(SimpleNamespace(stat=lambda: SimpleNamespace(st_mode=0)))


def test_free_memory_is_some_of_what_the_machine_has(monkeypatch):
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 20 < bat.io.given.free_memory() <= pages

    def tells(text):
        monkeypatch.setattr(Path, "read_text", lambda path, **_: text if str(path) == "/proc/meminfo" else None)
        return bat.io.given.free_memory()

    assert tells("MemTotal:  9 kB\nMemAvailable:   3 kB\nSwapFree: 5 kB\n") == 3 * 1024
    assert tells("MemTotal:  9 kB\n") == pages  # a kernel that makes no estimate

    def denied(*_, **__):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", denied)
    assert bat.io.given.free_memory() == pages


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\n  and two "), "one and two"),
        (ValueError(), "ValueError"),
        (OSError(28, "No space left on device", "a file"), "No space left on device"),
        (OSError("a\nb"), "a b"),
        (ValueError("a" * 200), "a" * 200),
        (ValueError("a" * 201), "a" * 200 + "..."),
    ],
)
def test_a_reason_is_one_short_line(error, said):
    assert bat.io.given.reason(error) == said


def test_the_workflow_watches_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("images/train", "images/test", "half/train"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a.npz").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, names in (
        ("images", ["images/train", "images/test"]),
        ("half", ["half/train"]),
        ("a.npz", ["a.npz"]),
        ("pipe", []),
        ("none", []),
        ("x" * 300, []),
        ("a\0b", []),
    ):
        assert bat.io.given.watched(str(tmp_path / path)) == [str(tmp_path / name) for name in names]
    assert bat.io.given.watched("~/a.npz") == [str(tmp_path / "a.npz")]
    assert bat.io.given.watched("~nosuchuser/a.npz") == []


READERS = {
    "npz": lambda path: load_source(
        Npz(name="npz", path=path, train_samples="all", validation_samples=2, split_seed=0), subsample=1.0
    ),
    "scores npz": lambda path: read_released(path, "npz"),
    "cscores": lambda path: read_released(path, "cscores"),
    "feldman_zhang": lambda path: read_released(path, "feldman_zhang"),
    "table": lambda path: read_released(path, "table"),
    "attack": _read_images,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)  # sockets have short names
    ending = ".csv"
    (tmp_path / f"folder{ending}").mkdir()
    os.mkfifo(f"pipe{ending}")
    (tmp_path / f"link{ending}").symlink_to("nothing")
    (tmp_path / f"loop{ending}").symlink_to(f"loop{ending}")
    (tmp_path / f"device{ending}").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"socket{ending}")
        for name, message in (
            ("folder", "a folder, not a file"),
            ("pipe", "a named pipe, not a file"),
            ("socket", "a socket, not a file"),
            ("device", "a device, not a file"),
            ("link", "No such file or directory"),
            ("loop", "Too many levels of symbolic links"),
            ("none", "No such file or directory"),
            ("x" * 300, "File name too long"),
            ("zero\0byte", "embedded null byte"),
            ("~nosuchuser/a", "no such user"),
        ):
            if reader is READERS["npz"] and message in ("File name too long", "embedded null byte", "no such user"):
                continue  # no record of the config holds such a path
            line = refusal(reader, f"{name}{ending}")
            assert message in line
            assert str(f"{name}{ending}").replace("\0", "\\x00") in line


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    np.savez(tmp_path / "a.npz", x=X)
    monkeypatch.setattr(Path, "open", denied)  # root may read every file
    assert "cannot be read as npz (Permission denied)" in refusal(read, tmp_path / "a.npz")


# -- labels, and the images of bat attack


def test_labels_are_integers_from_0():
    for kind in ("u1", "i2", ">i4", "u8"):
        labels = as_labels(Y.astype(kind), 12, "y")
        assert labels.tolist() == Y.tolist()
        assert labels.dtype == np.int64
    assert refusal(as_labels, Y.astype(float), 12, "y") == (
        "y is float64 of shape (12,): give integers of shape (12,), one class per sample "
        "(y.astype(numpy.int64) makes them of whole numbers)"
    )
    for wrong, message in (
        (Y == 1, "y is bool"),
        (Y[:, None], "y is int64 of shape (12, 1)"),
        (Y[:11], "y is int64 of shape (11,)"),
        (Y - 1, "y has the class -1"),
        (Y.astype(np.uint64) + np.uint64(2**63 - 1), "y has the class 9223372036854775809"),
    ):
        assert message in refusal(as_labels, wrong, 12, "y")
    assert as_labels(Y[:0], 0, "y").tolist() == []
    assert as_labels(np.array([2**63 - 1], np.uint64), 1, "y").tolist() == [2**63 - 1]


@pytest.mark.parametrize(
    ("x", "pixel_max", "expected"),
    [
        (X, 255, X),
        (np.asfortranarray(X), 255, X),
        ((X / 255).astype(">f4"), 1, (X / 255).astype(np.float32)),
        ((X / 255).astype(np.float16), 1, (X / 255).astype(np.float16).astype(np.float32)),
        ((X / 255).astype(np.longdouble), 1, (X / 255).astype(np.float32)),
    ],
    ids=["uint8", "Fortran", ">f4", "f2", "longdouble"],
)
def test_images_to_attack_keep_their_pixels(tmp_path, x, pixel_max, expected):
    np.savez(tmp_path / "a.npz", x=x, y=Y.astype(">i4"))
    part = _read_images(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(part.pixels.numpy(), expected)
    assert part.pixels.is_contiguous()
    assert part.labels.tolist() == Y.tolist()
    assert part.index.tolist() == list(range(12))
    assert part.pixel_max == pixel_max


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:0], Y[:0], "all at least 1"),
        (X[:, :, :0], Y, "all at least 1"),
        (X[0], Y, "need (n, c, h, w)"),
        (X, Y.astype(float), "need (n, c, h, w) and (n,) integers"),
        (X, Y - 1, "y has the class -1"),
        (X > 100, Y, "x is bool from False to True: need uint8, or floats in [0, 1]"),
        (X.astype(int), Y, "x is int64"),
        (X.astype(complex), Y, "x is complex128: need"),
        (X.astype(str), Y, "x is <U3: need"),
        (X.astype("datetime64[s]"), Y, "x is datetime64[s]: need"),
        (X / 254, Y, "to 1.0"),
        (X / 255 - 1e-9, Y, "x is float64 from -1e-09"),
        (np.where(X.max() == X, np.nan, X / 255), Y, "from nan to nan"),
        (np.where(X.max() == X, np.inf, X / 255), Y, "to inf"),
        ((X > 100).astype(np.uint8), Y, "x is uint8 from 0 to 1: give 0 to 255"),
    ],
)
def test_images_that_cannot_be_attacked_are_refused(tmp_path, x, y, message):
    np.savez(tmp_path / "a.npz", x=x, y=y)
    assert message in refusal(_read_images, str(tmp_path / "a.npz"))


def test_the_command_line_prints_one_line_whatever_a_path_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ["--model", "none:none", "--norm", "linf", "--eps", "0.1", "--out", "o.parquet", "--flags", "f.parquet"]
    with pytest.raises(SystemExit) as stopped:
        main(["attack", "--data", "two\nlines\udcff.npz", *model, "--log", "log"])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert r"two\nlines\udcff.npz: cannot be read as npz (No such file" in lines[0]
