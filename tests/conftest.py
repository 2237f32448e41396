"""Fixtures of several folders: an experiment through each stage, and stages that end as if they had been killed."""

import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from chain import make
from hypothesis import settings

from bat.training.checkpoints import Checkpoint

# a slow or busy machine is no failure
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that take minutes, so that no process works alone in the end."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of each stage, which no test may change."""
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    return folder


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


@pytest.fixture
def unfinished(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let stages keep what they remove when they are done, as if they had been killed just before.

    Checkpoints are written after each epoch.
    """
    rmtree, keep = shutil.rmtree, Checkpoint.keep

    def unless_parts(folder: Path, ignore_errors: bool = False) -> None:
        if not str(folder).endswith(".parts"):
            rmtree(folder, ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", unless_parts)
        patched.setattr(Checkpoint, "remove", lambda self: None)
        patched.setattr(Checkpoint, "keep", lambda self, progress, minutes: keep(self, progress, 0))
        yield patched
