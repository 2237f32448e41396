"""What is checked of a file's name before anything is written to it."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal

from bat.io.outputs import check_output, check_text


def test_a_name_of_the_format_passes_and_leaves_nothing(tmp_path: Path) -> None:
    check_output("out", tmp_path / "a" / "b" / "x.PNG", (".pdf", ".png"))
    check_output("log", tmp_path / "whatever")
    (tmp_path / "there.png").write_text("x")
    check_output("out", tmp_path / "there.png", (".png",))
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    for endings in (None, (".png",)):
        assert refusal(check_output, "out", tmp_path, endings) == (
            f"--out {tmp_path}: is a folder: give the name of a file"
        )


def test_an_ending_of_another_format_is_refused_with_those_that_are_right(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert refusal(check_output, "out", path, (".pdf", ".png")) == (
        f"--out {path}: give a name that ends in .pdf or .png, as its format is"
    )


def test_a_name_that_is_no_text_is_refused_but_of_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending = "rename it, or set a locale of UTF-8, as LC_ALL=C.UTF-8"
    place = os.fsencode(tmp_path) + b"/\xff"
    path = Path(os.fsdecode(place)) / "x.png"
    message = refusal(check_output, "out", path, (".png",))
    shown = str(path).replace("\udcff", "\\udcff")
    assert message == f"--out {shown}: the name of the file or of its folder is no text in UTF-8: {ending}"
    check_output("log", path)
    # of the folder that a relative name is in
    Path(os.fsdecode(place)).mkdir()
    monkeypatch.chdir(place)
    assert refusal(check_output, "out", Path("x.png"), (".png",)) == (
        f"--out x.png: the name of the file or of its folder is no text in UTF-8: {ending}"
    )


def test_text_is_asked_of_the_name_that_is_given() -> None:
    check_text("data", Path("x"), "é")
    assert refusal(check_text, "data", Path("x"), "\udcff").startswith("--data x: the name of the file ")


def test_a_name_that_is_too_long_with_what_is_kept_beside_it_is_refused(tmp_path: Path) -> None:
    # .NAME.parts.00000000.tmp, where a file system takes 255 bytes
    beside = len("..parts.12345678.tmp")
    check_output("log", tmp_path / ("x" * (255 - beside)))
    path = tmp_path / ("x" * (256 - beside))
    assert (
        refusal(check_output, "log", path)
        == f"--log {path}: cannot be written (File name too long): choose another log"
    )
    path = path.with_name(f"{path.name[:-4]}.png")
    assert refusal(check_output, "out", path, (".png",)) == (
        f"--out {path}: cannot be written (File name too long): choose another folder or name"
    )


def test_the_nearest_folder_that_is_there_must_take_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def file(**given: Any) -> Any:
        asked.append(given)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", file)
    path = tmp_path / "a" / "b" / "x.png"
    assert refusal(check_output, "out", path, (".png",)) == (
        f"--out {path}: cannot be written (Permission denied): choose another folder or name"
    )
    monkeypatch.chdir(tmp_path)
    assert (
        refusal(check_output, "log", Path("x")) == "--log x: cannot be written (Permission denied): choose another log"
    )
    assert asked == [{"dir": tmp_path}, {"dir": tmp_path}]
