"""The user's own parts, by module:function: found and digested without being run, called, and told in one line.

A part is a program of the user's: what it does is not held in by anything here.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import site
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bat.config.strict import STRICT
from bat.errors import BatError, Stopped, in_words, is_out_of_memory

Option = bool | int | float | str
Options = dict[Annotated[str, Field(min_length=1, max_length=60)], Option]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Own:
    """What each record of an own part has."""

    entries: ClassVar[tuple[str, ...]] = ("name",)
    """The fields that name functions."""

    options: Options = Field(default_factory=dict, description="Keyword arguments of the function: numbers and texts.")
    code: str = Field(
        default="", max_length=64, description="Digest of that code, which is filled in: an edit reruns what runs it."
    )

    @model_validator(mode="after")
    def _digested(self) -> "Own":
        if not self.code:
            named = [getattr(self, field) for field in self.entries]
            object.__setattr__(self, "code", code_digest(*(entry for entry in named if entry and ":" in entry)))
        return self


def code_digest(*entries: str) -> str:
    """Return a hash of the code of functions, each module:function, found from the working directory or installed.

    Of an installed package the module's file and the version; else the module's file, and where the module is in a
    package all Python files of that. Nothing is imported.

    Raises:
        ValueError: there is no such module, it is no Python, or the function's name does not stand in it.
    """
    digest = hashlib.sha256()
    for entry in entries:
        module, _, name = entry.partition(":")
        top, file = _found(module)
        if file and file.suffix == ".py":
            _check_source(file, name)
        files = [file] if file else []
        if installed := any(file and file.is_relative_to(folder) for folder in _installed()):
            packages = metadata.packages_distributions().get(module.partition(".")[0], [])
            digest.update(" ".join(metadata.version(package) for package in sorted(set(packages))).encode())
        elif top.is_dir():
            files = sorted(top.rglob("*.py"))
        for each in files:
            place = each.name if installed else each.relative_to(top.parent).as_posix()
            digest.update(f"{place} ".encode(errors="surrogateescape") + hashlib.sha256(each.read_bytes()).digest())
    return digest.hexdigest()


def own_function(
    entry: str, form: str, *, taken: int = 0, keywords: tuple[str, ...] = (), part: Own | None = None
) -> Callable[..., Any]:
    """Import the function ``entry``, module:function, and return it as one whose errors are told in one line.

    It must take so many positional arguments and these keywords, and the options of ``part``, which it is given.
    ``form`` says in errors what is wanted.

    Raises:
        BatError: the module or function is missing, fails, takes other arguments, or has changed since ``part``.
    """
    module_name, colon, name = entry.partition(":")
    if not (colon and module_name and name) or module_name.startswith("."):
        raise BatError(f"{entry}: no such file, and no module:function either: {form}")
    here = str(Path.cwd())
    if here not in sys.path:  # as it is for ``python -m bat``
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    with users_code(f"{entry}: the module {module_name} cannot be imported, from {here} or an installed package", form):
        module = importlib.import_module(module_name)
    with users_code(f"{entry}: no {name} in module {module_name}", form):
        function = getattr(module, name)
    if not callable(function):
        raise BatError(f"{entry}: is a {type(function).__name__}, not a function: {form}")
    options: Mapping[str, Any] = part.options if part else {}
    try:
        inspect.signature(function).bind(*[None] * taken, **dict.fromkeys(keywords), **options)
    except TypeError as error:
        wants = f"the function does not take what it is given ({error})" if taken or keywords else None
        raise BatError(f"{entry}: {wants or f'the function wants arguments ({error})'}: {form}") from error
    except ValueError:  # one of C code, that does not say
        pass
    if part:
        _check_unchanged(part)

    def called(*given: Any, **named: Any) -> Any:
        with users_code(f"{entry}: the function fails", form):
            return function(*given, **named)

    return partial(called, **options)


@contextmanager
def users_code(doing: str, hint: str = "") -> Iterator[None]:
    """Turn whatever the user's code raises into one line; ``doing`` says what it was to do."""
    try:
        yield
    except (BatError, KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f", {Path(last.filename).name} line {last.lineno}"
        message = f"{doing} ({in_words(error)}{place})" + (f": {hint}" if hint else "")
        raise BatError(message) from error


def _check_unchanged(part: Own) -> None:
    entries = [entry for entry in (getattr(part, field) for field in part.entries) if entry and ":" in entry]
    try:
        now = code_digest(*entries)
    except (ValueError, OSError) as error:
        raise BatError(f"{', '.join(entries)}: {error}") from error
    if now != part.code:
        raise BatError(
            f"{', '.join(entries)}: the code was edited after this run was planned: give the same command again "
            "(and remove the key code where a config has one)"
        )


def _found(module: str) -> tuple[Path, Path | None]:
    """Return the file or folder of a module's first name, and the module's own file, None for a folder without one."""
    importlib.invalidate_caches()
    places = [str(Path.cwd()), *sys.path]
    top, file, name = Path(), None, ""
    for part in module.split("."):
        first, name = not name, f"{name}.{part}" if name else part
        # by its last name: the whole one of a folder without __init__.py is looked up among what is imported
        spec = PathFinder.find_spec(part, places) or (_otherwise_found(name) if first else None)
        if spec is None:
            raise ValueError(f"no module {name}, neither in {Path.cwd()} nor installed: correct the name")
        places = list(spec.submodule_search_locations or [])
        if first:
            if not (places or spec.has_location):
                raise ValueError(f"{name} is a module of Python itself: give one of your own")
            top = Path(places[0] if places else str(spec.origin))
        file = Path(spec.origin) if spec.has_location and spec.origin else None
    return top, file


def _otherwise_found(name: str) -> ModuleSpec | None:
    """Return where a module is that no folder of the path holds, as one that is installed to be edited."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _installed() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]


def _check_source(file: Path, name: str) -> None:
    content = file.read_bytes()
    try:
        ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{file.name} is no Python that runs ({error}): fix it") from error
    if not re.search(rf"\b{re.escape(name)}\b".encode(), content):
        raise ValueError(f"{file.name} has no {name}: correct the name, or write the function")
