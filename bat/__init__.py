"""Memorization in adversarial training: scores, benign adversarial training, evaluation, figures."""

__version__ = "0.2.0"
