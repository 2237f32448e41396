"""What all files have in common: they appear whole or not at all, and carry their provenance."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bat import __version__
from bat.errors import BatError

KEY = "bat"
"""The metadata key under which each file carries the JSON of its provenance."""


def provenance(kind: str, **facts: Any) -> str:
    """Return the JSON that a file of ``kind`` carries: the package version and ``facts`` such as the stage's spec."""
    return json.dumps({"kind": kind, "version": __version__} | facts, sort_keys=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it to ``path`` when all went well.

    Raises:
        BatError: the file cannot be written (a full disk, a missing right); an existing file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise BatError(f"{path}: cannot be written ({error}): make room or choose another folder") from error
    finally:
        with suppress(OSError):  # a folder that is none must not hide the error above
            temporary.unlink(missing_ok=True)


def check_kind(path: str | Path, about: str | None, kind: str) -> dict[str, Any]:
    """Return the provenance of a file, or raise BatError when it is not of ``kind``."""
    try:
        facts: dict[str, Any] = dict(json.loads(about)) if about else {}
    except (TypeError, ValueError) as error:
        raise BatError(f"{path}: its metadata is damaged: remove it and run its stage again") from error
    if facts.get("kind") != kind:
        raise BatError(f"{path}: holds {facts.get('kind', 'nothing of this package')}, not {kind}: give another file")
    return facts
