"""Modules of a user's own, whose functions a configuration names."""

import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """A function that writes a module of the user's into the working directory and returns its name."""
    written: list[str] = []

    def write(text: str) -> str:
        # another name each time: what is imported stays so
        written.append(f"users_{next(_NUMBERS)}")
        (tmp_path / f"{written[-1]}.py").write_text(text)
        return written[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield write
    for name in written:
        sys.modules.pop(name, None)


_NUMBERS = count()
