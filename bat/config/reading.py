"""Configuration files and JSON to records, and back."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from numbers import Real
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from bat.config.data import ImageFolder, Npz
from bat.config.documents import read_document, read_value, short
from bat.config.experiment import Config
from bat.config.reference import keys_at
from bat.config.scores import FileScores
from bat.config.shorthand import Location, Problem, completed, extended, spelled_out, with_likes
from bat.config.words import key_of, meant, told
from bat.errors import BatError
from bat.io.given import located, reason, status

_T = TypeVar("_T")


def parse(record: type[_T], value: Mapping[str, Any] | str, where: str) -> _T:
    """Build ``record`` from a mapping or a JSON text.

    Raises:
        BatError: a line for each key that is unknown, missing, wrong or there twice, with ``where`` and its place.
    """
    return _built(record, value, lambda _: where)


def load(path: str, *more: str, settings: Sequence[str] = ()) -> Config:
    """Read and check a complete configuration file (YAML).

    The files ``more`` and then ``settings``, each KEY=VALUE with a value in YAML, change it as Snakemake's --configfile
    and --config do; KEY may be dotted, as in memorization.subset_models.

    Raises:
        BatError: a line for each thing that is wrong, with its file or setting and its place in it.
    """
    sources = [(each, read_document(each)) for each in (path, *more)]
    sources += [(f"--config {short(text)}", _setting(text)) for text in settings]
    value = reduce(extended, [spelled_out(document) for _, document in sources])
    return _built(Config, value, lambda location: _source(sources, location))


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


def as_yaml(config: Config) -> str:
    """Return all of a configuration as YAML, defaults included: read again, it is the same."""
    plain = json.loads(json.dumps(with_likes(asdict(config))))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110))


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BatError(f"--config {short(text)}: give KEY=VALUE")
    found: Any = read_value(value, f"--config {short(text)}")
    for part in reversed(key.split(".")):
        found = {part: found}
    return dict(found)


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


def _number(value: Any) -> Any:
    """Return a number of numpy as one of Python's."""
    if isinstance(value, Real):
        return value.item() if hasattr(value, "item") else float(value)
    raise TypeError(f"{short(repr(value))} is no number or text")


def _built(record: type[_T], value: Mapping[str, Any] | str, source: Callable[[Location], str]) -> _T:
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=_number)
        plain = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise BatError(f"{source(())}: nested too deeply") from error
    except (TypeError, ValueError) as error:
        raise BatError(f"{source(())}: not JSON ({error})") from error
    problems: list[Problem] = []
    if record is Config:
        plain, problems = completed(plain)
        text = json.dumps(plain)
    try:
        built = TypeAdapter(record).validate_json(text)
    except ValidationError as error:
        problems += _problems(error, plain, record)
        built = None
    if problems:
        lines = [_line(source, location, message) for location, message in problems[:_MOST_LINES]]
        more = len(problems) - _MOST_LINES
        raise BatError(*lines, *([f"{source(())}: {more} more things are wrong"] if more > 0 else []))
    return cast(_T, built)


_MOST_LINES = 50


def _line(source: Callable[[Location], str], location: Location, message: str) -> str:
    place = ".".join(short(part) for part in location)
    # what several keys show together is told of the whole, and begins with the key to change
    named = re.match(r"[a-z_]+(\.[a-z_]+)+", message) if not location else None
    return f"{source(tuple(named[0].split('.')) if named else location)}: {place + ': ' if place else ''}{message}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{short(key)} is there twice: keep one")
        found[key] = value
    return found


def _problems(error: ValidationError, value: Any, record: Any) -> list[Problem]:
    """Return the places and texts of all problems."""
    found: dict[Location, list[ErrorDetails]] = {}
    for problem in error.errors():
        found.setdefault(_place(problem, value), []).append(problem)
    around = {place[:depth] for place in found for depth in range(len(place))}
    told_of: dict[Location, str] = {}
    guessed: set[Location] = set()
    for place, problems in found.items():
        # a list is also said to be too short where an entry is wrong
        if place in around:
            continue
        # of what kind a record is comes first
        kind = (*place[:-1], "name")
        if problems[0]["type"] == "missing" and place[:-1] != () and place != kind and kind in found:
            continue
        message = told(problems)
        if problems[0]["type"] == "unexpected_keyword_argument":
            *parents, key = place
            guess = meant(key, keys_at(record, value, tuple(parents)))
            message += guess
            guessed |= {(*parents, guess.removeprefix("; did you mean ").rstrip("?"))}
        elif place and isinstance(place[-1], int):
            message = message.replace("missing key", "missing entry")
        told_of[place] = message
    # a misspelt key is missing, too
    return [
        (place, line)
        for place, message in told_of.items()
        for line in message.split("\n")
        if place not in guessed or found[place][0]["type"] != "missing"
    ]


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
