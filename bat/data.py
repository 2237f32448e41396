"""Data sets as tensors, their splits, and augmentation on tensors."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from bat.config import Data
from bat.errors import BatError
from bat.seeds import generator
from bat.sources import open_source


@dataclass(frozen=True)
class Part:
    """Samples of one split.

    pixels: (n, c, h, w) uint8; labels: (n,) int64; index: (n,) int64, each sample's place in its source, for ever.
    A pixel's value in [0, 1] is ``pixels / pixel_max``.
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    pixel_max: int

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the images of ``rows`` as float32 (n, c, h, w) in [0, 1]."""
        return self.pixels[rows].float() / self.pixel_max

    def take(self, rows: Tensor) -> "Part":
        """Return the samples of ``rows``."""
        return Part(self.pixels[rows], self.labels[rows], self.index[rows], self.pixel_max)

    def to(self, device: torch.device) -> "Part":
        """Return the same samples on ``device``."""
        return Part(self.pixels.to(device), self.labels.to(device), self.index.to(device), self.pixel_max)


@dataclass(frozen=True)
class DataSet:
    """The three splits of a data set. The validation samples are held out of training."""

    train: Part
    validation: Part
    test: Part
    classes: int

    def parts(self) -> dict[str, Part]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def digest(self) -> str:
        """Return a hash of all that the data set holds."""
        digest = hashlib.sha256(f"{self.classes} {self.train.pixel_max}".encode())
        for part in self.parts().values():
            for tensor in (part.pixels, part.labels, part.index):
                digest.update(f"{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> "DataSet":
        """Return the same data set on ``device``."""
        return DataSet(self.train.to(device), self.validation.to(device), self.test.to(device), self.classes)


def load_source(data: Data) -> DataSet:
    """Read the data set that ``data`` names from its source and split it.

    Raises:
        BatError: it cannot be read, or holds too few samples for the split.
    """
    source = open_source(data)
    samples = source.train
    held = data.train_samples + data.validation_samples
    if held >= len(samples.labels):
        raise BatError(
            f"data: train_samples + validation_samples is {held}, but {data.name} has {len(samples.labels)} images: "
            "lower them so that test samples are left"
        )
    order = stratified_order(samples.labels, data.split_seed)
    # in the source's order within each split, so that tables are sorted by index
    train, validation, test = (
        Part(samples.pixels(rows), samples.labels[rows], rows, source.pixel_max)
        for rows in (part.sort().values for part in order.tensor_split([data.train_samples, held]))
    )
    return DataSet(train, validation, test, classes=len(source.class_names))


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return an order of all samples in which each prefix has nearly the class shares of the whole.

    Each class is shuffled, and its k-th of m samples gets the place (k + u) / m with one random u a class.
    labels: (n,) int64. Returns (n,) int64 positions.
    """
    random = generator("split", seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=random)]
        start = torch.rand(1, generator=random, dtype=torch.float64)
        place[shuffled] = (torch.arange(len(members), dtype=torch.float64) + start) / len(members)
    return torch.argsort(place, stable=True)


def augment(x: Tensor, *, crop_padding: int, flip: bool, random: torch.Generator) -> Tensor:
    """Crop each image at random after zero padding, and mirror it with probability 1/2.

    x: (n, c, h, w) in [0, 1]; ``crop_padding`` in pixels, 0 for no crop. ``random`` lives on the device of ``x``.
    """
    n, _, height, width = x.shape
    if crop_padding:
        offset = torch.randint(2 * crop_padding + 1, (2, n), generator=random, device=x.device)
        rows = offset[0, :, None] + torch.arange(height, device=x.device)
        columns = offset[1, :, None] + torch.arange(width, device=x.device)
        padded = torch.nn.functional.pad(x, [crop_padding] * 4).permute(0, 2, 3, 1)
        sample = torch.arange(n, device=x.device)[:, None, None]
        x = padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(n, generator=random, device=x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x.contiguous()
