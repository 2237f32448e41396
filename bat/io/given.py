"""Files that a user names: found, and opened without waiting for anything."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from bat.errors import BatError

_LONGEST = 200  # characters of a library's own words in a message
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def located(path: str | Path) -> Path:
    """Return a path with ``~`` expanded.

    Raises:
        BatError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BatError(f"{path}: no such user: give the whole path, or ./{path} where a name begins with ~") from error


def status(path: Path) -> os.stat_result:
    """Return the status of a regular file, links followed.

    Raises:
        OSError: it is not there, or out of reach. ValueError: it is something else, which is named, or no path.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "something else")
        raise ValueError(f"{kind}, not a file")
    return found


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes. Raises as ``status``: a pipe or device is never opened, nor waited for."""
    status(path)
    return path.open("rb")


def watched(path: str) -> list[str]:
    """Return what is there of a data set's path: its folders train and test, or the file. Stage data tells the rest."""
    try:
        root = located(path)
        return [
            str(place)
            for place in ([root / "train", root / "test"] if root.is_dir() else [root])
            if place.is_dir() or place.is_file()
        ]
    except (BatError, OSError, ValueError):
        return []


def reason(error: BaseException) -> str:
    """Return in one short line why something failed."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def check_memory(size: int, what: str, advice: str) -> None:
    """Raise BatError if ``size`` bytes are more than what is free, caches counted as free; names ``what``."""
    free = free_memory()
    if size > free:
        raise BatError(
            f"{what} would take {size / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free: {advice}"
        )


def free_memory() -> int:
    """Return the bytes that this machine could still give; without Linux's own estimate, all that it has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
