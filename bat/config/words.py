"""What pydantic finds wrong with a value, in plain words: the value, what is wrong with it, and what to do."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from bat.config.documents import short
from bat.config.strict import INNER, LIBRARY, NAME, OWN

Context = Mapping[str, Any]

UNKNOWN = "unknown key: remove it or correct its spelling"

_LONGEST_WORD = 60

_PATTERNS = {
    NAME: "is no name: give a-z, 0-9 and single underscores between them, as in pgd_at_2",
    LIBRARY: "is no network of a library: give torchvision:NAME or timm:NAME, NAME of letters, digits, _ . or -",
    OWN: "is no function of a module: give module:function, as in my_parts:network",
    INNER: "is no inner problem: give cross_entropy, kl, module:function or null",
}
_WANTED: dict[str, Callable[[Context], str]] = {
    "bool_type": lambda _: "true or false without quotes",
    "int_type": lambda _: "a whole number without point or quotes",
    "float_type": lambda _: "a number without quotes (0.1, 8/255)",
    "string_type": lambda _: "text, in quotes where it looks like a number",
    "tuple_type": lambda _: "a list, as in [1, 2]",
    "dict_type": lambda _: "a map of keys, KEY: VALUE",
    "dataclass_type": lambda _: "a map of keys, KEY: VALUE",
    "literal_error": lambda context: either(_choices(context)),
    "union_tag_invalid": lambda context: either(_choices(context)),
}
"""What to give in place of a value of a wrong type, or of one that is none of several."""

_WRONG: dict[str, Callable[[str, Context], str]] = {
    "greater_than_equal": lambda value, limit: f"{value} is under {_number(limit['ge'])}, the least: raise it",
    "less_than_equal": lambda value, limit: f"{value} is over {_number(limit['le'])}, the most: lower it",
    "less_than": lambda value, limit: f"{value} is not under {_number(limit['lt'])}: lower it",
    "finite_number": lambda value, _: f"{value} is not finite: give a finite number",
    "too_short": lambda _, limit: f"has {limit['actual_length']} entries: give at least {limit['min_length']}",
    "too_long": lambda _, limit: f"has {limit['actual_length']:,} entries: give at most {limit['max_length']:,}",
    "string_too_short": lambda _, limit: f"is empty: give at least {limit['min_length']} character",
    "string_too_long": lambda value, limit: f"{value} is too long: give at most {limit['max_length']:,} characters",
    "string_pattern_mismatch": lambda value, limit: f"{value} {_PATTERNS[limit['pattern']]}",
    "json_invalid": lambda _, limit: f"not JSON ({limit['error']})",
    "value_error": lambda _, limit: str(limit["error"]),
    "missing": lambda *_: "missing key: add it",
    "union_tag_not_found": lambda *_: "missing key: add it",
    "unexpected_keyword_argument": lambda *_: UNKNOWN,
}
"""What is wrong with any other value."""

KINDS = _WANTED.keys() | _WRONG.keys()
"""pydantic's names of the problems that records can have: a test finds them in the records."""


def told(problems: Sequence[ErrorDetails]) -> str:
    """Return what is wrong with one value: of a value that may be one of several, it is none, each with its problem."""
    wrong = [problem for problem in problems if problem["type"] not in _WANTED]
    if wrong:
        kind, context = wrong[0]["type"], wrong[0].get("ctx", {})
        return _WRONG[kind](shown(wrong[0]["input"]), context) if kind in _WRONG else wrong[0]["msg"]
    value, contexts = problems[0]["input"], [problem.get("ctx", {}) for problem in problems]
    if "discriminator" in contexts[0]:
        value = value[key_of(contexts[0])]
    wanted = [_WANTED[problem["type"]](context) for problem, context in zip(problems, contexts, strict=True)]
    known = [choice for context in contexts for choice in _choices(context)]
    return f"{shown(value)} is wrong here: give {either(wanted)}{meant(value, known)}"


def meant(value: object, known: Iterable[str]) -> str:
    """Return a guess at which of some known words a misspelt one means, to stand at a message's end; or nothing.

    Of long texts none is made: it takes time in proportion to the square of their length.
    """
    close = get_close_matches(value, known) if isinstance(value, str) and len(value) <= _LONGEST_WORD else []
    return f"; did you mean {close[0]}?" if close else ""


def either(words: Sequence[str]) -> str:
    """Return a list in words: a, b or c."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def shown(value: object) -> str:
    """Return a value as a message shows it: not all of it where it is long."""
    if isinstance(value, list | tuple | dict):
        return "a map" if isinstance(value, dict) else "a list"
    return short(json.dumps(value, ensure_ascii=False))


def key_of(context: Context) -> str:
    """Return the key that says which of several records a map is."""
    return str(context["discriminator"]).strip("'")


def _choices(context: Context) -> list[str]:
    return re.findall(r"'([^']*)'", context.get("expected", context.get("expected_tags", "")))


def _number(limit: float) -> str:
    """Return a limit in full, as a config may hold it: 0.000001, not 1e-06."""
    return f"{Decimal(repr(limit)).normalize():,f}"
