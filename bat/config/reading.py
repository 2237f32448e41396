"""Configuration files and JSON to records, and the records' schema."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bat.config.experiment import Config
from bat.errors import BatError

T = TypeVar("T")


def parse(record: type[T], value: Mapping[str, Any] | str, where: str) -> T:
    """Build ``record`` from a mapping or a JSON text.

    Raises:
        BatError: naming ``where`` and the place of the first key that is unknown, missing or wrong.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value)
        plain = json.loads(text)
    except (TypeError, ValueError) as error:
        raise BatError(f"{where}: not JSON ({error})") from error
    try:
        return TypeAdapter(record).validate_json(text)
    except ValidationError as error:
        raise BatError(f"{where}: {_first_line(error, plain)}") from error


def load(path: str, *more: str) -> Config:
    """Read and check a complete configuration file (YAML), changed by the files ``more`` as Snakemake does."""
    value = _read(path)
    for changes in more:
        value = merged(value, _read(changes))
    return parse(Config, value, ", ".join((path, *more)))


def merged(value: Any, changes: Any) -> Any:
    """Return ``value`` with ``changes``: maps are merged, key by key and to all depths; anything else is replaced."""
    if not isinstance(value, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**value, **{key: merged(value.get(key), changed) for key, changed in changes.items()}}


def _read(path: str) -> Any:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BatError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(Config).json_schema()


def _first_line(error: ValidationError, value: Any) -> str:
    problems = error.errors()
    unknown = "unexpected_keyword_argument"
    # a misspelt key is missing, too: its wrong spelling says more
    first = next((problem for problem in problems if problem["type"] == unknown), problems[0])
    place = _place(first["loc"], value, missing=first["type"] == "missing")
    message = first["msg"].removeprefix("Value error, ")
    hints = {
        unknown: "unknown key: remove it or mend its spelling",
        "missing": "missing key: add it",
    }
    text = hints.get(first["type"], message[:1].lower() + message[1:])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place + ': ' if place else ''}{text}{more}"


def _place(location: tuple[int | str, ...], value: Any, *, missing: bool) -> str:
    """Join a location, without the tags that pydantic puts in for the members of a union.

    What is not in ``value`` is a tag, unless it is the last part and ``missing``.
    """
    path = []
    for position, part in enumerate(location):
        known = part in value if isinstance(value, dict) else isinstance(part, int)
        if known:
            value = value[part]
        if known or (missing and position == len(location) - 1):
            path.append(str(part))
    return ".".join(path)
