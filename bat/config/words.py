"""What pydantic finds wrong, in plain words: the value, what is wrong with it, and what to do."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from bat.config.documents import short
from bat.config.strict import NAME

_PATTERNS = {NAME: "is no name: give letters a-z, digits, and single underscores between them, as in pgd_at_2"}
"""Of texts, what is to be said where one does not match; records add their own."""

_TYPES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_type": lambda _: "true or false, without quotes",
    "int_type": lambda _: "a whole number, without point and quotes",
    "float_type": lambda _: "a number, without quotes",
    "string_type": lambda _: "text, in quotes where it looks like a number",
    "tuple_type": lambda _: "a list, as in [1, 2]",
    "dict_type": lambda _: "a map of keys, KEY: VALUE",
    "dataclass_type": lambda _: "a map of keys, KEY: VALUE",
    "literal_error": lambda context: either(choices(context["expected"])),
    "union_tag_invalid": lambda context: either(choices(context["expected_tags"])),
}
"""What to give in place of a value of another type, or of one that is no choice."""

_LIMITS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda value, limits: f"{value} is under {plain(limits['ge'])}, the least: raise it",
    "less_than_equal": lambda value, limits: f"{value} is over {plain(limits['le'])}, the most: lower it",
    "less_than": lambda value, limits: f"{value} is not under {plain(limits['lt'])}: lower it",
    "finite_number": lambda value, _: f"{value} is not finite: give a finite number",
    "too_short": lambda _, limits: f"has {limits['actual_length']} entries: give at least {limits['min_length']}",
    "too_long": lambda _, limits: f"has {limits['actual_length']:,} entries: give at most {limits['max_length']:,}",
    "string_too_short": lambda _, limits: f"is empty: give at least {limits['min_length']} character",
    "string_too_long": lambda value, limits: f"{value} is too long: give at most {limits['max_length']:,} characters",
    "string_pattern_mismatch": lambda value, limits: f"{value} {_PATTERNS[limits['pattern']]}",
}
"""What is wrong with a value of the right type."""

_KEYS = {"unexpected_keyword_argument": "unknown key: remove it or mend its spelling"}
