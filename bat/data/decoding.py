"""Image files to pixels."""

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from bat.data.notes import listed
from bat.errors import BatError
from bat.io.given import check_memory, open_file, reason, status

LARGEST_IMAGE = 80_000_000
"""Pixels of an image; a larger one is refused before it is decoded."""
LARGEST_FILE = 1 << 30
"""Bytes of an image file."""

# no other decoder of Pillow sees a user's file: PostScript, for one, would be run by Ghostscript
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_BLOCK = 64  # images a task: few enough to keep all threads busy to the end
_WHITE = 65535  # of 16 bits
_DARK = 4096  # 16-bit pixels that are all below it have 12 bits or fewer, or are almost black
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_MAXIMA, _TIFF_SAMPLES = 258, 262, (341, 281), 339
_DEPTHS = {(1 << bits) - 1 for bits in range(8, 17)}  # a largest value that says how many bits are used
_DO = "save them with 8 bits, or over all of 0 to 65535"


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
        BatError: naming the files that are damaged or odd, and why; or there is no memory for so many.
    """
    channels, height, width = look.shape
    size = len(names) * channels * height * width
    check_memory(size, f"data: {len(names)} images of {width} x {height} pixels", "lower data.size or subsample")
    pixels = torch.empty((len(names), *look.shape), dtype=torch.uint8)
    array = pixels.numpy()

    def block(first: int) -> tuple[list[str], list[tuple[int, str]]]:
        problems, deep = [], []
        for row in range(first, min(first + _BLOCK, len(names))):
            try:
                array[row], largest = decode(read(names[row]), look)
            except Exception as error:  # decoders raise whatever damaged bytes lead them to
                problems.append(f"{names[row]} ({_reason(error)})")
            else:
                if largest is not None:
                    deep.append((largest, names[row]))
        return problems, deep

    # here, since the filter is one for all threads; a file whose metadata are odd still has its pixels
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        found = list(pool.map(block, range(0, len(names), _BLOCK)))
    problems = [problem for block_problems, _ in found for problem in block_problems]
    if problems:
        raise BatError(f"data: {len(problems)} of {len(names)} files cannot be used: {listed(problems)}: fix them")
    largest, name = max((item for _, deep in found for item in deep), default=(_WHITE, ""))
    if largest <= _WHITE // 2:
        raise BatError(
            f"data: images of 16 bits use less than half of them, their largest value is {largest} ({name}), and they "
            f"would be dark: {_DO}"
        )
    return pixels


def decode(content: bytes, look: Look) -> tuple[NDArray[np.uint8], int | None]:
    """Return one image as (c, h, w) uint8, and its largest value where that is one of 16 bits by the file's word only.

    Grey, palette and other modes are converted by Pillow (grey is its luma, 0.299 R + 0.587 G + 0.114 B); transparency
    is dropped; an EXIF orientation is applied. Of more than 8 bits, white is what the file says (PGM's maxval; TIFF's
    BitsPerSample, or a SMaxSampleValue of 2^n - 1), else 65535, of which the upper 8 bits are kept.

    Raises:
        ValueError: the image is too large, of another size, an animation, of a kind that has no such pixels, almost
            black since its bits are fewer than its file's, or flat in 8 bits although it is not in the file.
    """
    channels, height, width = look.shape
    with _opened(content) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":
            # MPO: what some cameras write, a JPEG followed by a preview of it
            raise ValueError("an animation, or of several pages")
        if image.format == "PNG":
            _check_png(content)
        white = _white(image, content)  # before its pixels are loaded, and its tile is gone
        upright = ImageOps.exif_transpose(image)
        shallow, largest = _eight_bits(upright, white)
        pixels = shallow.convert("RGB" if channels == 3 else "L")
        # a palette may hold one colour many times
        if _flat(pixels) and not _flat(shallow if upright.mode in ("P", "PA") else upright):
            raise ValueError("one flat colour in 8 bits, although its file holds more: save what is to be seen")
    if pixels.size != (width, height):
        if not look.resize:
            raise ValueError(f"{pixels.width} x {pixels.height} pixels, not {width} x {height}")
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1), largest


def size_of(content: bytes) -> tuple[int, int]:
    """Return height and width of an image as it is seen upright.

    Raises:
        ValueError, OSError: it is not an image.
    """
    with warnings.catch_warnings(), _opened(content) as image:
        warnings.simplefilter("ignore")
        upright = ImageOps.exif_transpose(image)
        return upright.height, upright.width


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file. Raises OSError or ValueError: it is no file, out of reach or too large."""
    if status(path).st_size > LARGEST_FILE:
        raise ValueError(f"a file of more than {LARGEST_FILE >> 30} GiB")
    with open_file(path) as file:
        return file.read()


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    with Image.open(BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > LARGEST_IMAGE:
            raise ValueError(f"{image.width} x {image.height} pixels, of which {LARGEST_IMAGE:,} are the most")
        yield image


def _check_png(content: bytes) -> None:
    """Compare the checksums of a PNG's chunks; Pillow leaves out those of the pixels."""
    place = 8
    while place < len(content):
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        end = place + 8 + length
        if zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise ValueError("damaged: a checksum differs")
        if kind == b"IEND":
            return
        place = end + 4
    raise ValueError("cut off")


class _White(NamedTuple):
    """What white is in an image of more than 8 bits.

    value: None where the file does not say; stated: the file says just this; zero: it is black that has the value, and
    white is 0; rounded: Pillow rounds colours to 8 bits.
    """

    value: int | None
    stated: bool = False
    zero: bool = False
    rounded: bool = False


def _white(image: Image.Image, content: bytes) -> _White:
    if image.format == "PNG":
        # its samples fill all bits by the standard; sBIT only says how many of them carry information
        return _White(_WHITE if content[24] == 16 else None)
    if image.format == "PPM":
        # Pillow scales by the maxval; of 65535 it is not known whether it was meant
        args = image.tile[0].args  # type: ignore[attr-defined]  # of files alone
        maxval = args[-1] if isinstance(args, tuple) else {"I;16B": _WHITE}.get(str(args))
        return _White(_WHITE, stated=maxval != _WHITE, rounded=True)
    if image.format != "TIFF":
        return _White(None)
    bits, zero = _tag(image, _TIFF_BITS) or 1, _tag(image, _TIFF_PHOTOMETRIC) == 0
    stated = next((value for tag in _TIFF_MAXIMA if (value := _tag(image, tag)) in _DEPTHS), None)
    if bits > 8 and stated is not None:
        return _White(int(stated), stated=True, zero=zero)
    if 8 < bits < 16:
        return _White((1 << bits) - 1, stated=True, zero=zero)
    return _White(_WHITE if bits == 16 and _tag(image, _TIFF_SAMPLES) in (None, 1) else None, zero=zero)


def _tag(image: Image.Image, tag: int) -> Any:
    """Return the first value of a TIFF's tag, None if it has none."""
    value = image.tag_v2.get(tag)  # type: ignore[attr-defined]  # of TIFF images alone
    return value[0] if isinstance(value, tuple) and value else value


def _eight_bits(image: Image.Image, white: _White) -> tuple[Image.Image, int | None]:
    """Return an image that Pillow converts without clipping, and its largest value as ``decode`` does."""
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        low, high = int(values.min()), int(values.max())
        if white.value is None:
            raise ValueError(f"values from {low} to {high}, and nothing says which of them is white: {_DO}")
        if low < 0 or high > white.value:
            raise ValueError(f"values from {low} to {high}, of 0 to {white.value} as its tags say: {_DO}")
        if not white.stated and 0 < high < _DARK:
            raise ValueError(f"16-bit pixels up to {high} only, so almost black: {_DO}")
        if white.zero:
            values = white.value - values
        scaled = values >> 8 if white.value == _WHITE else (values * 255 + white.value // 2) // white.value
        return Image.fromarray(scaled.astype(np.uint8)), None if white.stated else high
    if white.value is not None and image.mode in ("RGB", "RGBA"):
        # Pillow has made 8 bits of each colour: it rounds a PPM's, and keeps the upper ones of others
        top = int(np.asarray(image.convert("RGB")).max())
        high = min(257 * top + 128, _WHITE) if white.rounded else 256 * top + 255
        if white.value != _WHITE:
            raise ValueError(f"colours of 16 bits whose tags say that white is {white.value}: {_DO}")
        if not white.stated:
            if 256 * top < _DARK + 256 * white.rounded:
                raise ValueError(f"16-bit colours of at most {high}, so almost black: {_DO}")
            return image, high
    # a palette's transparency is lost without a warning only by way of RGBA
    return image.convert("RGBA") if image.mode in ("P", "PA") else image, None


def _flat(image: Image.Image) -> bool:
    """Return whether all pixels are the same."""
    values = np.asarray(image)
    return bool((values == values[:1, :1]).all())


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind that is read"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {LARGEST_IMAGE:,} pixels"
    return reason(error)
