"""Memorization in adversarial training: scores, benign adversarial training, evaluation, figures.

The public API is ``load``, ``attack``, ``memorization`` and ``bat_weights``. Each imports what it needs when first
named. All else may move between versions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bat.evaluation.direct import attack_model as attack
    from bat.report.experiment import load_experiment as load
    from bat.scores.estimators import memorization_scores as memorization
    from bat.training.losses import bat_weights

__version__ = "0.2.0"

__all__ = ["__version__", "attack", "bat_weights", "load", "memorization"]

_PLACES = {
    "attack": ("bat.evaluation.direct", "attack_model"),
    "bat_weights": ("bat.training.losses", "bat_weights"),
    "load": ("bat.report.experiment", "load_experiment"),
    "memorization": ("bat.scores.estimators", "memorization_scores"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, public = _PLACES[name]
    return getattr(import_module(module), public)
