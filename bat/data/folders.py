"""A user's own images: train/ and, where there is one, test/, each with one folder per class."""

import hashlib
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bat.config import ImageFolder
from bat.data.decoding import Look, read_file, read_images, size_of
from bat.data.notes import NO_TEST, copies, listed, without_test
from bat.data.record import Samples, Source
from bat.errors import BatError
from bat.io.given import located, open_file, reason, status

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# what systems and programs leave behind, as names that begin with a dot: not the user's
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_SYSTEM_FOLDERS = {
    "@eadir",  # thumbnails of Synology
    "@tmp",
    "#recycle",
    "#snapshot",
    "@recycle",  # QNAP
    "@recently-snapshot",
    "$recycle.bin",  # Windows
    "recycler",
    "system volume information",
    "__macosx",
    "lost+found",
    "__pycache__",
}


@dataclass
class _Listing:
    """The files of a part as paths below the root with slashes, sizes in bytes, what is left out, and what is wrong."""

    files: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def open_folder(data: ImageFolder, *, threads: int) -> Source:
    """List the files. Class i is the i-th folder by name; an index is a file's place by class, then by name.

    Names are compared by code point, in Unicode's normal form C, so that the order does not depend on the system.

    Raises:
        BatError: a folder is missing, a file has no class or is no image, or a class has no training image.
    """
    root = located(data.path)
    train = _list(data.path, root, "train")
    test = _list(data.path, root, "test") if os.path.lexists(root / "test") else None
    parts = [train] if test is None else [train, test]
    problems = [problem for part in parts for problem in part.problems]
    if problems:
        raise BatError(f"{data.path}: {len(problems)} files cannot be used: {listed(problems)}: move them away")
    classes = sorted({_normal(name) for part in parts for name in part.folders})
    there = {_class(name) for name in train.files}
    missing = [_with_twin(name, there) for name in classes if name not in there]
    if missing:
        raise BatError(f"{data.path}: train has no image of class {listed(missing)}: add some, or remove the folders")
    if test is not None and not test.files:
        raise BatError(f"{data.path}: test has no image: move some of train there")
    label = {name: number for number, name in enumerate(classes)}
    look = _look(data, root, train.files)

    def samples(names: Sequence[str]) -> Samples:
        labels = torch.tensor([label[_class(name)] for name in names])
        return Samples(labels, _reader(root, names, look, threads), tuple(names))

    notes = _left_out(parts) + _twins(parts)
    if test is None:
        tests = None
        notes.append(NO_TEST.format("folder test", "train"))
    else:
        tests = samples(test.files)
        notes += without_test(tests.labels, classes) + copies(_copies(root, train, test), len(test.files))
    return Source(samples(train.files), tests, class_names=tuple(classes), pixel_max=255, notes=tuple(notes))


def _list(path: str, root: Path, part: str) -> _Listing:
    """List the files of a part in their order."""
    try:
        if not stat.S_ISDIR((root / part).stat().st_mode):
            raise NotADirectoryError
    except (OSError, ValueError) as error:
        why = "" if isinstance(error, FileNotFoundError | NotADirectoryError) else f" ({reason(error)})"
        raise BatError(
            f"{path}: has no folder {part}{why}: data.path is a folder with train and, if any, test, "
            "each with one folder per class"
        ) from error
    found = _Listing()
    # folders to read, each with those that hold it, by device and number: a link can lead back to one
    todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [(part, ())]
    while todo:
        folder, above = todo.pop()
        try:
            place, names = (root / folder).stat(), [entry.name for entry in (root / folder).iterdir()]
        except OSError as error:
            found.problems.append(f"{folder!a} ({reason(error)})")
            continue
        here = (place.st_dev, place.st_ino)
        if here in above:
            found.problems.append(f"{folder!a} (a link to a folder that holds it)")
            continue
        below = [name for name in sorted(names) if _sort_in(found, root, folder, name)]
        todo += [(f"{folder}/{name}", (*above, here)) for name in below]
        if folder == part:
            found.folders = below
    found.files.sort(key=lambda name: (_class(name), _normal(name), name))
    return found


def _sort_in(found: _Listing, root: Path, folder: str, name: str) -> bool:
    """Add a name in a folder to where it belongs, and return whether it is a folder to be read."""
    path = f"{folder}/{name}"
    is_folder = _is_folder(root / path)
    if name.startswith(".") or name.lower() in (_SYSTEM_FOLDERS if is_folder else _SYSTEM_FILES):
        if is_folder:
            found.left_out.append(path)
        return False
    if not is_folder:
        try:
            problem, size = _problem(path), status(root / path).st_size
        except (OSError, ValueError) as error:
            problem, size = _what(root / path, error), 0
        if problem:
            found.problems.append(f"{path!a} ({problem})")
        else:
            found.files.append(path)
            found.sizes[path] = size
    return is_folder


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):  # told where the file is asked for
        return False


def _what(path: Path, error: Exception) -> str:
    return "a link to nothing" if isinstance(error, FileNotFoundError) and path.is_symlink() else reason(error)


def _class(name: str) -> str:
    """Return the class folder of a file."""
    return _normal(name.split("/")[1])


def _normal(name: str) -> str:
    # a folder copied from macOS spells é as e with an accent: still the same class
    return unicodedata.normalize("NFC", name)


def _alike(name: str) -> str:
    """Return what two names share that are easily taken for one: case, width and forms of letters, blanks."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def _with_twin(name: str, there: Iterable[str]) -> str:
    twin = next((other for other in sorted(there) if _alike(other) == _alike(name)), None)
    return name if twin is None else f"{name} (but of {twin})"


def _problem(name: str) -> str | None:
    if not name.isprintable():
        return "its name holds what cannot be printed"
    if name.count("/") < 2:
        return "in no class's folder"
    if Path(name).suffix.lower() not in _ENDINGS:
        return "not the ending of an image"
    return None


def _left_out(parts: Sequence[_Listing]) -> list[str]:
    names = [repr(name) for part in parts for name in part.left_out]
    return [f"left out, as hidden or the system's: {listed(names)}"] if names else []


def _twins(parts: Sequence[_Listing]) -> list[str]:
    """Return a line on class folders whose names are easily taken for one."""
    alike = defaultdict(set)
    for part in parts:
        for name in part.folders:
            alike[_alike(name)].add(name)
    notes = []
    for names in alike.values():
        if len(names) > 1:
            classes = len(set(map(_normal, names)))
            folders = " and ".join(ascii(name) for name in sorted(names))
            notes.append(
                f"the folders {folders} differ by case, blanks or the form of letters only: they are {classes} "
                f"class{'es' if classes > 1 else ''}"
            )
    return notes


def _copies(root: Path, train: _Listing, test: _Listing) -> list[tuple[str, str]]:
    """Return the test files whose bytes a training file has, each with the first such file."""
    common = set(train.sizes.values()) & set(test.sizes.values())
    of: dict[bytes, str] = {}
    for name in train.files:
        if train.sizes[name] in common:
            of.setdefault(_digest(root / name), name)
    return [
        (name, of[digest])
        for name in test.files
        if test.sizes[name] in common and (digest := _digest(root / name)) in of
    ]


def _digest(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError):  # reading it as an image says so, where a split takes it
        return os.fsencode(path)


def _look(data: ImageFolder, root: Path, names: Sequence[str]) -> Look:
    channels = {"rgb": 3, "grey": 1}[data.colour]
    if data.size is not None:
        return Look((channels, data.size, data.size), resize=True)
    for name in names:
        try:
            return Look((channels, *size_of(read_file(root / name))), resize=False)
        except Exception:  # damaged: read_images says so, with all others
            continue
    raise BatError(f"{data.path}: train has no image that can be read: give other files")


def _reader(root: Path, names: Sequence[str], look: Look, threads: int) -> Callable[[Tensor], Tensor]:
    def pixels(rows: Tensor) -> Tensor:
        chosen = [names[row] for row in rows]
        return read_images(chosen, lambda name: read_file(root / name), look, threads=threads)

    return pixels
