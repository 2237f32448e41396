"""Image files to pixels."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from bat.errors import BatError

_BLOCK = 64  # images a task: few enough to keep all threads busy to the end
_LISTED = 20  # files that an error names


@dataclass(frozen=True)
class Look:
    """What each image becomes: shape is (c, h, w), c = 3 for colour and 1 for grey.

    With ``resize`` an image of another size is cut to the wanted proportions at its centre and scaled (bicubic, with
    antialiasing); without, it is refused.
    """

    shape: tuple[int, int, int]
    resize: bool


def read_images(names: Sequence[str], read: Callable[[str], bytes], look: Look, *, threads: int) -> Tensor:
    """Decode files, in parallel, straight into one tensor (n, c, h, w) uint8.

    ``read`` returns the bytes of a file and may be called by several threads at once.

    Raises:
        BatError: naming the files that are damaged or odd, and why.
    """
    pixels = torch.empty((len(names), *look.shape), dtype=torch.uint8)
    array = pixels.numpy()

    def block(first: int) -> list[str]:
        problems = []
        for row in range(first, min(first + _BLOCK, len(names))):
            try:
                array[row] = decode(read(names[row]), look)
            except Exception as error:  # decoders raise whatever damaged bytes lead them to
                problems.append(f"{names[row]} ({_reason(error)})")
        return problems

    with ThreadPoolExecutor(threads) as pool:
        problems = [problem for found in pool.map(block, range(0, len(names), _BLOCK)) for problem in found]
    if problems:
        raise BatError(f"data: {len(problems)} of {len(names)} files cannot be used: {listed(problems)}: mend them")
    return pixels


def decode(content: bytes, look: Look) -> NDArray[np.uint8]:
    """Return one image as (c, h, w) uint8.

    Grey, palette and other modes are converted by Pillow (grey is its luma, 0.299 R + 0.587 G + 0.114 B); transparency
    is dropped; of 16 bits the upper 8 are kept; an EXIF orientation is applied.

    Raises:
        ValueError: the image is of another size, an animation, or of a kind that has no such pixels.
    """
    channels, height, width = look.shape
    with Image.open(BytesIO(content)) as image:
        _refuse_animation(image)
        upright = _eight_bits(ImageOps.exif_transpose(image))
        pixels = upright.convert("RGB" if channels == 3 else "L")
    if pixels.size != (width, height):
        if not look.resize:
            raise ValueError(f"{pixels.width} x {pixels.height} pixels, not {width} x {height}")
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)


def size_of(content: bytes) -> tuple[int, int]:
    """Return height and width of an image as it is seen upright.

    Raises:
        ValueError, OSError: it is not an image.
    """
    with Image.open(BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
        return upright.height, upright.width


def listed(items: Sequence[str]) -> str:
    """Join the first items, and count the others."""
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def _refuse_animation(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    # MPO: what some cameras write, a JPEG followed by a preview of it
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"{frames} frames")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image that Pillow converts without clipping."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 1 << 16:
            raise ValueError("more than 16 bits a pixel")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    # a palette's transparency is lost without a warning only by way of RGBA
    return image.convert("RGBA") if image.mode == "P" else image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__
