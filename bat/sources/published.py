"""The data sets that torchvision reads: MNIST, Fashion-MNIST, SVHN, CIFAR-10 and CIFAR-100.

An index is the row in the published file of its part; CIFAR-10's five training batches count on.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from bat.config import Cached
from bat.errors import BatError
from bat.sources.record import Samples, Source

_CLASSES: dict[str, Any] = {
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "svhn": SVHN,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
}


def open_source(data: Cached) -> Source:
    """Read a data set from the cache, which is laid out as a ``root`` of torchvision.

    torchvision checks the sums of CIFAR's files, which are pickles, before it loads them, and those of SVHN.

    Raises:
        BatError: no whole copy is there.
    """
    try:
        train, test = (part(data, train=train) for train in (True, False))
        samples = _samples(data.name, train), _samples(data.name, test)
    # what torchvision raises on missing files and on damaged ones without a checksum
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError, LookupError) as error:
        raise BatError(
            f"{data.cache}: no whole copy of {data.name} ({' '.join(str(error).split())}): run stage download"
        ) from error
    return Source(*samples, class_names=_class_names(data.name, train), pixel_max=255)


def part(data: Cached, *, train: bool, download: bool = False) -> Any:
    """Open one part with torchvision, after downloading it where asked."""
    chosen = {"split": "train" if train else "test"} if data.name == "svhn" else {"train": train}
    with warnings.catch_warnings():
        # CIFAR's pickles are of a time when numpy wrote booleans as 0 and 1
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        return _CLASSES[data.name](Path(data.cache).expanduser(), download=download, **chosen)


def unpacked(data: Cached) -> list[Path]:
    """Return the files that torchvision unpacks from archives."""
    kind, cache = _CLASSES[data.name], Path(data.cache).expanduser()
    if issubclass(kind, MNIST):
        return [cache / kind.__name__ / "raw" / archive.removesuffix(".gz") for archive, _ in kind.resources]
    if issubclass(kind, CIFAR10):
        names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
        return [cache / kind.base_folder / name for name in names]
    return []


def _samples(name: str, part: Any) -> Samples:
    labels = torch.as_tensor(part.labels if name == "svhn" else part.targets, dtype=torch.int64)
    pixels = torch.as_tensor(part.data)
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif name != "svhn":  # CIFAR comes with its channels last
        pixels = pixels.permute(0, 3, 1, 2)
    if len(pixels) != len(labels):
        raise ValueError(f"{len(pixels)} images, but {len(labels)} labels")
    return Samples(labels, lambda rows: pixels[rows].contiguous())


def _class_names(name: str, part: Any) -> tuple[str, ...]:
    if name in ("mnist", "svhn"):
        return tuple("0123456789")
    return tuple(part.classes)
