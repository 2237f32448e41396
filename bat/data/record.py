"""What each source gives: labels at once, pixels when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Samples in the order of their source. A sample's place in it is its index and never changes.

    labels: (n,) int64, from 0; ``pixels`` reads rows, (m,) int64, as (m, c, h, w) uint8, so that only what a split
    takes is decoded; files: the name of each sample's file, where it has one of its own.
    """

    labels: Tensor
    pixels: Callable[[Tensor], Tensor]
    files: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A data set before any split.

    ``test`` is the official test part; a source without one is a single pool. Label i is class ``class_names[i]``; a
    pixel's value in [0, 1] is its byte / pixel_max. ``notes`` are for the log: what a reader might not expect.
    """

    train: Samples
    test: Samples | None
    class_names: tuple[str, ...]
    pixel_max: int
    notes: tuple[str, ...] = ()
