"""Signs that a robust accuracy may be too high, as data: a number, its limit, and whether it is over."""

import pandas as pd
import torch
from torch import Tensor, nn

from bat.attacks.gradient import ascent, cross_entropy
from bat.data import Part
from bat.evaluation import attackable

_LOOKED_AT = 512
"""Samples behind the flags that need forward passes of their own."""

_FLAGS = {
    # flag: (limit, what a value over it means)
    "training_mode": (0.0, "the model came in training mode; it was evaluated in evaluation mode"),
    "softmax_outputs": (0.0, "the outputs are probabilities: attacks on logits lose their gradients; give logits"),
    "random_forward": (1e-4, "two passes of the same images differ by so much: attack the expectation instead"),
    "zero_gradients": (0.01, "share of images without any gradient: gradient attacks fail; trust Square alone"),
    "square_gain": (0.2, "points that Square took after the gradient attacks: gradients may be masked"),
    "pgd_gap": (5.0, "points of PGD accuracy over robust accuracy: PGD alone overestimates"),
}


def find_flags(model: nn.Module, part: Part, samples: pd.DataFrame) -> pd.DataFrame:
    """Return a row a flag: flag, value, limit, raised, meaning. A flag that could not be measured has no value.

    samples: the table of ``sample_table`` for all of ``part``. The limit of square_gain is AutoAttack's own.
    """
    training = any(module.training for module in model.modules())
    with attackable(model):
        first = torch.arange(min(len(part), _LOOKED_AT), device=part.labels.device)
        x, labels = part.images(first), part.labels[first]
        _, logits, gradient = ascent(model, x, labels, cross_entropy)
        with torch.no_grad():
            again = model(x)
    values = {
        "training_mode": float(training),
        "softmax_outputs": float(_probabilities(logits)),
        "random_forward": float((logits - again).abs().max()),
        "zero_gradients": float((gradient.flatten(1) == 0).all(1).double().mean()),
        "square_gain": _points(samples, "fab_t_correct", "square_correct"),
        "pgd_gap": _points(samples, "pgd_correct", "robust_correct"),
    }
    rows = [(flag, values[flag], limit, values[flag] > limit, meaning) for flag, (limit, meaning) in _FLAGS.items()]
    return pd.DataFrame(rows, columns=["flag", "value", "limit", "raised", "meaning"])


def _probabilities(outputs: Tensor) -> bool:
    sums = outputs.sum(1)
    return bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


def _points(samples: pd.DataFrame, before: str, after: str) -> float:
    """Return by how many points of accuracy ``after`` lies below ``before``; NaN where either was not run."""
    if samples[[before, after]].isna().any(axis=None):
        return float("nan")
    return 100 * float(samples[before].mean() - samples[after].mean())
