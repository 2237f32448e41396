"""Tables to figures: each function takes DataFrames and returns a matplotlib Figure."""

from bat.report.figures.findings import finding_a, finding_b
from bat.report.figures.memorization import gallery, harmful_gallery, memorization
from bat.report.figures.style import save
from bat.report.figures.tradeoff import influence, overfitting, tradeoff
from bat.report.figures.training import curves, weights

__all__ = [
    "curves",
    "finding_a",
    "finding_b",
    "gallery",
    "harmful_gallery",
    "influence",
    "memorization",
    "overfitting",
    "save",
    "tradeoff",
    "weights",
]
