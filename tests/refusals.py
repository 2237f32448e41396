"""How a stage refuses what a user can mend."""

import pytest

from bat.errors import BatError


def refusal(act, *arguments):
    """Call ``act``, which must raise BatError with one line, and return that line."""
    with pytest.raises(BatError) as caught:
        act(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message
