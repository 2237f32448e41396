"""The paths and numbers that a subcommand is given, looked at before its work starts."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bat.errors import BatError
from bat.io.given import located

_TABLES = ("memorization", "influence", "train_influence", "test_groups", "validation_groups")
_OUTPUTS: dict[str, tuple[str, ...]] = {
    "download": ("out",),
    "data": ("out", "files"),
    "subsets": ("out",),
    "scores": _TABLES,
    "null-pairs": ("out",),
    "import-scores": _TABLES,
    "train": ("best", "last", "records"),
    "groups": ("histories", "samples"),
    "harmful": ("out",),
    "robust-scores": ("robust_memorization", "robust_influence", "robust_effects"),
    "evaluate": ("out", "flags", "images"),
    "summary": ("per_sample", "by_seed", "summary", "comparisons", "all_flags", "raised"),
    "attack": ("out", "flags", "images"),
    "figure": ("out",),
    "results": ("markdown", "latex", "out"),
    "schema": ("out",),
}
_NO_PATHS = {"spec", "norm", "ensemble", "device", "architecture", "config", "methods"}


def checked(stage: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a subcommand with ``~`` in their paths resolved.

    Raises:
        BatError: a number is out of its range; an output is also an input or another output, is a folder, has the
            ending of another format, or cannot be written; or a name is no UTF-8 text.
    """
    _check_numbers(options)
    options = {name: _expanded(name, value) if name not in _NO_PATHS else value for name, value in options.items()}
    outputs = list(_named(options, (*_OUTPUTS.get(stage, ()), "log")))
    paths = [name for name, value in options.items() if name not in _NO_PATHS and isinstance(value, str | list)]
    inputs = list(_named(options, [name for name in paths if name not in (*_OUTPUTS.get(stage, ()), "log")]))
    for flag, path in inputs:
        # npz files, which Python itself opens, may have any name
        if (stage, flag) != ("attack", "data"):
            _check_text(flag, path, path)
    taken = {Path(path).resolve(): flag for flag, path in inputs}
    for flag, path in outputs:
        _check_output(stage, flag, path)
        if (place := Path(path).resolve()) in taken:
            raise BatError(f"--{flag} and --{taken[place]} are both {path}: give each its own file")
        taken[place] = flag
    return options


def _check_numbers(options: dict[str, Any]) -> None:
    most = max(256, os.cpu_count() or 1)
    for name, low, high in (
        ("threads", 1, most),
        ("batch_size", 1, 2**31 - 1),
        ("seed", 0, 2**63 - 1),
        ("checkpoint_minutes", 0, 10**9),
    ):
        if name in options and not low <= options[name] <= high:
            raise BatError(f"--{name.replace('_', '-')} {options[name]}: give a whole number from {low} to {high}")


def _expanded(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(name, each) for each in value]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise BatError(f"--{name}: a path cannot hold the character 0")
    try:
        return str(located(value)) if value.startswith("~") else value
    except BatError as error:
        raise BatError(f"--{name} {error}") from error


def _named(options: dict[str, Any], names: Any) -> Iterator[tuple[str, str]]:
    for name in names:
        value = options.get(name)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str):
                yield name.replace("_", "-"), path


def _check_text(flag: str, path: str, name: str) -> None:
    """Refuse a name that the libraries of Parquet and safetensors cannot be told: as of bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BatError(
            f"--{flag} {path}: the name of the file or of its folder is no text in UTF-8: rename it, or set a locale "
            "of UTF-8, as LC_ALL=C.UTF-8"
        ) from error


def _endings(stage: str, flag: str) -> tuple[str, ...]:
    """Return the endings that an output may have: its format's."""
    if flag in ("images", "best", "last") or (stage, flag) == ("data", "out"):
        return (".safetensors",)
    special = {
        ("figure", "out"): (".pdf", ".svg", ".png"),
        ("summary", "raised"): (".csv",),
        ("results", "markdown"): (".md",),
        ("results", "latex"): (".tex",),
        ("results", "out"): (".md",),
        ("schema", "out"): (".yaml", ".yml"),
        ("download", "out"): (".json",),
    }
    return special.get((stage, flag), (".parquet",))


def _check_output(stage: str, flag: str, path: str) -> None:
    where = Path(path)
    try:
        if where.is_dir():
            raise BatError(f"--{flag} {path}: is a folder: give the name of a file")
        if flag != "log":
            _check_text(flag, path, str(where.absolute()))
        endings = _endings(stage, flag)
        if flag != "log" and where.suffix.lower() not in endings:
            raise BatError(f"--{flag} {path}: give a name that ends in {' or '.join(endings)}, as its format is")
        folder = where.absolute().parent
        # as long as the names of what is kept beside a file while it is written
        where.with_name(f".{where.name}.parts.{os.getpid():08d}.tmp").exists()
        while not folder.exists():
            folder = folder.parent
        # not os.access, which tells root that all can be written
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        hint = "choose another log" if flag == "log" else "choose another folder or name"
        raise BatError(f"--{flag} {path}: cannot be written ({error.strerror}): {hint}") from error
