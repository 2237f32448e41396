"""How a stage refuses what a user can fix."""

import pytest

from bat.errors import BatError


def refusals(act, *arguments):
    """Call ``act``, which must raise BatError, and return its lines."""
    with pytest.raises(BatError) as caught:
        act(*arguments)
    return str(caught.value).splitlines()


def refusal(act, *arguments):
    """Call ``act``, which must raise BatError with one line, and return that line."""
    (line,) = refusals(act, *arguments)
    return line
