"""The one reader of npz files that a user brings. Nothing is ever unpickled.

Each size is compared, before memory is taken for it, with what the array's own header says and with the memory that is
free. Only what ``numpy.savez`` and ``numpy.savez_compressed`` write is read: stored or deflated members.
"""

import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bat.errors import BatError
from bat.io.given import check_memory, located, open_file, reason

_CHUNK = 1 << 20  # bytes a read
_LISTED = 8  # names in a message
_DO = "give a file of numpy.savez"

# what zipfile, zlib and numpy raise on files that are missing, of another format, damaged or too large
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    StructError,
    MemoryError,
    OverflowError,
)


@dataclass(frozen=True)
class Arrays:
    """An open npz file: ``members`` are its arrays by name."""

    path: str | Path
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def listed(self) -> str:
        """Return the names, for a message."""
        names = [name[:40] for name in self.members]
        return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


@contextmanager
def open_npz(path: str | Path) -> Iterator[Arrays]:
    """Open an npz file; a leading ``~`` is the user's home.

    Raises:
        BatError: it is missing, no regular file, no npz, encrypted, or has two arrays of one name.
    """
    with ExitStack() as closed:
        try:
            stream = closed.enter_context(open_file(located(path)))
            start = stream.read(len(npy.MAGIC_PREFIX))
            if not start:
                raise ValueError("empty")
            if start == npy.MAGIC_PREFIX:
                raise ValueError("a single array, .npy")
            archive = closed.enter_context(zipfile.ZipFile(stream))
        except _DAMAGE as error:
            raise BatError(f"{path}: cannot be read as npz ({reason(error)}): {_DO}") from error
        members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in members:
                raise BatError(f"{path}: cannot be read as npz (two arrays named {name[:40]}): {_DO}")
            members[name] = info
        yield Arrays(path, archive, members)


def read_array(arrays: Arrays, name: str) -> NDArray[Any]:
    """Return an array in the machine's byte order.

    Raises:
        BatError: the file has no such array, or it is damaged, encrypted, larger than the memory, of a kind that would
            have to be unpickled, or a table of records.
    """
    if name not in arrays:
        raise BatError(f"{arrays.path}: has no array {name} (it has {arrays.listed() or 'none'}): add it")
    info, where = arrays.members[name], f"{arrays.path}: array {name}"
    if info.flag_bits & 1:
        raise BatError(f"{where} cannot be read as npz (encrypted): {_DO}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BatError(f"{where} cannot be read as npz (compressed by another method than deflate): {_DO}")
    try:
        with arrays.archive.open(info) as stream:
            shape, fortran, dtype = _header(stream)
            size = math.prod(shape) * dtype.itemsize
            held = info.file_size - stream.tell()
            if size != held:
                raise ValueError(f"its header says {size} bytes, but there are {held}")
            check_memory(size, where, "give fewer samples, or a machine with more")
            content = _content(stream, size)
    except _DAMAGE as error:
        raise BatError(f"{where} cannot be read as npz ({reason(error)}): {_DO}") from error
    array: NDArray[Any] = content.view(dtype) if size else np.empty(math.prod(shape), dtype)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def array_shape(arrays: Arrays, name: str) -> tuple[int, ...]:
    """Return the shape of an array, from its header alone. Raises BatError: there is none, or it is damaged."""
    if name not in arrays:
        raise BatError(f"{arrays.path}: has no array {name} (it has {arrays.listed() or 'none'}): add it")
    try:
        with arrays.archive.open(arrays.members[name]) as stream:
            return _header(stream)[0]
    except _DAMAGE as error:
        raise BatError(f"{arrays.path}: array {name} cannot be read as npz ({reason(error)}): {_DO}") from error


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Return shape, Fortran order and dtype of an array, or raise ValueError."""
    with warnings.catch_warnings():
        # numpy says of an array written by Python 2 that it took a little longer
        warnings.simplefilter("ignore", UserWarning)
        try:
            version = npy.read_magic(stream)
            if version > (2, 0):
                raise ValueError(f"format {version[0]}.{version[1]}, which is for records only")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(stream)
        except Exception as error:  # a header is Python text, and numpy raises whatever that leads it to
            raise ValueError(reason(error)) from error
    if dtype.hasobject:
        raise ValueError("objects, which would have to be unpickled: save plain numbers")
    if dtype.kind == "V":
        raise ValueError("records: save an array for each field")
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"the shape {shape}")
    return shape, bool(fortran), dtype


def _content(stream: IO[bytes], size: int) -> NDArray[np.uint8]:
    """Return the next ``size`` bytes, which are all that a stream of zipfile still gives."""
    content = np.empty(size, np.uint8)
    done = 0
    while done < size:
        read = stream.read(min(_CHUNK, size - done))
        if not read:
            raise EOFError("cut off")
        content[done : done + len(read)] = np.frombuffer(read, np.uint8)
        done += len(read)
    stream.read(1)  # to its end, where zipfile compares the checksum
    return content


def as_labels(labels: NDArray[Any], samples: int, where: str) -> NDArray[np.int64]:
    """Return labels as int64.

    Raises:
        BatError: they are no integers from 0, or not one a sample; names ``where``.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (samples,):
        raise BatError(
            f"{where} is {labels.dtype} of shape {labels.shape}: give integers of shape ({samples},), one class per "
            "sample (y.astype(numpy.int64) makes them of whole numbers)"
        )
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high > np.iinfo(np.int64).max:
        raise BatError(f"{where} has the class {low if low < 0 else high}: number the classes from 0")
    return labels.astype(np.int64)
