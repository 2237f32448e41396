"""Tables to figures: each function takes DataFrames and returns a matplotlib Figure."""

from bat.figures.findings import finding_a, finding_b
from bat.figures.memorization import gallery, harmful, memorization
from bat.figures.style import save
from bat.figures.tradeoff import influence, overfitting, tradeoff
from bat.figures.training import curves, weights

__all__ = [
    "curves",
    "finding_a",
    "finding_b",
    "gallery",
    "harmful",
    "influence",
    "memorization",
    "overfitting",
    "save",
    "tradeoff",
    "weights",
]
