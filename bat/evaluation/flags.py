"""Signs that a robust accuracy may be too high, as data: a number, its limit, and whether it is over."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from bat.attacks.gradient import ascent, cross_entropy
from bat.config import Attack
from bat.data.dataset import Part
from bat.models import attackable
from bat.training.measure import clean_logits

_LOOKED_AT = 512
"""Samples behind the flags that need forward passes of their own."""

_ALONE = 4
"""Samples that are also passed one by one."""

_FLAGS = {
    # flag: (limit, what a value over it means)
    "training_mode": (0.0, "the model came in training mode; it was evaluated in evaluation mode"),
    "softmax_outputs": (0.0, "the outputs are probabilities: attacks on logits lose their gradients; give logits"),
    "random_forward": (
        1e-4,
        "two passes of the same images differ by this share of the logits' spread: attack the expectation instead",
    ),
    "batch_dependent": (
        1e-3,
        "the same images in other batches differ by this share of the logits' spread: "
        "the result depends on the batch size; give a model that looks at each image alone",
    ),
    "nonfinite_outputs": (0.0, "images at which an attack made the outputs NaN or infinite; they count as broken"),
    "zero_gradients": (0.01, "share of images without any gradient: gradient attacks fail; trust Square alone"),
    "square_gain": (0.2, "points that Square took after the gradient attacks: gradients may be masked"),
    "pgd_gap": (5.0, "points of PGD accuracy over robust accuracy: PGD alone overestimates"),
}


class Probe(NamedTuple):
    """What a model says of the unperturbed images, before any attack.

    logits: (n, classes); random, mixed: by how much of the logits' spread they differ in a second pass and in other
    batches, NaN where the first says that nothing can be known of the second.
    """

    logits: Tensor
    random: float
    mixed: float


def probe(model: nn.Module, part: Part, batch_size: int) -> Probe:
    """Look at what a model says of the unperturbed images of ``part``, before any attack.

    Other batches of the first images: in reversed order and half the size, or two where it was one; a few images alone.

    Raises:
        BatError: some outputs are not finite.
    """
    logits = clean_logits(model, part, batch_size)
    first = _first(part)
    said = logits[: len(first)]
    random = _difference(clean_logits(model, first, batch_size), said)
    size = min(batch_size, len(part))
    backwards = torch.arange(len(first), device=part.labels.device).flip(0)
    others = clean_logits(model, first.take(backwards), max(size // 2, 1) if size > 1 else 2).flip(0)
    alone = clean_logits(model, first.take(backwards.flip(0)[:_ALONE]), 1)
    mixed = max(_difference(others, said), _difference(torch.cat([alone, said[_ALONE:]]), said))
    return Probe(logits, random, float("nan") if is_random(random) else mixed)


def is_random(difference: float) -> bool:
    """Return whether outputs that differ by so much of their spread are random."""
    return not difference <= _FLAGS["random_forward"][0]


def find_flags(
    model: nn.Module,
    part: Part,
    samples: pd.DataFrame,
    *,
    ensemble: Sequence[Attack],
    batch_size: int = _LOOKED_AT,
    before: Probe,
    nonfinite: int,
) -> pd.DataFrame:
    """Return one row per flag: flag, value, limit, raised, meaning. A flag that could not be measured has no value.

    samples: the table of ``sample_table`` for all of ``part`` and ``ensemble``; before: what ``probe`` found of it
    before the attacks; nonfinite: samples that were broken by outputs that are not finite. The limit of square_gain is
    AutoAttack's own.
    """
    training = any(module.training for module in model.modules())
    first = _first(part)
    rows = torch.split(torch.arange(len(first), device=first.labels.device), batch_size)
    with attackable(model):
        passes = [ascent(model, first.images(some), first.labels[some], cross_entropy) for some in rows]
    again = torch.cat([logits for _, logits, _ in passes])
    values = {
        "training_mode": float(training),
        "softmax_outputs": float(_probabilities(again)),
        # also of a model that the attacks have changed
        "random_forward": max(before.random, _difference(again, before.logits[: len(first)])),
        "batch_dependent": before.mixed,
        "nonfinite_outputs": float(nonfinite),
        "zero_gradients": float(torch.cat([_vanishes(gradient) for _, _, gradient in passes]).double().mean()),
        "square_gain": _taken(samples, "square", [attack.name for attack in ensemble]),
        # of whole numbers, so that a difference of the limit itself is not over it by rounding
        "pgd_gap": 100 * int(samples["pgd_correct"].sum() - samples["robust_correct"].sum()) / len(samples),
    }
    table = [(flag, values[flag], limit, values[flag] > limit, meaning) for flag, (limit, meaning) in _FLAGS.items()]
    return pd.DataFrame(table, columns=["flag", "value", "limit", "raised", "meaning"])


def _first(part: Part) -> Part:
    return part.take(torch.arange(min(len(part), _LOOKED_AT), device=part.labels.device))


def _vanishes(gradient: Tensor) -> Tensor:
    """Return which images have a gradient of 0 in all pixels: (n,) bool."""
    return (gradient.flatten(1) == 0).all(1)


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two models' logits as a share of their spread around each image's mean."""
    spread = float((other - other.mean(1, keepdim=True)).abs().max())
    difference = float((one - other).abs().max().nan_to_num(nan=torch.inf))
    return difference / spread if spread else difference


def _probabilities(outputs: Tensor) -> bool:
    sums = outputs.sum(1)
    # as loose as sums of probabilities in bfloat16
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 5e-3).all())


def _taken(samples: pd.DataFrame, attack: str, ensemble: Sequence[str]) -> float:
    """Return how many points of accuracy an attack took after others before it; NaN without it or without these."""
    if attack not in ensemble[1:]:
        return float("nan")
    return 100 * int((samples["broken_by"] == attack).sum()) / len(samples)
