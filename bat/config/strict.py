"""What all records have in common."""

from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


LARGEST = 2**63 - 1  # what a table holds


NAME = r"^[a-z0-9]+(_[a-z0-9]+)*$"

OWN = r"^\w+(\.\w+)*:\w+$"
"""A function of the user's: module:function."""

INNER = rf"^(cross_entropy|kl)$|{OWN}"

LIBRARY = r"^(torchvision|timm):[A-Za-z0-9_.-]+$"


def names_own(key: str) -> Callable[[Any], str]:
    """Return what says of a map whether the value of ``key`` names a function of the user's: "own", or "known"."""

    def tag(value: Any) -> str:
        named = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return "own" if isinstance(named, str) and ":" in named else "known"

    return tag
