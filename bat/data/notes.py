"""What the log says of a user's own images: nothing is wrong, but it may not be what was meant."""

from collections.abc import Sequence

from torch import Tensor

LISTED = 20  # items that a line names

NO_TEST = "no {}: a stratified part of {} is the test set (data.test_samples), and its indices are places there"


def listed(items: Sequence[str]) -> str:
    """Join the first items, and count the others."""
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return ", ".join(items[:LISTED]) + more


def without_test(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return a line on the classes that have no test image. labels: (n,) of the test part."""
    there = set(labels.tolist())
    absent = [name for label, name in enumerate(class_names) if label not in there]
    if not absent:
        return []
    return [f"{len(absent)} of {len(class_names)} classes have no test image: {listed(absent)}"]


def copies(pairs: Sequence[tuple[str, str]], tests: int) -> list[str]:
    """Return a line on test images that are training images too, as (test, training) names."""
    if not pairs:
        return []
    test, train = pairs[0]
    return [
        f"{len(pairs)} of {tests} test images are copies of training images, byte for byte; first {test}, of {train}: "
        "accuracy on them says nothing about new images"
    ]
