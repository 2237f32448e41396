"""Tiny ImageNet (Stanford CS231n): 200 classes of 64 x 64 colour images, read from its zip without unpacking.

The test part is the official validation folder, since the labels of the official test images are not published. An
index is the place of a file when each part is sorted by WordNet id, then by file name: the order that public code gets
from one folder per class.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.utils import check_integrity

from bat.config import Cached
from bat.data.decoding import Look, read_images
from bat.data.record import Samples, Source
from bat.errors import BatError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FILE = "tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_TOP = "tiny-imagenet-200"
_LOOK = Look(shape=(3, 64, 64), resize=False)


def open_tiny_imagenet(data: Cached, *, threads: int) -> Source:
    """List the zip in the cache.

    Raises:
        BatError: it is not there, or its checksum is another.
    """
    path = Path(data.cache).expanduser() / FILE
    if not check_integrity(path, MD5):
        raise BatError(f"{path}: no whole copy of tiny_imagenet (MD5 {MD5}): run stage download")
    with zipfile.ZipFile(path) as archive:
        train = sorted(
            (name.split("/")[2], name)
            for name in archive.namelist()
            if name.startswith(f"{_TOP}/train/") and name.endswith(".JPEG")
        )
        annotations = archive.read(f"{_TOP}/val/val_annotations.txt").decode().splitlines()
        words = archive.read(f"{_TOP}/words.txt").decode().splitlines()
    # file name, class and box
    test = sorted((line.split()[1], f"{_TOP}/val/images/{line.split()[0]}") for line in annotations if line)
    ids = sorted({wordnet for wordnet, _ in train})
    names = dict(line.split("\t") for line in words if line)
    # the first of a class's synonyms
    class_names = tuple(names.get(wordnet, wordnet).split(",")[0] for wordnet in ids)
    label = {wordnet: number for number, wordnet in enumerate(ids)}
    samples = (_samples(path, train, label, threads), _samples(path, test, label, threads))
    return Source(*samples, class_names=class_names, pixel_max=255)


def _samples(path: Path, listed: Sequence[tuple[str, str]], label: dict[str, int], threads: int) -> Samples:
    files = tuple(name for _, name in listed)

    def pixels(rows: Tensor) -> Tensor:
        with zipfile.ZipFile(path) as archive:
            return read_images([files[row] for row in rows], archive.read, _LOOK, threads=threads)

    return Samples(torch.tensor([label[wordnet] for wordnet, _ in listed]), pixels, files)
