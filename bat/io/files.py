"""What all files have in common: they appear whole or not at all, and carry their provenance and a checksum."""

import errno
import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bat import __version__
from bat.errors import BatError

KEY = "bat"
"""The metadata key under which each file carries the JSON of its provenance."""

_MARK = b"sha256 of all other bytes: "
_NO_SUM = b"0" * 64


def provenance(kind: str, **facts: Any) -> str:
    """Return the JSON that a file of ``kind`` carries: the package version and ``facts`` such as the stage's spec."""
    return json.dumps({"kind": kind, "version": __version__} | facts, sort_keys=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in a folder beside ``path`` and rename it to ``path`` when all went well.

    What killed processes left of their writing ``path`` is removed.

    Raises:
        BatError: the file cannot be written (a full disk, a missing right); an existing file stays as it was.
    """
    path = Path(path)
    # a folder of its own, since safetensors writes to temporary files of its own beside the file that it is given
    folder = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary = folder / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        folder.mkdir()
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # readable as the umask says, whatever wrote it
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            # some file systems tell only now that the disk is full
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BatError(f"{path}: cannot be written ({error}): make room or choose another folder") from error
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            # a signal that came just now: what it cut short is done before it is obeyed
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn errors of the disk, wherever they come from, into BatError: it is full, or may not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise BatError(f"{where}{error.strerror}: make room, or see to the rights of its folder") from error


def remove(path: Path) -> None:
    """Remove a file that is no longer needed, and what killed processes left of their writing it."""
    path.unlink(missing_ok=True)
    _remove_left(path)


def _remove_left(path: Path) -> None:
    """Remove the temporary folders of ``replacing`` for ``path`` whose processes are gone."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    for left in path.parent.iterdir():
        match = name.fullmatch(left.name)
        if match and not _runs(int(match[1])):
            shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def unsealed(about: str) -> str:
    """Return the provenance ``about`` with room for the checksum that ``seal`` fills in."""
    return json.dumps(json.loads(about) | {"checksum": (_MARK + _NO_SUM).decode()})


def seal(path: Path) -> None:
    """Fill in the checksum of a file whose metadata is of ``unsealed``: of all its bytes but the sum's own."""
    with path.open("r+b") as file:
        place, _, found = _sums(path)
        file.seek(place)
        file.write(found)


def check_seal(path: str | Path) -> str | None:
    """Return the checksum that a file carries, None for a file without one.

    Raises:
        BatError: the file has other bytes than those that were written.
        OSError: it cannot be read.
    """
    place, stored, found = _sums(path)
    if place < 0:
        return None
    if stored != found:
        raise BatError(f"{path}: damaged: it differs from its checksum: remove it and run its stage again")
    return (_MARK + stored).decode()


def _sums(path: str | Path) -> tuple[int, bytes, bytes]:
    """Return where the checksum of a file is (-1: nowhere), the one that is there, and that of its bytes."""
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return -1, b"", b""
        # mapped, not copied: a data set may be as large as the memory
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            start = content.find(_MARK)
            if start < 0:
                return -1, b"", b""
            start += len(_MARK)
            end = start + len(_NO_SUM)
            sum_ = hashlib.sha256(view[:start])
            sum_.update(view[end:])
            return start, bytes(view[start:end]), sum_.hexdigest().encode()


def check_kind(path: str | Path, about: str | None, kind: str, checksum: str | None) -> dict[str, Any]:
    """Return the provenance of a file whose ``checksum`` is that of ``check_seal``.

    Raises:
        BatError: the file is not of ``kind``, has no checksum, or is of another version of this package.
    """
    try:
        facts: dict[str, Any] = dict(json.loads(about)) if about else {}
    except (TypeError, ValueError) as error:
        raise BatError(f"{path}: its metadata is damaged: remove it and run its stage again") from error
    if facts.get("kind") != kind:
        raise BatError(f"{path}: holds {facts.get('kind', 'nothing of this package')}, not {kind}: give another file")
    if facts.get("version") != __version__:
        raise BatError(
            f"{path}: written by version {facts.get('version')} of bat, and this is {__version__}: "
            "remove it and run its stage again"
        )
    if checksum is None or facts.pop("checksum", None) != checksum:
        raise BatError(f"{path}: damaged: it has no checksum: remove it and run its stage again")
    return facts
