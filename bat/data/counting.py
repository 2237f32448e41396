"""The size of a user's own data set, counted without reading its images."""

import os
import warnings
from pathlib import Path

from bat.config.data import Data, ImageFolder, Npz, chosen_classes, drawn_sizes
from bat.errors import BatError
from bat.io.given import located, open_file
from bat.io.npz import array_shape, open_npz

Counted = tuple[tuple[int, int, int], tuple[int, int, int], int]


def counted(data: Data) -> Counted | None:
    """Return the numbers of training, validation and test samples, the shape (c, h, w) of an image, and classes.

    None for what is not there, or is wrong in a way that stage data will tell.
    """
    try:
        if isinstance(data, ImageFolder):
            found = _folder(data)
        elif isinstance(data, Npz):
            found = _arrays(data)
        else:
            return None
    except (BatError, OSError, ValueError, IndexError):
        return None
    pool, test, shape, classes = found
    return drawn_sizes(data, pool, test), shape, classes


def _folder(data: ImageFolder) -> tuple[int, int | None, tuple[int, int, int], int]:
    root = located(data.path)
    parts = {
        part: [
            Path(folder) / name
            for folder, folders, names in os.walk(root / part)
            # as in bat.data.folders: hidden and system folders are left out
            if not folders.sort() and not any(place[:1] in ".@" for place in Path(folder).relative_to(root).parts)
            for name in sorted(names)
            if not name.startswith(".")
        ]
        for part in ("train", "test")
    }
    of = {part: [path.relative_to(root / part).parts[0] for path in paths] for part, paths in parts.items()}
    names = sorted(set(of["train"]))
    if not names:
        raise ValueError("train has no image")
    kept = {names[number] for number in chosen_classes(data.classes, names)}
    pool, test = (sum(name in kept for name in of[part]) for part in ("train", "test"))
    sides = (data.size, data.size) if data.size else _sides(parts["train"][0])
    shape = (3 if data.colour == "rgb" else 1, *sides)
    return pool, test if os.path.lexists(root / "test") else None, shape, len(kept)


def _sides(path: Path) -> tuple[int, int]:
    from PIL import Image

    with warnings.catch_warnings():
        # before the file is opened, which warns of a large image
        warnings.simplefilter("ignore")
        try:
            with open_file(path) as file, Image.open(file, formats=("PNG", "JPEG", "BMP")) as image:
                return image.height, image.width
        except Exception as error:  # Pillow has an error of its own for an image that is far too large
            raise ValueError(f"{path}: no image") from error


def _arrays(data: Npz) -> tuple[int, int | None, tuple[int, int, int], int]:
    with open_npz(data.path) as arrays:
        pool, *shape = array_shape(arrays, "x_train")
        test = array_shape(arrays, "x_test")[0] if "x_test" in arrays else None
    # as in bat.data.arrays
    if len(shape) == 2:
        shape = [1, *shape]
    elif shape[0] not in (1, 3) and shape[2] in (1, 3):
        shape = [shape[2], *shape[:2]]
    channels, height, width = shape
    # labels are not read: classes are hundreds at most
    return pool, test, (channels, height, width), 10
