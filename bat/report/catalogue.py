"""Which figures there are, in the order of the report: where each stands, and which experiments have it."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from bat.config import Config, is_weighted, pictured, runs_of

if TYPE_CHECKING:  # what imports matplotlib and torch is imported when a figure is drawn
    from matplotlib.figure import Figure

    from bat.report.given import Given


class Entry(NamedTuple):
    """A figure. module: of ``bat.report.figures``, where ``draw_NAME`` is; heading: of the part of the report."""

    module: str
    heading: str
    is_of: Callable[[Config], bool] = lambda config: True


def _has_weights(config: Config) -> bool:
    return any(is_weighted(method) for method in config.training.methods)


def _has_removal(config: Config) -> bool:
    return config.removal.method is not None


def _has_controls(config: Config) -> bool:
    return any(run.role in ("control", "removal") for run in runs_of(config))


def _has_pictures(config: Config) -> bool:
    return bool(pictured(config))


FIGURES = {
    "differences": Entry("differences", "The trade-off"),
    "tradeoff": Entry("tradeoff", "The trade-off"),
    "typical_atypical": Entry("tradeoff", "The trade-off"),
    "memorization": Entry("memorization", "What is memorized"),
    "gallery": Entry("memorization", "What is memorized"),
    "finding_a": Entry("findings", "What is memorized", _has_removal),
    "curves": Entry("training", "How training went"),
    "overfitting": Entry("tradeoff", "How training went"),
    "weights": Entry("training", "How training went", _has_weights),
    "influence": Entry("tradeoff", "What robustness depends on"),
    "finding_b": Entry("findings", "What robustness depends on", _has_removal),
    "harmful": Entry("memorization", "What robustness depends on", _has_removal),
    "controls": Entry("differences", "What robustness depends on", _has_controls),
    "adversarial": Entry("memorization", "What robustness depends on", _has_pictures),
}


def figures_of(config: Config) -> tuple[str, ...]:
    """Return the names of the figures of an experiment."""
    return tuple(name for name, entry in FIGURES.items() if entry.is_of(config))


def drawing(name: str) -> "Callable[[Given], Figure]":
    """Return the function that draws a figure from the files of an experiment."""
    found: Callable[[Given], Figure] = getattr(
        import_module(f"bat.report.figures.{FIGURES[name].module}"), f"draw_{name}"
    )
    return found
