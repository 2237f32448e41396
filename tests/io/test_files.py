import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from refusals import refusal

import bat
from bat.errors import BatError
from bat.io.files import check_kind, check_seal, disk_errors, provenance, remove, replacing, seal, unsealed
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table
from bat.io.tensors import write_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("hal")
        raise RuntimeError("stopped")


def write_until_full(path):
    with replacing(path) as temporary:
        temporary.write_text("hal")
        raise OSError(28, "No space left on device")


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        # a rename is atomic within one file system alone
        assert temporary.parent.parent == path.parent
        assert temporary.suffix == ".txt"  # which chooses the format of figures
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(("write", "error"), [(write_half, RuntimeError), (write_until_full, BatError)])
def test_a_write_that_fails_leaves_what_was_there_and_no_temporary_file(tmp_path, write, error, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error):
        write(path)
    assert names(tmp_path) == (["a.txt"] if old else [])
    if old:
        assert path.read_text() == old


def test_a_full_disk_is_told_in_one_line_that_names_the_file(tmp_path):
    message = refusal(write_until_full, tmp_path / "a.txt")
    assert message.startswith(f"{tmp_path / 'a.txt'}: ")
    assert "No space left on device" in message


def test_an_old_file_is_replaced(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_signal_while_the_temporary_folder_is_removed_leaves_nothing(tmp_path, monkeypatch):
    rmtree, calls = shutil.rmtree, []

    def cut_short(folder, **options):
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        rmtree(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", cut_short)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, sys\nfrom bat.io.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n    temporary.write_text('hal')\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_text() == "old"
    [left] = [name for name in names(tmp_path) if name != "a.txt"]
    assert left.startswith(".a.txt.")
    others = [
        f".a.txt.{os.getppid()}.tmp",
        ".b.a.txt.999999999.tmp",
        ".a.txt.tmp",
        ".a.txt.x.tmp",
        "a.txt.999999999.tmp",
    ]
    for other in others:
        (tmp_path / other).mkdir()
    # the next writer removes what it left, and nothing else: not what a living process writes
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == sorted(["a.txt", *others])


def test_what_is_no_folder_of_a_writer_stops_none(tmp_path):
    path = tmp_path / "a.txt"
    (tmp_path / ".a.txt.999999999.tmp").write_text("a file")
    (tmp_path / ".a.txt.99999999999999999999.tmp").mkdir()  # more than a process can be
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == [".a.txt.999999999.tmp", "a.txt"]


def test_what_a_process_of_another_user_writes_is_left(tmp_path, monkeypatch):
    def denied(process, signal):
        assert signal == 0  # asks, and sends nothing
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    (tmp_path / ".a.txt.999999999.tmp").mkdir()
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == [".a.txt.999999999.tmp", "a.txt"]


def test_a_file_is_removed_with_what_its_writers_left(tmp_path):
    for name in (".a.txt.999999999.tmp", ".a.txt.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.txt").touch()
    for _ in range(2):  # also where it is not there
        remove(tmp_path / "a.txt")
        assert names(tmp_path) == [".a.txt.tmp"]


def test_a_checksum_is_of_all_bytes_but_its_own(tmp_path):
    path, mark = tmp_path / "a", b"sha256 of all other bytes: "
    for head, tail in ((b"", b""), (b"head", b"tail"), (b"head", mark + b"0" * 64)):
        found = hashlib.sha256(head + mark + tail).hexdigest()
        path.write_bytes(head + mark + found.encode() + tail)
        assert check_seal(path) == f"sha256 of all other bytes: {found}"
        path.write_bytes(head + mark + b"0" * 64 + tail)
        message = f"{path}: damaged: it differs from its checksum: remove it and run its stage again"
        assert refusal(check_seal, path) == message
        seal(path)
        assert check_seal(path) == f"sha256 of all other bytes: {found}"
    for content in (b"", b"text"):
        path.write_bytes(content)
        assert check_seal(path) is None
    zeros = f"sha256 of all other bytes: {'0' * 64}"
    assert json.loads(unsealed('{"kind": "x"}')) == {"kind": "x", "checksum": zeros}


def test_a_file_whose_metadata_is_not_as_written_is_refused():
    facts = {"kind": "model", "version": bat.__version__}
    assert check_kind("a", json.dumps(facts | {"checksum": "c", "x": 1}), "model", "c") == facts | {"x": 1}
    missing = "a: damaged: it has no checksum: remove it and run its stage again"
    for about, checksum in ((facts, "c"), (facts | {"checksum": "d"}, "c"), (facts | {"checksum": "c"}, None)):
        assert refusal(check_kind, "a", json.dumps(about), "model", checksum) == missing
    assert refusal(check_kind, "a", "{", "model", "c") == (
        "a: its metadata is damaged: remove it and run its stage again"
    )
    assert refusal(check_kind, "a", None, "model", None) == (
        "a: holds nothing of this package, not model: give another file"
    )
    assert refusal(check_kind, "a", json.dumps(facts), "data", "c") == "a: holds model, not data: give another file"
    older = json.dumps(facts | {"version": "0.0.1"})
    assert refusal(check_kind, "a", older, "model", "c") == (
        f"a: written by version 0.0.1 of bat, and this is {bat.__version__}: remove it and run its stage again"
    )


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_files_are_readable_as_the_umask_says(tmp_path, mask):
    def text(path):
        with replacing(path) as temporary:
            temporary.write_text("x")

    def tensors(path):
        write_tensors(path, {"x": torch.zeros(2)}, provenance("x"))

    def table(path):
        write_table(path, "flags", pd.DataFrame(columns=SCHEMAS["flags"].names), provenance("flags"))

    before = os.umask(mask)
    try:
        for write in (text, tensors, table):
            write(tmp_path / "a")
            assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask
    finally:
        os.umask(before)


def test_a_disk_that_is_full_only_when_the_file_is_synchronised(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    def write():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("x")

    assert "No space left on device" in refusal(write)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM])
def test_errors_of_the_disk_are_one_line_wherever_they_come_from(number):
    def act():
        with disk_errors():
            raise OSError(number, os.strerror(number), "some/file")

    assert refusal(act).startswith(f"some/file: {os.strerror(number)}: ")


def test_other_errors_keep_their_traceback():
    with pytest.raises(FileNotFoundError), disk_errors():
        raise FileNotFoundError(errno.ENOENT, "x")


def a_folder_of_this_name(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def a_file_as_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "out"


def a_folder_in_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "folder" / "out"


def a_name_too_long(tmp_path):
    return tmp_path / ("x" * 400)


def a_folder_without_the_right(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    return tmp_path / "out"


@pytest.mark.parametrize(
    "place",
    [a_folder_of_this_name, a_file_as_folder, a_folder_in_a_file, a_name_too_long, a_folder_without_the_right],
)
def test_a_place_that_cannot_be_written_is_refused_in_one_line(tmp_path, place):
    path = place(tmp_path)

    def write():
        with replacing(path) as temporary:
            temporary.write_text("new")

    assert refusal(write).startswith(f"{path}: cannot be written")
    tmp_path.chmod(0o700)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_provenance_does_not_depend_on_the_order_of_facts():
    assert provenance("a", x=1, y={"p": 1, "q": 2}) == provenance("a", y={"q": 2, "p": 1}, x=1)
    assert json.loads(provenance("a", x=1)) == {"kind": "a", "version": bat.__version__, "x": 1}
