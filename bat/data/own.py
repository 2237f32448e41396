"""A data set that a function of the user's own returns."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bat.config import OwnData, own_function, users_code
from bat.data.arrays import KEYS, keys_of, source_of
from bat.data.record import Source
from bat.errors import BatError

_FORM = (
    "give def data(), which returns a dict of arrays x_train, y_train, and where there are any x_test, y_test: images "
    "uint8, or floats in [0, 1], and integers; optionally class_names, a list of texts"
)


DataFunction = Callable[[], Mapping[str, Any]]
"""What a user's data set is returned by: arrays by name."""


def open_own_data(data: OwnData) -> Source:
    """Call the function; an index is the row in the arrays of its part. Floats in [0, 1] become 8 bits.

    Raises:
        BatError: it fails, or returns anything but such arrays.
    """
    where = f"data {data.name}"
    function: DataFunction = own_function(data.name, _FORM, part=data)
    found = function()
    if not isinstance(found, Mapping):
        raise BatError(f"{where}: returned a {type(found).__name__}: {_FORM}")
    missing, unknown = [key for key in keys_of(found) if key not in found], [key for key in found if key not in _KNOWN]
    if missing or unknown:
        raise BatError(
            f"{where}: {f'has no {missing[0]}' if missing else f'has {unknown[0]!r}, which is unknown'}: {_FORM}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for key, value in found.items():
        if key != "class_names" or value is not None:
            with users_code(f"{where}: {key} is no array", _FORM):
                arrays[key] = np.asarray(value)
    for key in arrays.keys() & {"x_train", "x_test"}:
        if arrays[key].dtype.kind == "f":
            arrays[key] = _as_bytes(arrays[key], f"{where}: {key}")
    return source_of(arrays, where)


_KNOWN = (*KEYS, "class_names")


def _as_bytes(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    # those of numbers with a NaN are NaN, which is in no range
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise BatError(f"{where} has values from {images.min():g} to {images.max():g}: give floats in [0, 1], or uint8")
    scaled: NDArray[np.uint8] = np.rint(255 * images).astype(np.uint8)
    return scaled
