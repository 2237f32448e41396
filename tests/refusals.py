"""How a stage refuses what a user can fix."""

from pathlib import Path

import pytest

from bat.errors import BatError


def refusals(act, *arguments):
    """Call ``act``, which must raise BatError, and return its lines."""
    with pytest.raises(BatError) as caught:
        act(*arguments)
    return str(caught.value).splitlines()


def flip(path: Path, byte: int, bit: int) -> None:
    """Flip a bit of a file where it stands: to write thousands of files takes longer than to read them."""
    with path.open("r+b") as file:
        file.seek(byte)
        value = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


def refusal(act, *arguments):
    """Call ``act``, which must raise BatError with one line, and return that line."""
    (line,) = refusals(act, *arguments)
    return line
