"""Configuration files and JSON to records, and the records' schema."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bat.config.data import ImageFolder, Npz
from bat.config.documents import read_document, read_value, short
from bat.config.experiment import Config
from bat.config.scores import FileScores
from bat.config.words import key_of, meant, told
from bat.errors import BatError
from bat.io.given import located, reason, status

_T = TypeVar("_T")
Location = tuple[int | str, ...]


def parse(record: type[_T], value: Mapping[str, Any] | str, where: str) -> _T:
    """Build ``record`` from a mapping or a JSON text.

    Raises:
        BatError: naming ``where`` and the place of the first key that is unknown, missing, wrong or there twice.
    """
    return _built(record, value, lambda _: where)


def load(path: str, *more: str, settings: Sequence[str] = ()) -> Config:
    """Read and check a complete configuration file (YAML).

    The files ``more`` and then ``settings``, each KEY=VALUE with a value in YAML, change it as Snakemake's --configfile
    and --config do.

    Raises:
        BatError: naming the file or setting, and the place of what is wrong in it.
    """
    sources = [(each, read_document(each)) for each in (path, *more)]
    sources += [(f"--config {short(text)}", _setting(text)) for text in settings]
    value = reduce(merged, [document for _, document in sources])
    return _built(Config, value, lambda location: _source(sources, location))


def merged(value: Any, changes: Any) -> Any:
    """Return ``value`` with ``changes``: maps are merged, key by key and to all depths; anything else is replaced."""
    if not isinstance(value, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**value, **{key: merged(value.get(key), changed) for key, changed in changes.items()}}


def check_files(config: Config) -> None:
    """Check that the files and folders of the user's are there.

    Raises:
        BatError: one is not, or is of another kind; names its key.
    """
    for key, record, advice in (
        ("scores.path", config.scores, "give a file of scores, or source: subsets"),
        ("data.path", config.data, "give the data set's path"),
    ):
        if not isinstance(record, FileScores | Npz | ImageFolder):
            continue
        try:
            path = located(record.path)
            if not isinstance(record, ImageFolder):
                status(path)
            elif not path.is_dir():
                raise ValueError("a file, not a folder" if path.exists() else "no such folder")
        except (OSError, ValueError) as error:
            raise BatError(f"{key}: {record.path}: {reason(error)}: {advice}") from error
    if isinstance(config.scores, FileScores):
        own = located(f"results/{config.experiment}").resolve()
        if located(config.scores.path).resolve().is_relative_to(own):
            raise BatError(
                f"scores.path: {config.scores.path} is written by this experiment itself: copy it, or change experiment"
            )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(Config).json_schema()


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BatError(f"--config {short(text)}: give KEY=VALUE")
    return {key: read_value(value, f"--config {short(text)}")}


def _source(sources: Sequence[tuple[str, dict[str, Any]]], location: Location) -> str:
    """Return the last of ``sources`` that speaks of a place, or of what the place is in; all where none does."""
    for length in range(len(location), 0, -1):
        speaking = [name for name, value in sources if _known(value, location[:length])]
        if speaking:
            return speaking[-1]
    return ", ".join(name for name, _ in sources)


def _known(value: Any, location: Location) -> bool:
    for part in location:
        if not _has(value, part):
            return False
        value = value[part]
    return True


def _has(value: Any, part: int | str) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _built(record: type[_T], value: Mapping[str, Any] | str, source: Callable[[Location], str]) -> _T:
    try:
        text = value if isinstance(value, str) else json.dumps(value)
        plain = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise BatError(f"{source(())}: nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise BatError(f"{source(())}: not JSON ({error})") from error
    try:
        return TypeAdapter(record).validate_json(text)
    except ValidationError as error:
        location, message = _first_problem(error, plain)
        place = ".".join(short(part) for part in location)
        raise BatError(f"{source(location)}: {place + ': ' if place else ''}{message}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{short(key)} stands there twice: keep one")
        found[key] = value
    return found


def _first_problem(error: ValidationError, value: Any) -> tuple[Location, str]:
    """Return the place and the text of the problem that says most."""
    found: dict[Location, list[ErrorDetails]] = {}
    for problem in error.errors():
        found.setdefault(_place(problem, value), []).append(problem)
    # a misspelt key is missing, too: its wrong spelling says more
    unknown = [place for place, problems in found.items() if problems[0]["type"] == "unexpected_keyword_argument"]
    first = unknown[0] if unknown else next(iter(found))
    message = told(found[first])
    if unknown:
        message += meant(first[-1], _others(first, value, found))
    elif first and isinstance(first[-1], int):
        message = message.replace("missing key", "missing entry")
    # a list is also said to be too short where an entry is wrong
    more = sum(not any(place == each[: len(place)] for each in found if each != place) for place in found) - 1
    return first, message + (f" (and {more} more)" if more else "")


def _others(place: Location, value: Any, found: Mapping[Location, Sequence[ErrorDetails]]) -> Iterator[str]:
    """Yield the keys beside an unknown one, those that are missing included."""
    *parents, _ = place
    for part in parents:
        value = value[part]
    unknown = {place for place, problems in found.items() if problems[0]["type"] == "unexpected_keyword_argument"}
    yield from (key for key in value if (*parents, key) not in unknown)
    yield from (str(each[-1]) for each in found if each[:-1] == place[:-1] and each[-1] not in value)


def _place(problem: ErrorDetails, value: Any) -> Location:
    """Return where a problem is, without the tags that pydantic puts in for the members of a union.

    What is not in ``value`` is a tag, unless it is the last part and missing. Where the key is wrong or missing that
    says which of several records this is, the place is that key's.
    """
    path: list[int | str] = []
    parts = problem["loc"]
    for position, part in enumerate(parts):
        known = _has(value, part)
        if known:
            value = value[part]
        if known or (problem["type"] == "missing" and position == len(parts) - 1):
            path.append(part)
    if problem["type"].startswith("union_tag"):
        path.append(key_of(problem["ctx"]))
    return tuple(path)
