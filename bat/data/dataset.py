"""Data sets as tensors, their splits, and augmentation on tensors."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bat.config import Data, subsampled
from bat.config.data import chosen_classes, drawn_sizes
from bat.data.sources import Source, open_source
from bat.errors import BatError
from bat.seeds import generator


@dataclass(frozen=True)
class Part:
    """Samples of one split.

    pixels: (n, c, h, w) uint8; labels: (n,) int64; index: (n,) int64, each sample's place in its source.
    A pixel's value in [0, 1] is ``pixels / pixel_max``. Labels and index are on the device that computes; pixels may
    stay in host memory, and images are on the device of the labels all the same.
    """

    pixels: Tensor
    labels: Tensor
    index: Tensor
    pixel_max: int

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the images of ``rows`` as float32 (n, c, h, w) in [0, 1], on the device of the labels."""
        pixels, device = self._pixels(rows), self.labels.device
        if pixels.device != device:
            # as bytes, and from pinned memory, so that the copy is not waited for
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        return pixels.float() / self.pixel_max

    def take(self, rows: Tensor) -> "Part":
        """Return the samples of ``rows``."""
        return Part(self._pixels(rows), self.labels[rows], self.index[rows], self.pixel_max)

    def to(self, device: torch.device, *, with_pixels: bool = True) -> "Part":
        """Return the same samples on ``device``; without pixels these stay where they are."""
        pixels = self.pixels.to(device) if with_pixels else self.pixels
        return Part(pixels, self.labels.to(device), self.index.to(device), self.pixel_max)

    def _pixels(self, rows: Tensor | slice) -> Tensor:
        """Return the pixels of ``rows`` where they lie."""
        if isinstance(rows, slice):
            return self.pixels[rows]
        # copies whole images, and is 10 times as fast as indexing
        return self.pixels.index_select(0, rows.to(self.pixels.device))


@dataclass(frozen=True)
class DataSet:
    """The three splits of a data set. The validation samples are held out of training.

    Label i is class ``class_names[i]``; names are for readers alone, so neither results nor the digest depend on them.
    """

    train: Part
    validation: Part
    test: Part
    classes: int
    class_names: tuple[str, ...] = ()

    def parts(self) -> dict[str, Part]:
        """Return the splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def digest(self) -> str:
        """Return a hash of all that results depend on: pixels, labels, indices and splits."""
        digest = hashlib.sha256(f"{self.classes} {self.train.pixel_max}".encode())
        for part in self.parts().values():
            for tensor in (part.pixels, part.labels, part.index):
                digest.update(f"{tuple(tensor.shape)}".encode())
                # the bytes themselves, not a copy: a data set may be as large as the memory
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> "DataSet":
        """Return the same data set on ``device``; pixels that would crowd its memory stay where they are."""
        size = sum(part.pixels.nbytes for part in self.parts().values())
        with_pixels = fits(size, free_on_device(device))
        parts = {name: part.to(device, with_pixels=with_pixels) for name, part in self.parts().items()}
        return DataSet(**parts, classes=self.classes, class_names=self.class_names)


def free_on_device(device: torch.device) -> int | None:
    """Return the bytes that are free on a GPU now, None for any other device: what is there, lies there."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def fits(size: int, free: int | None) -> bool:
    """Return whether ``size`` bytes of pixels take at most half of ``free`` bytes; training needs the other half."""
    return free is None or size <= free // 2


def load_source(data: Data, *, subsample: float) -> DataSet:
    """Read the data set that ``data`` names from its source and split it. Raises as ``open_source`` and ``split``."""
    return split(open_source(data), data, subsample=subsample)


def split(source: Source, data: Data, *, subsample: float) -> DataSet:
    """Draw the splits of a source, and read the pixels of what they take.

    With ``subsample`` under 1, each split is cut to that fraction, still stratified: a part of the split that 1 gives.

    Raises:
        BatError: the source holds too few samples or classes for the split, or its pixels cannot be read.
    """
    try:
        kept = chosen_classes(data.classes, source.class_names)
    except ValueError as error:
        raise BatError(str(error)) from error
    pools = [_of_classes(samples.labels, kept) for samples in (source.train, source.test) if samples is not None]
    # in the source's order within each split, so that tables are sorted by index
    rows = [order[: subsampled(len(order), subsample)].sort().values for order in _draw(pools, data, len(kept))]
    names = tuple(source.class_names[number] for number in kept)
    (index, all_labels), (test_index, test_labels) = pools[0], pools[-1]
    labels = all_labels[rows[0]]
    absent = [name for label, name in enumerate(names) if not (labels == label).any()]
    if absent:
        raise BatError(
            f"data: {len(absent)} of {len(names)} classes have no training sample, {absent[0]} first: "
            "raise data.train_samples or subsample"
        )
    drawn = [
        (index[rows[0]], labels),
        (index[rows[1]], all_labels[rows[1]]),
        (test_index[rows[2]], test_labels[rows[2]]),
    ]
    wanted = [(source.train, drawn)] if source.test is None else [(source.train, drawn[:2]), (source.test, drawn[2:])]
    parts: list[Part] = []
    problems = []
    for samples, of_splits in wanted:
        places = [each for each, _ in of_splits]
        try:
            # in one call, so that one error names each file that is damaged
            pixels = torch.split(samples.pixels(torch.cat(places)), [len(each) for each in places])
        except BatError as error:
            problems.append(str(error))
        else:
            for images, (chosen, of_chosen) in zip(pixels, of_splits, strict=True):
                parts.append(Part(images, of_chosen, chosen, source.pixel_max))
    if problems:
        raise BatError("; ".join(problems))
    train, validation, test = parts
    return DataSet(train, validation, test, classes=len(names), class_names=names)


def _of_classes(labels: Tensor, kept: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the rows of some classes, and their labels by the order of these classes."""
    anew = torch.full((max(int(labels.max()), *kept) + 1,), -1)
    anew[torch.tensor(kept)] = torch.arange(len(kept))
    rows = (anew[labels] >= 0).nonzero().flatten()
    return rows, anew[labels[rows]]


def _draw(pools: Sequence[tuple[Tensor, Tensor]], data: Data, classes: int) -> list[Tensor]:
    """Return the places in ``pools`` of training, validation and test samples, each in a stratified order.

    pools: rows and labels of the training part and, where there is one, of the test part.
    """
    (_, labels), *others = pools
    samples = len(labels)
    if classes < 2:
        raise BatError(f"data: {data.name} has {classes} class: give images of at least 2")
    train, validation, test = drawn_sizes(data, samples, len(others[0][1]) if others else None)
    held = train + validation
    asked = getattr(data, "test_samples", None)
    if others and asked is not None:
        raise BatError(f"data.test_samples is {asked}, but there is a test part: remove it")
    if not others and (test < 1 or held + test > samples):
        raise BatError(
            f"data: train_samples + validation_samples is {held}, but {data.name} has {samples} images: "
            "lower them so that test samples are left"
        )
    if train < 2 or held > samples:
        raise BatError(
            f"data: train_samples is {data.train_samples} and validation_samples {data.validation_samples}, but the "
            f"training part of {data.name} has {samples} images: lower them"
        )
    order = stratified_order(labels, data.split_seed)
    tests = stratified_order(others[0][1], data.split_seed) if others else order[held : held + test]
    return [order[:train], order[train:held], tests]


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
        place[shuffled] = (torch.arange(len(members)) + start) / len(members)
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
