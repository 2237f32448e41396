"""What says that a training failed: one line with what was found, and what to change."""

from collections.abc import Sequence

import numpy as np

from bat.statistics import Counts, Floats, majority_share, near_chance


def failure(accuracy: float, losses: Sequence[float], labels: Counts, *, recipe: str) -> str | None:
    """Return what is wrong with a trained model, in one line; None where nothing is.

    accuracy: clean, on the training samples, after the last epoch; losses: of each epoch; labels: (n,) of the training
    samples; recipe: the key of the config that holds the recipe.
    """
    still = _standing(losses)
    constant = f"the loss is {losses[-1]:.3g} since epoch {still}" if still else ""
    chance = majority_share(labels)
    if near_chance(accuracy, chance):
        found = f"clean training accuracy {100 * accuracy:.1f} % is near chance ({100 * chance:.1f} %)"
        return f"{found}{', and ' * bool(still)}{constant}: the model did not train; {_remedy(recipe)}"
    # a model without any error left has nothing more to learn
    if still and accuracy < 1:
        return (
            f"{constant}, with clean training accuracy {100 * accuracy:.1f} %: training stood still; {_remedy(recipe)}"
        )
    return None


def failed_subsets(own: Floats, labels: Counts, *, recipe: str) -> str | None:
    """Return how many subset models are near chance on the samples that they were trained on, in one line.

    own: (models,), accuracy on these; labels: (n,); None where each model trained.
    """
    chance = majority_share(labels)
    failed = np.array([near_chance(accuracy, chance) for accuracy in own])
    if not failed.any():
        return None
    accuracy = f"mean accuracy {100 * own[failed].mean():.1f} %, chance {100 * chance:.1f} %"
    return (
        f"{failed.sum()} of {len(own)} subset models are near chance on their own training samples ({accuracy}): "
        f"they did not train, and scores from them mean nothing; {_remedy(recipe)}"
    )


def _standing(losses: Sequence[float]) -> int | None:
    """Return the epoch, from 1, since which the loss stands still to a thousandth; None if not in the last half."""
    values = np.asarray(losses)
    last = values[-1]
    moved = np.abs(values - last) > 1e-3 * np.abs(last)
    first = int(moved.nonzero()[0].max(initial=-1)) + 1
    return first + 1 if len(values) - first >= max(3, len(values) / 2) else None


def _remedy(recipe: str) -> str:
    change = f"lower {recipe}.learning_rate or raise {recipe}.schedule.warmup"
    return f"{change}; raise {recipe}.epochs where the loss still falls"
