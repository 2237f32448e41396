"""The data sets that torchvision reads: MNIST, Fashion-MNIST, SVHN, CIFAR-10 and CIFAR-100.

An index is the row in the published file of its part; CIFAR-10's five training batches count on.
"""

import gzip
import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torchvision.datasets import CIFAR10, MNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from bat.config import SOURCES, Cached
from bat.data.record import Samples, Source
from bat.errors import BatError
from bat.io.files import replacing

_RAW_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
}
"""Sums of unpacked files; torchvision has those of the archives alone."""

_RECEIPT = "md5sums.txt"
"""In the folder of unpacked files, their sums as md5sum writes them, once they were compared with archives."""

_FASHION = {"train": 60_000, "t10k": 10_000}
"""Images of Fashion-MNIST, as many of each class, for files whose sums nobody knows."""


def open_published(data: Cached) -> Source:
    """Read a data set from the cache, which is laid out as a ``root`` of torchvision.

    torchvision checks the sums of CIFAR's files, which are pickles, before it loads them, and those of SVHN.

    Raises:
        BatError: no whole copy is there.
    """
    try:
        if issubclass(_kind(data.name), MNIST):
            _check_raw(data)
        train, test = (part(data, train=train) for train in (True, False))
        samples = _samples(data.name, train), _samples(data.name, test)
    # what torchvision raises on missing files and on damaged ones without a checksum
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError, LookupError) as error:
        raise BatError(
            f"{data.cache}: no whole copy of {data.name} ({' '.join(str(error).split())}): run stage download"
        ) from error
    return Source(*samples, class_names=_class_names(data.name, train), pixel_max=255)


def _kind(name: str) -> Any:
    return getattr(torchvision.datasets, SOURCES[name].torchvision)


def part(data: Cached, *, train: bool, download: bool = False) -> Any:
    """Open one part with torchvision, after downloading it where asked."""
    chosen = {"split": "train" if train else "test"} if data.name == "svhn" else {"train": train}
    with warnings.catch_warnings():
        # CIFAR's pickles are of a time when numpy wrote booleans as 0 and 1
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        kind = _kind(data.name)
        if issubclass(kind, MNIST):
            # the unpacked files alone: torchvision would rather take older ones, which have no sums
            kind = type(kind.__name__, (kind,), {"_check_legacy_exist": lambda self: False})
        return kind(Path(data.cache).expanduser(), download=download, **chosen)


def extracted(data: Cached) -> list[Path]:
    """Return the files that torchvision unpacks from archives."""
    kind, cache = _kind(data.name), Path(data.cache).expanduser()
    if issubclass(kind, MNIST):
        names = [archive.removesuffix(".gz") for archive, _ in kind.resources]
        return [cache / kind.__name__ / "raw" / name for name in (*names, _RECEIPT)]
    if issubclass(kind, CIFAR10):
        names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
        return [cache / kind.base_folder / name for name in names]
    return []


def keep_sums(data: Cached) -> None:
    """Write the sums of Fashion-MNIST's files, as its archives have them: these may be removed then. Of others nothing.

    Raises:
        BatError: they cannot be written.
    """
    if data.name == "fashion_mnist" and (sums := _sums_by_archives(data)):
        with replacing(extracted(data)[-1]) as temporary:
            temporary.write_text("".join(f"{md5}  {name}\n" for name, md5 in sums.items()), encoding="utf-8")


def _check_raw(data: Cached) -> None:
    """Raise ValueError unless the unpacked files of MNIST or Fashion-MNIST are those that were published."""
    *files, receipt = extracted(data)
    sums: dict[str, str] | None = _RAW_MD5.get(data.name)
    if sums is None and receipt.exists():
        sums = {name: md5 for md5, _, name in (line.partition("  ") for line in receipt.read_text().splitlines())}
    elif sums is None:
        sums = _sums_by_archives(data)
    if sums is None:
        _check_fashion(data)
        return
    for path in files:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if sums.get(path.name) != found:
            raise ValueError(f"{path.name} has MD5 {found}, not {sums.get(path.name)}")


def _sums_by_archives(data: Cached) -> dict[str, str] | None:
    """Return the sums of what the archives beside the unpacked files hold; None where one is missing."""
    sums = {}
    for archive, md5 in _kind(data.name).resources:
        path = extracted(data)[0].with_name(archive)
        if not path.exists():
            return None
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"{archive} has another MD5 than {md5}")
        sums[archive.removesuffix(".gz")] = hashlib.md5(gzip.decompress(content), usedforsecurity=False).hexdigest()
    return sums


def _check_fashion(data: Cached) -> None:
    """Raise ValueError unless the files have the sizes of Fashion-MNIST, and each class its share."""
    for name, n in _FASHION.items():
        raw = extracted(data)[0].parent
        images = read_image_file(str(raw / f"{name}-images-idx3-ubyte"))
        labels = read_label_file(str(raw / f"{name}-labels-idx1-ubyte"))
        if images.shape != (n, 28, 28) or torch.bincount(labels).tolist() != [n // 10] * 10:
            raise ValueError(
                f"{name}: images {tuple(images.shape)} and labels {torch.bincount(labels).tolist()}, where "
                f"({n}, 28, 28) and {n // 10} of each class are published"
            )


def _samples(name: str, part: Any) -> Samples:
    labels = torch.as_tensor(part.labels if name == "svhn" else part.targets)
    pixels = torch.as_tensor(part.data)
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif name != "svhn":  # CIFAR comes with its channels last
        pixels = pixels.permute(0, 3, 1, 2)
    return Samples(labels, lambda rows: pixels[rows].contiguous())


def _class_names(name: str, part: Any) -> tuple[str, ...]:
    if name in ("mnist", "svhn"):
        return tuple("0123456789")
    return tuple(part.classes)
