"""A user's own arrays: an npz file with x_train, y_train and, where there are any, x_test and y_test."""

import hashlib
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bat.config import Npz
from bat.data.notes import NO_TEST, copies, without_test
from bat.data.record import Samples, Source
from bat.errors import BatError
from bat.io.npz import Arrays, as_labels, open_npz, read_array

KEYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays of a data set."""

_DIM = 64  # of 255: images whose brightest pixel is below it are said to be dark


def open_arrays(data: Npz) -> Source:
    """Read the file; an index is the row in the arrays of its part.

    x: uint8 (n, h, w), (n, c, h, w) or (n, h, w, c), c = 1 or 3; y: integers (n,), classes from 0 without gaps.
    ``class_names``, one text a class, is optional; without it, a class is named by its number.

    Raises:
        BatError: the file is missing, damaged, or holds something else.
    """
    with open_npz(data.path) as file:
        missing = [key for key in keys_of(file) if key not in file]
        if missing:
            raise BatError(
                f"{data.path}: has no {', '.join(missing)}: add what is missing (found: {file.listed() or 'nothing'})"
            )
        arrays = {key: read_array(file, key) for key in (*KEYS, "class_names") if key in file}
    return source_of(arrays, data.path)


def keys_of(found: Arrays | Mapping[str, Any]) -> tuple[str, ...]:
    """Return the arrays that there must be: those of a test part where there is one of them, as one alone is a slip."""
    return KEYS if "x_test" in found or "y_test" in found else KEYS[:2]


def source_of(arrays: Mapping[str, NDArray[Any]], where: str) -> Source:
    """Return what arrays hold, as ``open_arrays`` says, and raise as it does; ``where`` names them in errors."""
    there = [key.removeprefix("x_") for key in KEYS if key in arrays and key[0] == "x"]
    pixels = {part: _pixels(arrays[f"x_{part}"], f"{where}: x_{part}") for part in there}
    if len({images.shape[1:] for images in pixels.values()}) > 1:
        shapes = " and ".join(str(tuple(images.shape)) for images in pixels.values())
        raise BatError(f"{where}: x_train and x_test hold images of different shapes, {shapes}: make them alike")
    labels = {part: as_labels(arrays[f"y_{part}"], len(pixels[part]), f"{where}: y_{part}") for part in pixels}
    present = np.unique(labels["train"])
    classes = int(max(array.max() for array in labels.values())) + 1
    gap = next((number for number, label in enumerate(present) if label != number), len(present))
    if gap < classes:
        raise BatError(f"{where}: y_train has no class {gap}, but the highest is {classes - 1}: number them anew")
    names = _class_names(arrays.get("class_names"), classes, where)
    samples = {part: _samples(pixels[part], labels[part]) for part in there}
    return Source(
        samples["train"], samples.get("test"), names, pixel_max=255, notes=tuple(_notes(pixels, labels, names))
    )


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
    if images.max() <= 1:
        raise BatError(f"{where} has pixels from {images.min()} to {images.max()} only: give pixels from 0 to 255")
    return images


def _class_names(names: NDArray[Any] | None, classes: int, path: str) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(classes)))
    if names.dtype.kind != "U" or names.shape != (classes,):
        raise BatError(
            f"{path}: class_names is {names.dtype} of shape {names.shape}: give {classes} texts, one a class"
        )
    # numpy keeps numbers that are no characters, of which Python makes no text
    if np.ascontiguousarray(names).view(np.uint32).max(initial=0) > sys.maxunicode:
        raise BatError(f"{path}: class_names is damaged: give {classes} texts, one a class")
    texts = [unicodedata.normalize("NFC", str(name)) for name in names]
    times = Counter(texts)
    odd = next((text for text in texts if not text.strip() or not text.isprintable() or times[text] > 1), None)
    if odd is not None:
        raise BatError(f"{path}: class_names has {odd!r}, which is empty, twice there or not printable: name it anew")
    return tuple(texts)


def _samples(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Samples:
    return Samples(torch.from_numpy(labels), lambda rows: torch.from_numpy(pixels[rows.numpy()]).contiguous())


def _notes(
    pixels: dict[str, NDArray[np.uint8]], labels: dict[str, NDArray[np.int64]], names: tuple[str, ...]
) -> list[str]:
    top = int(pixels["train"].max())
    dark = [f"no pixel of x_train is over {top}, of 255: the images are dark"] if top < _DIM else []
    if "test" not in pixels:
        return [*dark, NO_TEST.format("x_test", "x_train")]
    rows = {_digest(image): row for row, image in reversed(list(enumerate(pixels["train"])))}
    digests = map(_digest, pixels["test"])
    copied = [(f"row {row}", f"row {rows[digest]}") for row, digest in enumerate(digests) if digest in rows]
    return [*dark, *without_test(torch.from_numpy(labels["test"]), names), *copies(copied, len(labels["test"]))]


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
