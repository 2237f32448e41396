"""A user's own images: train/ and test/, each with a folder a class."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bat.config import ImageFolder
from bat.errors import BatError
from bat.sources.decoding import Look, listed, read_images, size_of
from bat.sources.record import Samples, Source

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_SYSTEM = {"thumbs.db", "desktop.ini"}  # as names that begin with a dot: the system's files, not the user's


def open_source(data: ImageFolder, *, threads: int) -> Source:
    """List the files. Class i is the i-th folder by name; an index is a file's place by class, then by name.

    Names are compared by code point, in Unicode's normal form C, so that the order does not depend on the system.

    Raises:
        BatError: a folder is missing, a file has no class or is no image, or a class has no training image.
    """
    root = Path(data.path).expanduser()
    train, test = (_files(root, part) for part in ("train", "test"))
    problems = [f"{name!a} ({problem})" for name in train + test if (problem := _problem(name))]
    if problems:
        raise BatError(f"{data.path}: {len(problems)} files cannot be used: {listed(problems)}: move them away")
    classes = sorted({_normal(folder.name) for part in ("train", "test") for folder in _folders(root / part)})
    missing = sorted(set(classes) - {_class(name) for name in train})
    if missing:
        raise BatError(f"{data.path}: train has no image of class {listed(missing)}: add some, or remove the folders")
    if not test:
        raise BatError(f"{data.path}: test has no image: move some of train there")
    label = {name: number for number, name in enumerate(classes)}
    look = _look(data, root, train)

    def samples(names: Sequence[str]) -> Samples:
        labels = torch.tensor([label[_class(name)] for name in names])
        return Samples(labels, _reader(root, names, look, threads), tuple(names))

    return Source(samples(train), samples(test), class_names=tuple(classes), pixel_max=255)


def _folders(part: Path) -> list[Path]:
    return [entry for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _files(root: Path, part: str) -> list[str]:
    """List the files of a part in their order, as paths below ``root`` with slashes."""
    if not (root / part).is_dir():
        raise BatError(
            f"{root}: has no folder {part}: data.path is a folder with train and test, each a folder a class"
        )
    names = []
    for folder, below, files in os.walk(root / part, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        names += [
            (Path(folder) / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".") and name.lower() not in _SYSTEM
        ]
    return sorted(names, key=lambda name: (_class(name), _normal(name), name))


def _class(name: str) -> str:
    """Return the class folder of a file."""
    return _normal(name.split("/")[1])


def _normal(name: str) -> str:
    # a folder copied from macOS spells é as e with an accent: still the same class
    return unicodedata.normalize("NFC", name)


def _problem(name: str) -> str | None:
    if not name.isprintable():
        return "its name holds what cannot be printed"
    if name.count("/") < 2:
        return "in no class's folder"
    if Path(name).suffix.lower() not in _ENDINGS:
        return "not the ending of an image"
    return None


def _look(data: ImageFolder, root: Path, names: Sequence[str]) -> Look:
    channels = {"rgb": 3, "grey": 1}[data.colour]
    if data.size is not None:
        return Look((channels, data.size, data.size), resize=True)
    for name in names:
        try:
            return Look((channels, *size_of((root / name).read_bytes())), resize=False)
        except Exception:  # damaged: read_images says so, with all others
            continue
    raise BatError(f"{data.path}: train has no image that can be read: give other files")


def _reader(root: Path, names: Sequence[str], look: Look, threads: int) -> Callable[[Tensor], Tensor]:
    def pixels(rows: Tensor) -> Tensor:
        chosen = [names[row] for row in rows]
        return read_images(chosen, lambda name: (root / name).read_bytes(), look, threads=threads)

    return pixels
