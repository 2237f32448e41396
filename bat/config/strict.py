"""What all records have in common."""

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


LARGEST = 2**63 - 1  # what a table holds


NAME = r"^[a-z0-9]+(_[a-z0-9]+)*$"

LIBRARY = r"^(torchvision|timm):[A-Za-z0-9_.-]+$"
