import io
import mmap
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import refusal

from bat.io import journal as module
from bat.io.journal import Journal

STAMP = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def start():
    """Start journals, and close their files in the end."""
    journals = []

    def start(log=None, stage="train"):
        journals.append(Journal(stage, str(log) if log else None))
        return journals[-1]

    yield start
    for journal in journals:
        journal.close()


def lines(path):
    return [re.sub(STAMP, "", line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_go_to_the_file_with_time_and_stage_and_not_to_the_screen(start, tmp_path, capsys):
    journal = start(tmp_path / "log", "scores")
    journal.line("one")
    journal.failure("two: é")
    raw = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(STAMP, line) for line in raw)
    assert lines(tmp_path / "log") == ["scores: one", "scores: two: é"]
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_standard_error_without_a_file(start, capsys):
    journal = start()
    journal.line("one")
    journal.failure("two")
    out, err = capsys.readouterr()
    assert out == ""
    assert [re.sub(STAMP, "", line) for line in err.splitlines()] == ["train: one", "train: two"]


def test_what_no_encoding_holds_is_written_by_its_number(start, tmp_path):
    start(tmp_path / "log").line("a path: \udcff")
    assert lines(tmp_path / "log") == [r"train: a path: \udcff"]


def test_a_log_begins_anew(start, tmp_path):
    for text in ("old", "new"):
        start(tmp_path / "log").line(text)
    assert lines(tmp_path / "log") == ["train: new"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_is_one_line_and_one_only(start, capsys):
    journal = start("/dev/full")
    assert refusal(journal.line, "one").startswith("/dev/full: cannot be written ([Errno 28]")
    journal.failure("two")
    journal.close()
    assert capsys.readouterr() == ("", "")


def test_a_disk_that_is_full_only_when_the_log_is_closed(start, tmp_path):
    journal = start(tmp_path / "log")
    closed = journal._file.close

    class Full(io.StringIO):
        def close(self):
            raise OSError(28, "No space left on device")

    journal._file = Full()
    closed()
    assert "No space left on device" in refusal(journal.finish)


def test_the_traceback_of_a_failure_is_written_where_it_is_asked_for(start, tmp_path):
    journal = start(tmp_path / "log")
    try:
        raise ZeroDivisionError("by hand")
    except ZeroDivisionError:
        journal.failure("one")
        journal.failure("two", traceback=True)
    written = lines(tmp_path / "log")
    assert written[:3] == ["train: one", "train: two", "Traceback (most recent call last):"]
    assert written[-2:] == ["ZeroDivisionError: by hand", ""]


def test_two_journals_do_not_mix(start, tmp_path):
    first, second = start(tmp_path / "a"), start(tmp_path / "b")
    first.line("one")
    second.line("two")
    assert lines(tmp_path / "a") == ["train: one"]
    assert lines(tmp_path / "b") == ["train: two"]


@pytest.mark.parametrize("total", [1, 3, 10, 20, 40, 200])
def test_a_bar_passes_items_on_and_writes_a_line_at_tenths(start, tmp_path, total):
    items = [object() for _ in range(total)]
    assert list(start(tmp_path / "log").bar(iter(items), total, "models")) == items
    tenths = sorted({max(total * k // 10, 1) for k in range(1, 11)})
    assert lines(tmp_path / "log") == [f"train: {done} of {total} models" for done in tenths]


@pytest.mark.parametrize("total", [11, 15, 19, 25, 99, 105])
def test_a_bar_whose_total_is_no_multiple_of_ten_writes_about_ten_lines_and_the_last(start, tmp_path, total):
    list(start(tmp_path / "log").bar(range(total), total, "models"))
    written = lines(tmp_path / "log")
    assert written[-1] == f"train: {total} of {total} models"
    assert len(written) == len(set(written))
    assert len(written) <= 12


def test_a_bar_of_nothing_passes_nothing_on(start, tmp_path):
    assert list(start(tmp_path / "log").bar([], 0, "models")) == []
    assert lines(tmp_path / "log") == []


def test_a_bar_asks_for_an_item_only_when_it_is_wanted(start, tmp_path):
    asked = []
    bar = start(tmp_path / "log").bar((asked.append(k) or k for k in range(5)), 5, "models")
    assert asked == []
    assert [next(bar), next(bar)] == [0, 1]
    assert asked == [0, 1]
    # an item counts as done when the next is asked for
    assert lines(tmp_path / "log") == ["train: 1 of 5 models"]
    bar.close()


def test_a_bar_draws_nothing_on_what_is_no_terminal(start, tmp_path, capsys):
    list(start(tmp_path / "log").bar(range(20), 20, "models"))
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal(start, tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(start(tmp_path / "log").bar(iter(range(20)), 20, "models"))
    assert "train" in terminal.getvalue()
    assert "0/20" in terminal.getvalue()
    assert "models/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # cleared in the end


def test_an_exception_of_the_items_passes_through_a_bar(start, tmp_path):
    def items():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(start(tmp_path / "log").bar(items(), 2, "models"))


def test_work_is_the_cpu_time_inside_also_when_it_fails(start, tmp_path, monkeypatch):
    clock = iter([1.0, 3.5, 10.0, 11.25, 20.0])
    monkeypatch.setattr(module.time, "process_time", lambda: next(clock))
    journal = start(tmp_path / "log")
    with journal.work():
        pass
    with pytest.raises(ZeroDivisionError), journal.work():
        raise ZeroDivisionError
    journal.finish()
    (line,) = lines(tmp_path / "log")
    assert line.startswith("train: CPU time 20.00 s, of which work 3.75 s; largest memory ")


def test_the_largest_memory_is_that_of_the_process_in_megabytes(start, tmp_path):
    taken = bytearray(300_000_000)
    taken[:: mmap.PAGESIZE] = bytes(len(range(0, len(taken), mmap.PAGESIZE)))  # touched, so that it is there
    start(tmp_path / "log").finish()
    megabytes = int(re.search(r"largest memory (\d+) MB$", (tmp_path / "log").read_text())[1])
    assert 300 < megabytes < 20_000


@pytest.mark.parametrize(("platform", "megabytes"), [("linux", 3_072_000_000), ("darwin", 3_000_000)])
def test_the_largest_memory_is_in_the_unit_of_the_system(start, tmp_path, monkeypatch, platform, megabytes):
    monkeypatch.setattr(module, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 10**12))
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform=platform))
    start(tmp_path / "log").finish()
    assert lines(tmp_path / "log")[0].endswith(f"; largest memory {megabytes} MB")
