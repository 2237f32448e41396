"""A user's own arrays: an npz file with x_train, y_train, x_test and y_test. Nothing is ever unpickled."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bat.config import Npz
from bat.errors import BatError
from bat.sources.record import Samples, Source

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def open_source(data: Npz) -> Source:
    """Read the file; an index is the row in the arrays of its part.

    x: uint8 (n, h, w), (n, c, h, w) or (n, h, w, c), c = 1 or 3; y: integers (n,), classes from 0 without gaps.
    ``class_names``, one text a class, is optional; without it, a class is named by its number.

    Raises:
        BatError: the file is missing, damaged, or holds something else.
    """
    arrays = _read(data.path)
    pixels = {part: _pixels(arrays[f"x_{part}"], f"{data.path}: x_{part}") for part in ("train", "test")}
    if pixels["train"].shape[1:] != pixels["test"].shape[1:]:
        shapes = " and ".join(str(tuple(images.shape)) for images in pixels.values())
        raise BatError(f"{data.path}: x_train and x_test hold images of different shapes, {shapes}: make them alike")
    labels = {part: _labels(arrays[f"y_{part}"], len(pixels[part]), f"{data.path}: y_{part}") for part in pixels}
    present = np.unique(labels["train"])
    classes = int(max(array.max() for array in labels.values())) + 1
    gap = next((number for number, label in enumerate(present) if label != number), len(present))
    if gap < classes:
        raise BatError(f"{data.path}: y_train has no class {gap}, but the highest is {classes - 1}: number them anew")
    train, test = (_samples(pixels[part], labels[part]) for part in ("train", "test"))
    return Source(train, test, _class_names(arrays.get("class_names"), classes, data.path), pixel_max=255)


def _read(path: str) -> dict[str, NDArray[Any]]:
    try:
        # opened here: numpy leaves a damaged file open
        with Path(path).expanduser().open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            missing = [key for key in _KEYS if key not in file]
            if missing:
                raise BatError(f"{path}: has no {', '.join(missing)}: add what is missing (found: {', '.join(file)})")
            return {key: file[key] for key in (*_KEYS, "class_names") if key in file}
    # what numpy raises on files that are missing, of another format, cut or full of objects
    except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        raise BatError(
            f"{path}: cannot be read as npz ({' '.join(str(error).split())}): give a file of numpy.savez"
        ) from error


def _pixels(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return images as (n, c, h, w)."""
    if images.dtype != np.uint8:
        raise BatError(f"{where} is {images.dtype}, not uint8: give pixels from 0 to 255")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = np.moveaxis(images, 3, 1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.size == 0:
        raise BatError(f"{where} has shape {images.shape}: give (n, h, w), (n, c, h, w) or (n, h, w, c), c = 1 or 3")
    return images


def _labels(labels: NDArray[Any], samples: int, where: str) -> NDArray[np.int64]:
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (samples,):
        raise BatError(f"{where} is {labels.dtype} of shape {labels.shape}: give integers of shape ({samples},)")
    if labels.min() < 0:
        raise BatError(f"{where} has the class {labels.min()}: number the classes from 0")
    return labels.astype(np.int64)


def _class_names(names: NDArray[Any] | None, classes: int, path: str) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(classes)))
    if names.dtype.kind != "U" or names.shape != (classes,):
        raise BatError(
            f"{path}: class_names is {names.dtype} of shape {names.shape}: give {classes} texts, one a class"
        )
    return tuple(map(str, names))


def _samples(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Samples:
    return Samples(torch.from_numpy(labels), lambda rows: torch.from_numpy(pixels[rows.numpy()]).contiguous())
