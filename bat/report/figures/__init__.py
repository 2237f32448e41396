"""Tables to figures: each function takes DataFrames and returns a matplotlib Figure."""

from bat.report.figures.differences import controls, differences
from bat.report.figures.findings import finding_a, finding_b
from bat.report.figures.memorization import adversarial, gallery, harmful_gallery, memorization
from bat.report.figures.style import save
from bat.report.figures.tradeoff import influence, overfitting, tradeoff, typical_atypical
from bat.report.figures.training import curves, weights

__all__ = [
    "adversarial",
    "controls",
    "curves",
    "differences",
    "finding_a",
    "finding_b",
    "gallery",
    "harmful_gallery",
    "influence",
    "memorization",
    "overfitting",
    "save",
    "tradeoff",
    "typical_atypical",
    "weights",
]
